"""The compiled kernels; :mod:`svetovid.offload.kernels` checks what it hands them."""

from collections.abc import Sequence

import numpy as np

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]

def paths() -> list[str]: ...
def absmax(path: str, x: Array, threads: int) -> int: ...
def expand(path: str, key: bytes, p: int, out: Array, threads: int) -> None: ...
def mix(
    path: str,
    x: Sequence[Array],
    shift: int,
    rounding: Sequence[bytes],
    qs: Sequence[Array],
    masks: Sequence[bytes],
    p: int,
    outs: Sequence[Array],
    of_masks: Sequence[Sequence[int]],
    of_qs: Sequence[Sequence[int]],
    threads: int,
) -> bool: ...
def combine(
    path: str,
    answers: Sequence[Array],
    coefficients: Sequence[int],
    parts: int,
    p: int,
    shift: int,
    out: Array,
    narrow: Sequence[Array],
    wide: Sequence[Array],
    threads: int,
) -> int: ...
def contract16(
    path: str,
    values: Array,
    k: int,
    length: int,
    weights: Array,
    p: int,
    out: Array,
    threads: int,
) -> None: ...
def contract32(
    path: str,
    values: Array,
    k: int,
    length: int,
    weights: Array,
    p: int,
    out: Array,
    threads: int,
) -> None: ...
