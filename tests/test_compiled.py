"""Compiling by numba."""

import numpy as np
import pytest

from semiweak import compiled as compiling


def test_a_read_only_installation_still_compiles(monkeypatch):
    real = compiling.numba.njit
    real(lambda x: x)(1)  # loads those parts of numba that use it themselves

    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(compiling.numba, "njit", njit)
    assert compiling.compiled(lambda x: x + 1)(2) == 3


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_sums_in_any_order_keep_nan_and_infinity(value):
    @compiling.compiled_freely
    def total(x):
        found = np.float32(0)
        for i in range(x.size):
            found += x[i]
        return found

    x = np.ones(100, np.float32)
    assert total(x) == 100
    x[40] = value
    assert np.isnan(total(x)) if np.isnan(value) else total(x) == value
