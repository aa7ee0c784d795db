"""The example configurations and the snippets of README and docs run as they stand."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, real_data
from openorganelle_container import organelles

from semiweak.__main__ import main

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# On the command line 1 would mean all batches: it is read as 1.0, a share.
TWO_STEPS = [
    "--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=2", "--trainer.num_sanity_val_steps=0",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
    "--data.num_workers=0",
]  # fmt: skip


DEMOS = ("demo", "demo_semantic")


@pytest.fixture(scope="session")
def demos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders that the demos leave behind after one epoch."""
    return {name: run_demo(name, tmp_path_factory.mktemp(name) / "demo") for name in DEMOS}


def run_demo(name: str, out: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples"))
        patch.setattr(sys, "argv", [f"{name}.py", "--out", str(out), "--max_epochs", "1"])
        importlib.import_module(name).main()
    return out


@pytest.mark.parametrize("name", DEMOS)
def test_demo_writes_label_images_and_a_picture(demos: dict[str, Path], name: str) -> None:
    out = demos[name]
    new = {path.stem for path in (out / "new").iterdir()}
    assert {path.stem for path in (out / "labels").glob("*.png")} == new
    assert (out / "demo.png").stat().st_size > 10_000
    assert (out / "annotated.png").stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore:contradictory annotations")  # of the DSB
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_trains(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(path.read_text())
    roots = {
        "supervised_folder": lambda: (
            request.getfixturevalue("demos")["demo_semantic"] / "annotated"
        ),
        "dsp_folder": lambda: request.getfixturevalue("demos")["demo_semantic"] / "annotated",
        "spoco_folder": lambda: request.getfixturevalue("demos")["demo"] / "annotated",
        "supervised_vnc": lambda: real_data("vnc_sstem"),
        "supervised_vnc_weak": lambda: real_data("vnc_sstem"),
        "fixmatch_vnc": lambda: real_data("vnc_sstem"),
        "dsp_vnc": lambda: real_data("vnc_sstem"),
        "pseudo_label_vnc": lambda: real_data("vnc_sstem"),
        "dsp_bccd": lambda: real_data("bccd"),
        "fixmatch_bccd": lambda: real_data("bccd"),
        "uda_phc": lambda: real_data("usiigaci_phc"),
        "iic_dsb": lambda: real_data("dsb2018/stage1_train"),
        "spoco_dsb": lambda: real_data("dsb2018/stage1_train"),
        "spoco_vnc": lambda: real_data("vnc_sstem"),
        "spoco_ovules_3d": lambda: real_data("plantseg_3d") / "sample_ovule.h5",
        "supervised_openorganelle": lambda: organelles(tmp_path / "jrc_hela-2.n5"),
    }
    needs_root = "root" in config["data"]["init_args"]
    assert needs_root == (path.stem in roots), "where are the data of this example?"
    root = [f"--data.root={roots[path.stem]()}"] if needs_root else []
    main(["fit", "--config", str(path), *root, *TWO_STEPS])
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
        limits = {"fit": TWO_STEPS, "inspect": []}.get(command, ["--trainer.accelerator=cpu"])
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
