"""Residues from the key that they are addressed by: the native kernel's, or these of Python.

See "Streams" in ``docs/spec/masked.md``. Both give the same numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from svetovid.errors import HostError
from svetovid.offload import kernels

if TYPE_CHECKING:
    from svetovid.offload.work import Residues

__all__ = ["expand", "expanded"]

_BLOCK = 4
"""Words of a block of AES."""
_AT_ONCE = 1 << 20


def expand(key: bytes, p: int, out: Residues, *, threads: int = 1) -> None:
    """Write the residues of a key, by the native kernel where there is one.

    Args:
        key: 32 bytes.
        p: prime of the field.
        out: int32, contiguous.
        threads: of the native kernel.
    """
    try:
        kernels.expand(key, p, out, threads=threads)
    except HostError:
        expanded(key, p, out)


def expanded(key: bytes, p: int, out: Residues) -> None:
    """The same, by AES of ``cryptography`` alone."""
    mask = (1 << p.bit_length()) - 1
    for start in range(0, out.size, _AT_ONCE):
        some = out[start : start + _AT_ONCE]
        words = _words(key, 0, start, some.size) & mask
        for i in np.flatnonzero(words >= p):
            stream = 1
            while (word := int(_words(key, stream, start + int(i), 1)[0]) & mask) >= p:
                stream += 1
            words[i] = word
        some[:] = words


def _words(
    key: bytes, stream: int, first: int, count: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint32]]:
    block, skipped = divmod(first, _BLOCK)
    counter = stream.to_bytes(8, "big") + block.to_bytes(8, "big")
    encryptor = Cipher(AES256(key), CTR(counter)).encryptor()
    data = encryptor.update(bytes(4 * (skipped + count)))
    return np.frombuffer(data, np.dtype("<u4"))[skipped:]
