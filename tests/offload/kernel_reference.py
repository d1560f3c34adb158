"""What the native kernels must give, in numpy's 64-bit integers and OpenSSL's AES, word by word.

Shares no line with them. A block is enciphered alone, from its counter block, as NIST SP 800-38A
says: no counter runs on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Array = np.ndarray[Any, np.dtype[Any]]


def stream(key: bytes, number: int, size: int) -> bytes:
    """The first ``size`` bytes of a stream."""
    blocks = np.zeros((-(-size // 16), 2), ">u8")
    blocks[:, 0], blocks[:, 1] = number, np.arange(len(blocks))
    cipher = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    return cipher.update(blocks.tobytes())[:size]


def mask(key: bytes, p: int, size: int) -> Array:
    """Residues, by rejection."""
    out, number = np.full(size, -1, np.int64), 0
    while (out < 0).any():
        words = np.frombuffer(stream(key, number, 4 * size), "<u4").astype(np.int64)
        words &= 2 ** p.bit_length() - 1
        out = np.where((out < 0) & (words < p), words, out)
        number += 1
    return out


def quantised(x: Array, shift: int, key: bytes) -> Array:
    """Integers in [-128, 128]: longdouble holds every product and sum exactly."""
    words = np.frombuffer(stream(key, 0, 2 * x.size), "<u2").astype(np.longdouble)
    exact = np.ldexp(x.astype(np.longdouble), shift)
    found: Array = np.floor(np.floor(exact * 65536) / 65536 + words / 65536).astype(np.int64)
    return found


def centred(residues: Array, p: int) -> Array:
    """In [-(p - 1) / 2, (p - 1) / 2]."""
    return np.where(residues > (p - 1) // 2, residues - p, residues)


def combined(answers: list[Array], coefficients: list[int], p: int) -> Array:
    """Centred sums of coefficient times answer, in Python's integers."""
    total = np.zeros(answers[0].shape, object)
    for c, a in zip(coefficients, answers, strict=True):
        total = total + c * a.astype(object)
    return centred(total % p, p).astype(np.int64)


def scaled(integers: Array, shift: int) -> Array:
    """float32, rounded once: longdouble holds what is rounded."""
    with np.errstate(over="ignore"):
        return np.ldexp(integers.astype(np.longdouble), -shift).astype(np.float32)
