"""A worker in this process, for stories about the trusted side: what it sees is kept, and a test
may change what it answers. Masks it expands by the AES of `cryptography`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from svetovid.errors import TransportError
from svetovid.offload.work import Work

Change = Callable[[Work, np.ndarray], np.ndarray]


def stream(key: bytes, number: int, count: int) -> bytes:
    """Keystream ``number`` of a tensor's key, from its beginning."""
    start = number.to_bytes(8, "big") + bytes(8)
    return Cipher(algorithms.AES(key), modes.CTR(start)).encryptor().update(bytes(count))


def expanded(key: bytes, p: int, count: int) -> np.ndarray:
    """The mask that a key stands for."""
    found = np.full(count, p, np.int64)
    number = 0
    while (left := found >= p).any():
        words = np.frombuffer(stream(key, number, 4 * count), "<u4") & np.uint32(
            (1 << p.bit_length()) - 1
        )
        found[left] = words[left]
        number += 1
    return found.astype(np.int32)


class MemoryLink:
    """Keeps ``seen``: what it was given, by number; ``works``; how often it was told to drop.

    Args:
        multiply: as :func:`svetovid.offload.exact.multiply`, over numpy.
    """

    def __init__(self, identity: str, operator: str = "", change: Change | None = None) -> None:
        self.identity, self.operator = identity, operator or identity
        self.change = change
        self.seen: list[tuple[int, np.ndarray]] = []
        self.works: list[Work] = []
        self.drops = 0
        self.closed = self.silent = False
        self._held: dict[int, np.ndarray] = {}

    def send(self, operand: int, count: int, fill: Callable[[Any], None]) -> None:
        memory = np.full(count, -1, np.int32)
        fill(memory)
        self._keep(operand, memory)

    def seed(self, operand: int, count: int, key: bytes, p: int) -> None:
        self._keep(operand, expanded(key, p, count))

    def _keep(self, operand: int, values: np.ndarray) -> None:
        assert operand not in self._held
        self._held[operand] = values
        self.seen.append((operand, values.copy()))

    def ask(self, work: Work) -> MemoryLink._Answer:
        self.works.append(work)
        return self._Answer(self, work)

    class _Answer:
        def __init__(self, link: MemoryLink, work: Work) -> None:
            self._link, self._work = link, work

        def wait(self) -> np.ndarray:
            if self._link.silent:
                raise TransportError("worker.silent", expected="an answer", observed="none")
            return self._link.answer(self._work)

    def answer(self, work: Work) -> np.ndarray:
        import torch

        from svetovid.offload import exact

        total = np.int64(0)
        for term in work.terms:
            sides = []
            for side, shape in ((term.a, work.product.a), (term.b, work.product.b)):
                summed = sum(self._held[n].astype(np.int64) * sign for n, sign in side)
                sides.append(torch.from_numpy((summed % work.p).astype(np.int32)).view(shape))
            found = exact.multiply(work.product, *sides, work.p, work.parts)
            total = total + term.sign * found.numpy().astype(np.int64)
        answer = (total % work.p).astype(np.int32).reshape(-1)
        return answer if self.change is None else self.change(work, answer)

    def drop(self) -> None:
        self._held.clear()
        self.drops += 1

    def close(self) -> None:
        self.closed = True
