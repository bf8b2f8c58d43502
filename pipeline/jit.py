"""Compiled kernels with their types kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def compiled(kernel: Kernel) -> Kernel:
    """The function compiled by numba: cached on disk, without the interpreter lock, in strict floating point.

    Strict means that no sum is reordered and no product fused, so that machines with other vector units give the
    same numbers. A division by zero gives infinity or NaN, as in NumPy, and no exception.
    """
    return cast(Kernel, numba.njit(cache=True, nogil=True, fastmath=False, error_model="numpy")(kernel))
