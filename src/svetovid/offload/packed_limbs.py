"""Matrix products modulo p of residues whose four digits stay together, as the bytes of an int32.

What a window of a convolution reads is gathered in words instead of bytes, and all pairs of digits
are one matrix product of bytes. The other way (:mod:`.limbs`) needs fewer products of digits, but
more steps: this one is for results that are narrow, or small.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["LONGEST", "columns", "ends", "packed", "rows"]

_DIGITS = 4
_WEIGHTS = 2 * _DIGITS - 1
_HALF = sum(128 << 8 * i for i in range(_DIGITS))
LONGEST = 2**14
"""Most terms of a sum before it is reduced: 16 pairs of digits of at most 2^7 each, times weights
below 2^30, stay within 2^62; those of one weight within int32."""

Matmul = Callable[[Tensor, Tensor], Tensor]


def packed(residues: Tensor, p: int) -> Tensor:
    """int32 whose bytes, the lowest first, are signed digits of the residues."""
    above = _HALF % p
    u = residues - (p - above)  # where residues + above may not be in int32
    u += (u >> 31) & p
    return u.bitwise_xor_(_HALF - 2**32)


def ends(p: int) -> tuple[int, int]:
    """The residues with the lowest and the highest digits."""
    return -_HALF % p, (p - 1 - _HALF) % p


def rows(matmul: Matmul, a: Tensor, b: Tensor, p: int) -> Tensor:
    """``a @ b`` modulo p.

    Args:
        matmul: int32 sums of products of int8.
        a: ``[M, K]``, packed.
        b: ``[K, N]``, residues, int32.

    Returns:
        ``[M, N]`` int64 in [0, p).
    """
    (m, k), n = a.shape, b.shape[1]
    total = torch.zeros(m, n, dtype=torch.int64, device=a.device)
    for i in range(0, k, LONGEST):
        some = b[i : i + LONGEST]
        digits = _bytes(packed(some, p)).view(len(some), n, _DIGITS).movedim(-1, 1)
        # Row (k, i) has digit j of b where i + j is the column's weight.
        by_weight = digits.new_zeros(len(some), _DIGITS, _WEIGHTS, n)
        for digit in range(_DIGITS):
            by_weight[:, digit, digit : digit + _DIGITS] = digits
        left = _bytes(a[:, i : i + LONGEST]).view(m, _DIGITS * len(some))
        summed = matmul(left, by_weight.view(_DIGITS * len(some), _WEIGHTS * n)).view(
            m, _WEIGHTS, n
        )
        for weight in range(_WEIGHTS):
            total.add_(summed[:, weight].to(torch.int64), alpha=_centred(weight, p))
        total.remainder_(p)
    return total


def columns(matmul: Matmul, a: Tensor, b: Tensor, p: int) -> Tensor:
    """``a @ b`` modulo p; see :func:`rows`.

    Args:
        matmul: int32 sums of products of int8.
        a: ``[M, K]``, residues, int32.
        b: ``[K, N]``, packed.
    """
    (m, k), n = a.shape, b.shape[1]
    total = torch.zeros(m, n, dtype=torch.int64, device=a.device)
    for i in range(0, k, LONGEST):
        some = a[:, i : i + LONGEST]
        digits = _bytes(packed(some, p)).view(m, some.shape[1], _DIGITS).movedim(-1, 0)
        right = _bytes(b[i : i + LONGEST]).view(some.shape[1], _DIGITS * n)
        summed = matmul(digits.reshape(_DIGITS * m, some.shape[1]), right).view(
            _DIGITS, m, n, _DIGITS
        )
        for left, of_a in enumerate(summed):
            for digit in range(_DIGITS):
                weight = _centred(left + digit, p)
                total.add_(of_a[..., digit].to(torch.int64), alpha=weight)
        total.remainder_(p)
    return total


def _bytes(words: Tensor) -> Tensor:
    """Flat: an axis of one word may have any stride, and then has no view as bytes."""
    return words.contiguous().view(-1).view(torch.int8)


def _centred(weight: int, p: int) -> int:
    return ((1 << 8 * weight) + p // 2) % p - p // 2
