"""How fast the native kernels of masked mode go over memory, beside separate torch operations.

On one core, from DRAM: every array is larger than the caches. The baseline gives the same bits by
one torch operation after another: OpenSSL's AES-256-CTR writes mask and rounding numbers to memory,
then each step reads and writes whole tensors, in buffers that are made once and in place wherever
torch can. It works on a quarter of the numbers, which is still more than the caches hold.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks._harness import interleave
from benchmarks._quiet import Quiet
from svetovid.offload import kernels
from svetovid.offload.field import M31

__all__ = ["SIZE", "kernel_rounds"]

SIZE = 1 << 26
"""Numbers of a tensor: 256 MiB as float32."""
_KEYS = [bytes([i]) * 32 for i in range(3)]
_CODED = ((0, 2, -1), (0, 3, -2))
_GOTEN = ((0, -1, 1), (1, -1, 1))
_COEFFICIENTS = (3, -3, 1)
_SHIFT = 11


def kernel_rounds(
    quiet: Quiet, rounds: int, *, size: int = SIZE, path: str | None = None
) -> dict[str, list[float]]:
    """Gelem/s of each round, all turn by turn.

    Args:
        quiet: takes the rounds.
        rounds: how many.
        size: numbers of a tensor.
        path: instruction set of the kernels.

    Returns:
        ``share``: absmax, quantise, one mask, two shares and q stored; ``share_goten``: the same
        with two masks; ``combine``: three answers, to float32; ``combine_integers``: and to int32;
        ``check``: one contraction of int16 over a batch of 512; ``share_torch``,
        ``combine_torch``: the first and the third by torch; ``combine_torch_frugal``.

    Raises:
        HostError: ``bench.loaded``, ``offload.kernels``.
    """
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {min(cores)})
    torch.set_num_threads(1)
    try:
        small = size // 4
        native, by_torch = _Native(size, path), _Torch(small)
        _same(_Native(min(small, 1 << 20), path), _Torch(min(small, 1 << 20)))
        work: dict[str, tuple[int, Callable[[], object]]] = {
            "share": (size, lambda: native.share(_CODED)),
            "share_goten": (size, lambda: native.share(_GOTEN)),
            "combine": (size, lambda: native.combine(None)),
            "combine_integers": (size, lambda: native.combine(native.integers)),
            "check": (size, native.check),
            "share_torch": (small, by_torch.share),
            "combine_torch": (small, by_torch.combine),
            "combine_torch_frugal": (small, by_torch.combine_frugally),
        }
        found = interleave({name: call for name, (_, call) in work.items()}, rounds, quiet)
    finally:
        torch.set_num_threads(threads)
        os.sched_setaffinity(0, cores)
    return {name: [work[name][0] / s / 1e9 for s in seconds] for name, seconds in found.items()}


def _tensor(size: int) -> Any:
    return np.random.default_rng(0).standard_normal(size, np.float32)


class _Native:
    """The kernels, over arrays that were all written to before."""

    def __init__(self, size: int, path: str | None) -> None:
        self._path = path
        self.x = _tensor(size)
        self.q = np.full(size, 0, np.int16)
        self.shares = [np.full(size, 0, np.int32) for _ in range(2)]
        self._third = np.full(size, 1, np.int32)
        self.out = np.full(size, 0, np.float32)
        self.integers = np.full(size, 0, np.int32)
        rows = min(512, size)
        self._u = np.arange(rows, dtype=np.int32) + M31.half

    def share(self, form: tuple[tuple[int, int, int], ...]) -> None:
        shift = kernels.shift_of(kernels.absmax(self.x, path=self._path))
        outs = [(to, *of) for to, of in zip(self.shares, form, strict=True)]
        kernels.share(self.x, shift, _KEYS[0], _KEYS[1:], M31.p, self.q, outs, path=self._path)

    def combine(self, integers: Any) -> None:
        answers = [*self.shares, self._third]
        kernels.combine(answers, _COEFFICIENTS, M31.p, _SHIFT, self.out, integers, path=self._path)

    def check(self) -> None:
        rows = self.q[: self.q.size // self._u.size * self._u.size]
        kernels.contract(rows.reshape(self._u.size, 1, -1), self._u, None, path=self._path)


class _Torch:
    """Coded sharing by torch's own operations."""

    def __init__(self, size: int) -> None:
        self.x = torch.from_numpy(_tensor(size))
        self._zeros, self._stream = bytes(4 * size), bytearray(4 * size)
        self.q = torch.zeros(size, dtype=torch.int16)
        self.shares = [torch.zeros(size, dtype=torch.int32) for _ in range(2)]
        self._third = torch.ones(size, dtype=torch.int32)
        self._sum, self._long = (torch.zeros(size, dtype=torch.int64) for _ in range(2))
        self.out = torch.zeros(size)

    def _words(self, key: bytes, number: int, size: int) -> Any:
        start = number.to_bytes(8, "big") + bytes(8)
        cipher = Cipher(algorithms.AES256(key), modes.CTR(start)).encryptor()
        cipher.update_into(memoryview(self._zeros)[:size], memoryview(self._stream)[:size])
        return np.frombuffer(self._stream, np.uint8, size)

    def share(self) -> None:
        shift = kernels.shift_of(float(self.x.abs().max()))
        words = torch.from_numpy(self._words(_KEYS[0], 0, 2 * self.x.numel()).view(np.int16))
        fine = torch.floor(self.x * 2.0 ** (shift + 16)).int()
        self.q = ((fine + (words.int() & 0xFFFF)) >> 16).short()
        stream = torch.from_numpy(self._words(_KEYS[1], 0, 4 * self.x.numel()).view(np.int32))
        mask = stream & M31.p
        if bool((mask == M31.p).any()):  # one in 2**31
            raise AssertionError("another key, please")
        self.shares = [
            ((alpha * mask.long() + beta * self.q) % M31.p).int() for _, alpha, beta in _CODED
        ]

    def _answers(self) -> list[torch.Tensor]:
        answers = [*self.shares, self._third]
        if not all(0 <= int(a.min()) <= int(a.max()) < M31.p for a in answers):
            raise AssertionError("no residue")
        return answers

    def combine(self) -> None:
        a, b, c = (k * z.long() for k, z in zip(_COEFFICIENTS, self._answers(), strict=True))
        residues = (a + b + c) % M31.p
        centred = torch.where(residues > M31.half, residues - M31.p, residues)
        self.out = centred.float() * 2.0**-_SHIFT

    def combine_frugally(self) -> None:
        self._sum.zero_()
        for answer, times in zip(self._answers(), _COEFFICIENTS, strict=True):
            self._sum.add_(self._long.copy_(answer), alpha=times)
        self._sum.remainder_(M31.p).add_(M31.half).remainder_(M31.p).sub_(M31.half)
        self.out.copy_(self._sum).mul_(2.0**-_SHIFT)


def _same(native: _Native, by_torch: _Torch) -> None:
    """Both do the same work."""
    native.share(_CODED)
    native.combine(None)
    by_torch.share()
    by_torch.combine()
    pairs: list[tuple[Any, Any]] = [(native.q, by_torch.q), (native.out, by_torch.out)]
    pairs += zip(native.shares, by_torch.shares, strict=True)
    by_torch.combine_frugally()
    pairs += [(native.out, by_torch.out)]
    if not all(np.array_equal(a, b.numpy()) for a, b in pairs):
        raise AssertionError("torch gives another result")
