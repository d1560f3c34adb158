"""Tensors as small integers: 8 bits, a power of two as scale, rounded up or down at random.

With ``m`` the greatest magnitude and the shift ``s`` such that ``m * 2**s`` is in (64, 128], a
number ``x`` becomes ``floor(x * 2**s + r)``, where ``r`` is a multiple of 2**-16 drawn uniformly
from [0, 1): in [-128, 128], and ``x * 2**s`` on average but for less than 2**-16. This is the
definition that every faster path must repeat bit for bit.

The rounding numbers are little-endian 16-bit words of the AES-256-CTR keystream (NIST SP 800-38A)
from the counter block 0, in the order of the tensor's elements.
"""

from __future__ import annotations

import math

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from svetovid.errors import InputError

__all__ = ["SHIFTS", "greatest", "quantised", "shift_of"]

SHIFTS = (-121, 94)
"""Least and greatest shift: of the largest float32, and where 2**(s + 16) is far from overflow."""

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Small = np.ndarray[tuple[int, ...], np.dtype[np.int16]]


def greatest(x: Floats) -> float:
    """The greatest magnitude; NaN where there is one, 0 where there is nothing."""
    return float(np.abs(x).max(initial=0))


def shift_of(m: float) -> int:
    """The shift of a tensor whose greatest magnitude is ``m``; 0 where all is 0.

    Raises:
        InputError: ``offload.nonfinite``.
    """
    if not math.isfinite(m):
        raise InputError(
            "offload.nonfinite",
            expected="finite numbers",
            observed="NaN or an infinity",
            next_step="find where training diverged: a lower learning rate, or clipped gradients",
        )
    if m == 0:
        return 0
    fraction, exponent = math.frexp(m)  # fraction in [1/2, 1)
    exact = (8 if fraction == 0.5 else 7) - exponent
    return min(max(exact, SHIFTS[0]), SHIFTS[1])


def quantised(x: Floats, shift: int, key: bytes) -> Small:
    """Integers in [-128, 128] of the same shape.

    Args:
        x: float32 of any strides, no greater in magnitude than what ``shift`` was taken of.
        shift: from :func:`shift_of`.
        key: 32 bytes, :meth:`svetovid.offload.address.Rounding.key`.
    """
    # float64, where the product with a power of two is exact: a float32 that underflows would have
    # the floor 0 where it is -1.
    fine = np.floor(x.astype(np.float64) * 2.0 ** (shift + 16)).astype(np.int32)
    return ((fine + _words(key, x.size).reshape(x.shape)) >> 16).astype(np.int16)


def _words(key: bytes, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    words = np.frombuffer(stream.update(bytes(2 * count)), "<u2")
    return words.astype(np.int32)
