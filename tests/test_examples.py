"""The example configurations and the snippets of README and docs run as they stand."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, real_data

from semiweak.__main__ import main

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ONE_STEP = [
    "--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1",
    "--trainer.limit_val_batches=1", "--trainer.num_sanity_val_steps=0",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
    "--data.num_workers=0",
]  # fmt: skip


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the demo leaves behind after one epoch."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import demo as script
    finally:
        sys.path.pop(0)
    arguments = sys.argv
    sys.argv = ["demo.py", "--out", str(out), "--max_epochs", "1"]
    try:
        script.main()
    finally:
        sys.argv = arguments
    return out


def test_demo_writes_label_images_and_a_picture(demo: Path) -> None:
    new = {path.stem for path in (demo / "new").iterdir()}
    assert {path.stem for path in (demo / "labels").glob("*.png")} == new
    assert (demo / "demo.png").stat().st_size > 10_000
    assert (demo / "annotated.png").stat().st_size > 10_000


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_trains(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    root = []
    data = yaml.safe_load(path.read_text())["data"]
    if data["class_path"] == "VNCDataModule":
        root = [f"--data.root={real_data('vnc_sstem')}"]
    elif data["class_path"] == "MixedAnnotationDataModule":
        root = [f"--data.root={request.getfixturevalue('demo') / 'annotated'}"]
    main(["fit", "--config", str(path), *root, *ONE_STEP])
    assert (tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt").exists()


def snippets(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language; ```text blocks speak of the reader's own files."""
    blocks = re.findall(rf"^( *)```{language}\n(.*?)^ *```", page.read_text(), re.M | re.S)
    return [re.sub(rf"^{indent}", "", block, flags=re.M) for indent, block in blocks]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in snippets(page, "python"):
        exec(compile(block, str(page), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page's commands in turn, in a folder that holds the examples and two new images."""
    commands = [shlex.split(line) for b in snippets(page, "bash") for line in b.splitlines()]
    if not commands:
        return
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "new_images").mkdir()
    from PIL import Image

    from semiweak.data.synthetic import synthetic_sample

    for index in range(2):
        image = synthetic_sample(index, shape=(40, 48)).image[0]
        Image.fromarray(image).save(tmp_path / "new_images" / f"{index}.png")
    for program, command, *options in commands:
        assert program == "semiweak"
        limits = {"fit": ONE_STEP, "inspect": []}.get(command, ["--trainer.accelerator=cpu"])
        main([command, *options, *limits])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_yaml_snippets_are_keys_that_exist() -> None:
    from inspect import signature

    import semiweak

    known = {
        name
        for cls in (
            semiweak.MixedAnnotationDataModule,
            semiweak.data.datamodule.SegmentationDataModule,
        )
        for name in signature(cls).parameters
    } | {"optimizer", "lr_scheduler"}
    blocks = [yaml.safe_load(b) for page in PAGES for b in snippets(page, "yaml")]
    assert blocks
    for block in blocks:
        assert set(block) <= known, block
