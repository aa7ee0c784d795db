"""Splitting a list of images into training, validation and test images."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """The names of the images of each part; disjoint."""

    train: list[str]
    val: list[str]
    test: list[str]


class SplitError(ValueError):
    """The images cannot be split as asked."""


Part = float | int | Sequence[str]
"""A share of the images, a number of images, or their names."""


def split(
    names: Sequence[str],
    eligible: Sequence[str],
    val: Part,
    test: Part,
    *,
    groups: dict[str, str] | None = None,
    seed: int = 0,
) -> Split:
    """Splits at random by seed, or as listed; groups stay together.

    Args:
        names: All images.
        eligible: The images that may go to validation and test, which need a complete mask.
        val: For validation: a share (below 1) of the eligible images, a number of them, or names.
        test: The same for the test.
        groups: The group (sub-volume, patient, plate) of each image. A group goes to one part as a
            whole; a number then counts groups.
        seed: Repeats a split.

    Raises:
        SplitError: A listed name does not exist or is listed twice, there are fewer eligible images
            than asked for, or nothing is left to train on.
    """
    known = set(names)
    listed: list[str] = []
    for what, part in (("val", val), ("test", test)):
        if isinstance(part, str):
            raise SplitError(f"{what} is {part!r}; give a list of image names, a share or a number")
        if isinstance(part, Sequence):
            missing = sorted(set(part) - known)
            if missing:
                raise SplitError(f"{what} lists images that do not exist: {', '.join(missing[:5])}")
            listed.extend(part)
    twice = sorted({name for name in listed if listed.count(name) > 1})
    if twice:
        raise SplitError(f"listed twice in val and test: {', '.join(twice[:5])}")

    group_of = groups or {name: name for name in names}
    taken = {group_of[name] for name in listed}
    pool = sorted({group_of[name] for name in eligible} - taken)
    order = [pool[i] for i in np.random.default_rng(seed).permutation(len(pool))]

    def draw(what: str, part: Part) -> list[str]:
        if not isinstance(part, (int, float)):
            return sorted(part)
        if part < 0:
            raise SplitError(f"{what} is {part:g}; give a share or a number of images >= 0")
        # 0.07 * 100 is a little more than 7.
        count = math.ceil(part * len(pool) - 1e-9) if part < 1 else int(part)
        if part and not 0 < count <= len(order):
            raise SplitError(
                f"{what} is {part:g}, but of the completely painted images (or groups of them) "
                f"{len(order)} are left for it; paint more of them, lower it, or set it to 0 to go "
                f"without (data.{what}: 0)"
            )
        chosen = {order.pop() for _ in range(count)}
        return sorted(name for name in eligible if group_of[name] in chosen)

    held_out = draw("test", test)
    validation = draw("val", val)
    gone = {group_of[name] for name in (*held_out, *validation)}
    train = [name for name in names if group_of[name] not in gone]
    if not train:
        raise SplitError(
            f"of {len(names)} images {len(validation)} go to validation and {len(held_out)} to the "
            "test; none is left to train on: lower val and test"
        )
    return Split(train, validation, held_out)


def cross_validation(
    names: Sequence[str],
    eligible: Sequence[str],
    fold: int,
    num_folds: int,
    *,
    groups: dict[str, str],
    seed: int = 0,
) -> Split:
    """One fold tests, the next one validates, all others train.

    Args:
        names: All images.
        eligible: The images that may validate and test; the others of those folds are left out.
        fold: The fold that tests.
        num_folds: At least 2 and at most the number of groups.
        groups: The group of each image; a group is in one fold.
        seed: Repeats the folds.

    Raises:
        SplitError: A part has no image.
    """
    dealt = folds(list(groups.values()), num_folds, seed)
    test, val = set(dealt[fold]), set(dealt[(fold + 1) % num_folds])
    parts = Split(
        train=[n for n in names if groups[n] not in test | val],
        val=[n for n in eligible if groups[n] in val],
        test=[n for n in eligible if groups[n] in test],
    )
    for what, members in parts._asdict().items():
        if not members:
            raise SplitError(
                f"fold {fold} of {num_folds} has no image for {what}: one fold tests and one "
                "validates with completely painted images, the others train"
            )
    return parts


def folds(groups: Sequence[str], num_folds: int, seed: int = 0) -> list[list[str]]:
    """Deals groups (sub-volumes, patients) out to folds of nearly equal numbers of groups.

    Args:
        groups: The distinct groups.
        num_folds: At least 2 and at most the number of groups.
        seed: Repeats the folds.
    """
    distinct = sorted(set(groups))
    if not 2 <= num_folds <= len(distinct):
        raise SplitError(
            f"num_folds is {num_folds}; with {len(distinct)} groups it must be 2 to {len(distinct)}"
        )
    order = np.random.default_rng(seed).permutation(len(distinct))
    return [sorted(distinct[i] for i in order[fold::num_folds]) for fold in range(num_folds)]


def group_in(name: str, pattern: str | None) -> str | None:
    """The group of an image: what the first parenthesis of ``pattern`` finds in its name.

    Raises:
        ValueError: It finds nothing.
    """
    if pattern is None:
        return None
    match = re.search(pattern, name)
    if match is None or not match.groups():
        raise ValueError(
            f"group_pattern {pattern!r} finds no group in the image name {name!r}; "
            "it needs one parenthesis around the part that names the group"
        )
    return match.group(1)
