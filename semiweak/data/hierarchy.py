"""Hierarchies of classes: which ones are merged, from an argument or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from semiweak.data.annotations import UNKNOWN, Task
from semiweak.data.merging import Merging

Hierarchy = dict[str, list[str] | str | None]
"""New class: its old classes (or entries); or old class: null, which leaves it out."""


def merging_for(
    task: Task, class_names: Sequence[str] | None, given: Hierarchy | str | None, min_groups: int
) -> Merging:
    """Understands the arguments of a data module.

    Raises:
        ValueError: They cannot be.
    """
    if min_groups < 0:
        raise ValueError(f"min_groups is {min_groups}; it must be 0 or more")
    if task != "semantic" or not class_names:
        what = "merge_classes" if given is not None else "min_groups"
        why = f"task is {task}" if task != "semantic" else "there are no class_names"
        raise ValueError(f"{what} speaks of classes, but {why}; leave it out, or say them")
    return merging_of(class_names, given)


def merging_of(class_names: Sequence[str], given: Hierarchy | str | None) -> Merging:
    """Understands the argument ``merge_classes``.

    Args:
        class_names: The classes of the files.
        given: A hierarchy, or the YAML or JSON file that holds one; None merges nothing.

    Raises:
        ValueError: The file cannot be read, or what it says cannot be; names the file.
    """
    if given is None:
        return Merging(tuple(class_names), tuple(range(len(class_names))))
    try:
        hierarchy = _read(Path(given)) if isinstance(given, str) else given
        return _merge(list(class_names), hierarchy)
    except ValueError as error:
        where = given if isinstance(given, str) else "merge_classes"
        raise ValueError(f"{where}: {error}") from error


def _merge(class_names: list[str], hierarchy: Hierarchy) -> Merging:
    entries = {name: _listed(name, parts) for name, parts in hierarchy.items()}
    left_out = {name for name, parts in entries.items() if parts is None}
    groups = {name: parts for name, parts in entries.items() if parts is not None}
    members = {name: _members(name, groups, class_names, ()) for name in groups}
    inner = {part for name, parts in groups.items() for part in parts if part != name}
    holder: dict[str, str | None] = {}
    for name in left_out:
        if name not in class_names:
            raise ValueError(
                f"{name!r} is left out, but is none of class_names, {', '.join(class_names)}"
            )
        holder[name] = None
    for name in groups:
        for old in members[name] if name not in inner else ():
            if old in holder:
                other = holder[old]
                where = "left out (null)" if other is None else f"in {other!r}"
                raise ValueError(f"the class {old!r} is {where} and in {name!r}; keep one of them")
            holder[old] = name
    for name in groups:
        if name in class_names and name not in holder:
            raise ValueError(
                f"{name!r} is an entry and a class of the files that no entry names; add it to the "
                "list of one, or call the entry something else"
            )
    becomes = [holder.get(old, old) for old in class_names]
    names = list(dict.fromkeys(name for name in becomes if name is not None))
    if not names:
        raise ValueError("every class is left out; keep one at least")
    return Merging(
        tuple(names),
        tuple(UNKNOWN if name is None else names.index(name) for name in becomes),
    )


def _listed(name: Any, parts: Any) -> list[str] | None:
    """The parts of an entry; None leaves a class out."""
    found = [parts] if isinstance(parts, str) else parts
    if found is not None and (not isinstance(found, list) or not found):
        raise ValueError(f"{name!r} is {parts!r}; give the list of its classes, or null")
    for text in (name, *(found or ())):
        if not isinstance(text, str):
            raise ValueError(f"{text!r} is no text; put the names of classes into quotes")
    if found is not None and len(set(found)) < len(found):
        twice = next(part for part in found if found.count(part) > 1)
        raise ValueError(f"{name!r} names the class {twice!r} twice")
    return found


def _members(
    name: str, groups: dict[str, list[str]], class_names: list[str], path: tuple[str, ...]
) -> list[str]:
    """The classes of the files in an entry and in the entries that it names."""
    if name in path:
        raise ValueError(f"the entries run in a circle: {' > '.join((*path, name))}")
    found: list[str] = []
    for part in groups[name]:
        if part != name and part in groups:
            found += _members(part, groups, class_names, (*path, name))
        elif part in class_names:
            found.append(part)
        else:
            raise ValueError(
                f"{name!r} names {part!r}, which is neither an entry nor one of class_names, "
                f"{', '.join(class_names)}"
            )
    return found


def _read(path: Path) -> Hierarchy:
    if not path.is_file():
        raise ValueError("there is no such file; give a YAML or JSON file of classes to merge")
    try:
        text = path.read_text(encoding="utf-8").expandtabs()  # JSON is YAML, but for tabs
        node = yaml.compose(text, yaml.SafeLoader)
        found = yaml.safe_load(text)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cannot be read as YAML or JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(node, yaml.MappingNode):
        raise ValueError("holds no mapping of the form `new class: [old class, old class]`")
    keys = [key.value for key, _ in node.value]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"has two entries {twice[0]!r}; keep one of them")
    return found
