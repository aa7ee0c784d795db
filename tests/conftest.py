"""What many tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from semiweak.losses import kernels

# Set before albumentations is first imported: tests must not ask the package index for news.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="session")
def own_cache_folder(tmp_path_factory):
    """What is kept from one training to the next is not kept in the folder of who runs tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small networks are quickest on one thread, above all when other processes use the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def real_data(name: str) -> Path:
    """The folder of a real data set; skips the test where it is not at hand."""
    folder = Path(os.environ.get("SEMIWEAK_DATA", ROOT.parent / "shared" / "data")) / name
    if not folder.is_dir():
        pytest.skip(f"no real data {name}; set SEMIWEAK_DATA to the folder that holds it")
    return folder


@pytest.fixture
def passes(monkeypatch):
    """How often the compiled loops run, forward and backward."""
    called = []
    for name in ("sums", "gradients"):
        function = getattr(kernels, name)

        def record(*args, name=name, function=function):
            called.append(name)
            return function(*args)

        monkeypatch.setattr(kernels, name, record)
    return called
