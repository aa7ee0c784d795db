"""The command that compares methods by kind of annotation, on two drawn images."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest

from benchmarks import annotation_types
from benchmarks.annotation_report import hours

DATA = """
class_path: semiweak.SyntheticDataModule
init_args:
  num_train: 4
  num_val: 1
  num_test: 1
  size: 32
  patch_size: 32
  num_workers: 0
"""
METHODS = ("random", "U-Net", "U-Net, batches of masks only", "Con2R", "geodesic branch")
SMALL = ("--steps", "1", "--batch", "2", "--widths", "4", "8", "--accelerator", "cpu")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "data.yaml").write_text(DATA)

    def command(*options: str) -> Path:
        words = ["annotation_types", str(tmp_path / "data.yaml"), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", [*words, *SMALL, "--threads", "1", *options])
        annotation_types.main()
        return tmp_path / "out"

    return command


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_run_is_a_line_and_none_is_done_twice(
    run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--methods", *METHODS, "--others", "none", "points", "--acr", "1", "2", "--seeds")
    out = run(*options, "0")
    rows = rows_of(out)
    assert {(r["method"], r["others"], r["acr"]) for r in rows} == {
        # At ratio 1 all have masks, and there is nothing that a method could ignore.
        *((m, "masks", "1.0") for m in METHODS if m != "U-Net, batches of masks only"),
        *((m, "none", "2.0") for m in METHODS[:3]),
        *((m, "points", "2.0") for m in ("U-Net", "Con2R", "geodesic branch")),
    }
    assert all(0 <= float(r["dice"]) <= 1 for r in rows)
    assert {r["masks"] for r in rows if r["acr"] == "1.0"} == {"4"}
    assert {r["masks"] for r in rows if r["acr"] == "2.0"} == {"2"}
    assert all((int(r["points"]) > 0) == (r["others"] == "points") for r in rows)
    printed = capsys.readouterr().out
    assert "| points | Con2R |  | 0." in printed
    assert "| none | U-Net, batches of masks only |  | 0." in printed
    for plot in ("accuracy.png", "cost.png"):
        picture = cv2.imread(str(out / plot))
        assert picture is not None
        assert picture.std() > 0

    trained = []
    real = annotation_types.train_and_test

    def watched(seed: int, *run_of: Any) -> Any:
        trained.append(seed)
        return real(seed, *run_of)

    monkeypatch.setattr(annotation_types, "train_and_test", watched)
    run(*options, "0", "1")
    assert trained == [1] * len(rows)
    assert len(rows_of(out)) == 2 * len(rows)


def test_the_same_seed_gives_the_same_scores(run: Any) -> None:
    options = ("--methods", "U-Net", "--others", "points", "--acr", "2", "--seeds", "3")
    (file,) = run(*options).glob("*.json")
    first = json.loads(file.read_text())
    file.unlink()
    run(*options)
    again = json.loads(file.read_text())
    assert first["scores"] == again["scores"]
    assert first["annotation"] == again["annotation"]


def test_hours_are_what_the_annotator_is_said_to_take(run: Any) -> None:
    options = ("--methods", "U-Net", "--others", "points", "--acr", "2", "--seeds", "0")
    out = run(*options, "--seconds-per-mask", "600", "--seconds-per-point", "3")
    (row,) = rows_of(out)
    assert float(row["hours"]) == pytest.approx((2 * 600 + int(row["points"]) * 3) / 3600)
    seconds = {"masks": 100.0, "boxes": 10.0, "points": 1.0, "tags": 0.1}
    annotation = {"masks": 1, "boxes": 2, "points": 3, "tags": 40}
    assert hours(annotation, seconds) == pytest.approx(127 / 3600)


def test_another_network(run: Any) -> None:
    options = ("--methods", "Con2R", "--others", "tags", "--acr", "2", "--seeds", "0")
    out = run(*options, "--network", "smp.Unet", "--encoder", "mobilenet_v2")
    assert len(rows_of(out)) == 1


def test_other_arguments_reach_the_method(run: Any) -> None:
    options = ("--methods", "Con2R", "--others", "tags", "--acr", "2", "--seeds", "0")
    with pytest.raises(ValueError, match="contrast_weight"):
        run(*options, "--arguments", '{"contrast_weight": -1.0}')
