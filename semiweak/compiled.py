"""Compiling by numba, also where its cache cannot be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compiles a function on its first call and keeps the machine code for later processes.

    The cache lies beside the source or, if that is read-only, in the user's cache folder (or in
    ``NUMBA_CACHE_DIR``). With none of them writable the function is compiled once per process.
    """
    return _compile(function)


def compiled_freely(function: F) -> F:
    """As `compiled`, for loops that add up: they may add in any order, and fuse with products.

    So they use the whole width of a CPU's registers. NaN and infinity stay what they are.
    """
    return _compile(function, fastmath={"reassoc", "contract", "nsz"})


def _compile(function: F, **options: Any) -> F:
    try:
        result = numba.njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:  # numba: "cannot cache function: no locator available"
        result = numba.njit(nogil=True, **options)(function)
    return cast(F, result)
