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
    try:
        result = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba: "cannot cache function: no locator available"
        result = numba.njit(nogil=True)(function)
    return cast(F, result)
