"""The fused native kernels: what the trusted side does to every number, at memory speed.

A tensor's mask is addressed by position. With ``r`` as the high half of AES-256-CTR's counter block
(NIST SP 800-38A), the low half from 0, its keystream is stream r. The little-endian 32-bit word i
of stream 0, cut to as many bits as the prime has, is residue i of the mask where it is below the
prime; else word i of stream 1 is looked at, and so on. Rounding numbers are little-endian 16-bit
words of stream 0 of the rounding's key, and :mod:`svetovid.offload.quantise` says what is done with
them. So results are the same bits on every instruction set and for any number of threads.

Every function takes ``threads`` and ``path``: ``avx512`` (with vector AES), ``avx2`` (with AES) or
``portable``; the best that the processor has where it is not given. Arrays are C-contiguous and
aligned. While they work, other Python threads run.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import cache
from types import ModuleType

import numpy as np

from svetovid.errors import HostError, InputError, IntegrityError
from svetovid.offload.address import KEY_BYTES
from svetovid.offload.field import M31
from svetovid.offload.quantise import SHIFTS, shift_of

__all__ = ["absmax", "combine", "contract", "expand", "mix", "paths", "share", "shift_of"]

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Small = np.ndarray[tuple[int, ...], np.dtype[np.int16]]
Residues = np.ndarray[tuple[int, ...], np.dtype[np.int32]]
Integers = np.ndarray[tuple[int, ...], np.dtype[np.int32 | np.int64]]

SMALL = 4
"""Coefficients up to this size are added up, others multiplied."""
_SCALES = (-400, 400)
"""Shifts of a product: a float64 holds every integer so scaled."""
_MOST_PARTS = 1 << 22
"""Of centred residues, whose sum a float64 then holds exactly."""
_MOST_MIXED = 8
_MOST_ANSWERS = 64


@cache
def _native() -> ModuleType:
    try:
        from svetovid.offload import _native
    except ImportError as e:
        raise HostError(
            "offload.kernels",
            expected="svetovid's native kernels",
            observed=str(e),
            next_step="install a wheel of this release, or its source where there is g++",
        ) from e
    return _native


@cache
def paths() -> tuple[str, ...]:
    """What this processor can run, the fastest first.

    Raises:
        HostError: ``offload.kernels``: they are not compiled.
    """
    return tuple(_native().paths())


def _on(path: str | None, threads: int) -> str:
    found = paths()
    _require(threads >= 1, "1 thread or more", threads)
    _require(path is None or path in found, " or ".join(found), path)
    return path or found[0]


def _require(holds: bool, expected: str, observed: object) -> None:
    if not holds:
        raise _unfit(expected, observed)


def _unfit(expected: str, observed: object) -> InputError:
    return InputError(
        "offload.arrays",
        expected=expected,
        observed=observed,
        next_step="say what called this: the seam makes no such call",
    )


def _flat(array: Array, dtype: type[np.generic], size: int, *, writable: bool = False) -> Array:
    """The same memory, with one axis."""
    flags = array.flags
    fits = flags.c_contiguous and flags.aligned and (flags.writeable or not writable)
    if not (fits and array.dtype == dtype and array.size == size):
        raise _unfit(
            f"{size:,} numbers of {np.dtype(dtype)}, contiguous and aligned",
            f"{array.shape} of {array.dtype}, strides {array.strides}",
        )
    return array.reshape(-1)


def _prime(p: int) -> int:
    _require(3 <= p < 2**31 and p % 2 == 1, "an odd prime below 2**31", p)
    return p


def _coefficient(value: int, p: int) -> int:
    value = int(value)
    return value if abs(value) <= SMALL else value % p


def _checked(shift: int, within: tuple[int, int]) -> int:
    _require(within[0] <= shift <= within[1], f"a shift within {within}", shift)
    return int(shift)


def _keys(keys: Sequence[bytes]) -> list[bytes]:
    _require(all(len(k) == KEY_BYTES for k in keys), f"keys of {KEY_BYTES} bytes", "others")
    return [bytes(k) for k in keys]


def absmax(x: Floats, *, threads: int = 1, path: str | None = None) -> float:
    """The greatest magnitude, 0 of nothing. Not finite where a number is not."""
    on = _on(path, threads)
    bits = _native().absmax(on, _flat(x, np.float32, x.size), threads)
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def expand(key: bytes, p: int, out: Residues, *, threads: int = 1, path: str | None = None) -> None:
    """Write a mask.

    Args:
        key: of the mask, 32 bytes.
        p: the field's prime.
        out: int32, the residues.
        threads: that share the work.
        path: instruction set.
    """
    on = _on(path, threads)
    to = _flat(out, np.int32, out.size, writable=True)
    _native().expand(on, _keys([key])[0], _prime(p), to, threads)


def share(
    x: Floats,
    shift: int,
    rounding_key: bytes,
    masks: Sequence[bytes],
    p: int,
    q: Small,
    outs: Sequence[tuple[Residues, int, int, int]],
    *,
    threads: int = 1,
    path: str | None = None,
) -> None:
    """Quantise a tensor and share it, in one pass.

    Args:
        x: float32.
        shift: from :func:`shift_of`.
        rounding_key: 32 bytes.
        masks: keys of masks.
        p: the field's prime.
        q: int16, what x is quantised to, in [-128, 128].
        outs: where a share goes, which mask it has, alpha and beta: ``alpha*mask + beta*q mod p``.
        threads: that share the work.
        path: instruction set.

    Raises:
        InputError: ``offload.arrays``; ``offload.changed``: x holds what the shift does not allow,
            so that it was changed after its shift was taken. What was written is of no use.
    """
    on = _on(path, threads)
    _require(all(0 <= i < len(masks) for _, i, _, _ in outs), f"{len(masks)} masks", "another")
    places = range(len(masks))
    good = _native().mix(
        on,
        [_flat(x, np.float32, x.size)],
        _checked(shift, SHIFTS),
        _keys([rounding_key]),
        [_flat(q, np.int16, x.size, writable=True)],
        _keys(masks),
        _prime(p),
        [_flat(out, np.int32, x.size, writable=True) for out, _, _, _ in outs],
        [
            [_coefficient(alpha if i == mask else 0, p) for i in places]
            for _, mask, alpha, _ in outs
        ],
        [[_coefficient(beta, p)] for _, _, _, beta in outs],
        threads,
    )
    if not good:
        raise InputError(
            "offload.changed",
            expected=f"finite numbers of at most 2**{7 - shift}",
            observed="others: they changed after they were first looked at",
            next_step="let nobody write to a tensor while it is shared",
        )


def mix(
    qs: Sequence[Small],
    masks: Sequence[bytes],
    p: int,
    outs: Sequence[tuple[Residues, Sequence[int], Sequence[int]]],
    *,
    threads: int = 1,
    path: str | None = None,
) -> None:
    """Share several tensors at once, as points of one polynomial.

    Args:
        qs: int16, all of one size; at most 8.
        masks: keys of masks; at most 8.
        p: the field's prime.
        outs: where a share goes, a coefficient for each mask, one for each of ``qs``; any integers.
        threads: that share the work.
        path: instruction set.
    """
    on = _on(path, threads)
    most = range(_MOST_MIXED + 1)
    _require(len(qs) in most[1:] and len(masks) in most, "up to 8 tensors and masks", len(qs))
    size = qs[0].size
    fits = all(len(a) == len(masks) and len(b) == len(qs) for _, a, b in outs)
    _require(fits, "a coefficient for each mask and tensor", "others")
    _native().mix(
        on,
        [],
        0,
        [],
        [_flat(q, np.int16, size) for q in qs],
        _keys(masks),
        _prime(p),
        [_flat(out, np.int32, size, writable=True) for out, _, _ in outs],
        [[_coefficient(c, p) for c in of_masks] for _, of_masks, _ in outs],
        [[_coefficient(c, p) for c in of_qs] for _, _, of_qs in outs],
        threads,
    )


def combine(
    answers: Sequence[Residues],
    coefficients: Sequence[int],
    p: int,
    shift: int,
    out: Floats,
    integers: Integers | None = None,
    *,
    threads: int = 1,
    path: str | None = None,
) -> None:
    """Put answers together: ``2**-shift`` times the centred sums of coefficient times answer.

    Args:
        answers: residues of ``parts * out.size``, part by part, in memory that others may write to
            meanwhile: every word is copied first, and only the copy is looked at. At most 64.
        coefficients: one for each, any integers.
        p: the field's prime.
        shift: of the product.
        out: float32: the parts' exact sum, rounded once, to nearest even; infinite beyond float32.
        integers: int32, the centred residues of all parts, or int64, their sums; or not wanted.
        threads: that share the work.
        path: instruction set.

    Raises:
        IntegrityError: ``worker.residue``: a word is not in [0, p). What was written is of no use.
        InputError: ``offload.arrays``.
    """
    on = _on(path, threads)
    count = len(answers)
    fits = 1 <= count <= _MOST_ANSWERS and count == len(coefficients)
    _require(fits, "1 to 64 answers, each with a coefficient", (count, len(coefficients)))
    parts = answers[0].size // out.size if out.size else 1
    _require(1 <= parts <= _MOST_PARTS, f"1 to {_MOST_PARTS:,} parts", parts)
    narrow = integers is not None and integers.dtype == np.int32
    size, dtype = (parts * out.size, np.int32) if narrow else (out.size, np.int64)
    whole = [] if integers is None else [_flat(integers, dtype, size, writable=True)]
    bad = _native().combine(
        on,
        [_flat(answer, np.int32, parts * out.size) for answer in answers],
        [_coefficient(c, p) for c in coefficients],
        parts,
        _prime(p),
        _checked(shift, _SCALES),
        _flat(out, np.float32, out.size, writable=True),
        whole if narrow else [],
        [] if narrow else whole,
        threads,
    )
    if bad:
        places = [str(i) for i in range(count) if bad >> i & 1]
        raise IntegrityError(
            "worker.residue",
            expected=f"numbers from 0 to {p - 1:,}",
            observed=f"others in answer {', '.join(places)}, counted from 0",
            next_step="replace that worker, and do the step again",
        )


def contract(
    values: Small | Residues,
    u: Residues | None,
    v: Residues | None,
    p: int = M31.p,
    *,
    threads: int = 1,
    path: str | None = None,
) -> Residues:
    """Sums of weights times numbers modulo p, over the first axis, the second, or both.

    Args:
        values: int16 or int32, any integers, ``[N, C, L]``.
        u: residues ``[N]``, or the first axis stays.
        v: residues ``[C]``, or the second axis stays.
        p: the field's prime.
        threads: that share the work.
        path: instruction set.

    Returns:
        residues, int32, of the axes that stay: ``[C, L]``, ``[N, L]`` or ``[L]``.

    Raises:
        InputError: ``offload.arrays``: also where a weight is no residue.
    """
    on = _on(path, threads)
    _require(values.ndim == 3, "three axes", values.shape)
    if v is not None:  # this axis first: it is read as it lies
        found = _contracted(on, values, 1, v, _prime(p), threads)
        return found if u is None else _contracted(on, found, 0, u, p, threads)
    if u is None:
        raise _unfit("weights", "none")
    return _contracted(on, values, 0, u, _prime(p), threads)


def _contracted(
    on: str, values: Small | Residues, axis: int, weights: Residues, p: int, threads: int
) -> Residues:
    outer, inner = values.shape[:axis], values.shape[axis + 1 :]
    k, length = values.shape[axis], math.prod(inner)
    by = _flat(weights, np.int32, k)
    _require(bool(((weights >= 0) & (weights < p)).all()), f"weights from 0 to {p - 1:,}", "others")
    out = np.zeros(outer + inner, np.int32)
    if values.size:
        small = values.dtype == np.int16
        kernel = _native().contract16 if small else _native().contract32
        flat = _flat(values, np.int16 if small else np.int32, values.size)
        kernel(on, flat, k, length, by, p, out.reshape(-1), threads)
    return out
