"""How fast the native kernels of masked mode go over memory, beside separate torch operations.

On one core, from DRAM: every array is larger than the caches. Shares and answers lie where they do
in use, in memory that a worker sees too; all other arrays are PyTorch's, so that pages are of one
size. The baseline gives the same bits by one torch operation after another: OpenSSL's AES-256-CTR
writes mask and rounding numbers to memory, then each step reads and writes whole tensors, in
buffers that are made once and in place. It works on a quarter of the numbers, which is still more
than the caches hold.
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
from svetovid.offload.links.memory import Shared

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
        with two masks; ``share_published``: quantised once, and two masks and shares for each of
        two products; ``combine``: three answers, to float32; ``combine_integers``: and to int32,
        for the check; ``check``: one contraction of int16 over a batch of 512; ``share_torch``,
        ``combine_torch``: the first and ``combine`` by torch.

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
            "share_published": (size, native.share_twice),
            "combine": (size, lambda: native.combine(None)),
            "combine_integers": (size, lambda: native.combine(native.integers)),
            "check": (size, native.check),
            "share_torch": (small, by_torch.share),
            "combine_torch": (small, by_torch.combine),
        }
        found = interleave({name: call for name, (_, call) in work.items()}, rounds, quiet)
    finally:
        torch.set_num_threads(threads)
        os.sched_setaffinity(0, cores)
    return {name: [work[name][0] / s / 1e9 for s in seconds] for name, seconds in found.items()}


def _tensor(size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def _shared(size: int) -> Any:
    """int32 zeros as shares and answers lie in use."""
    return Shared(0, max(4 * size, 4096), answers=True).numbers(0, size)


class _Native:
    """The kernels, over arrays that were all written to before."""

    def __init__(self, size: int, path: str | None) -> None:
        self._path = path
        self.x = _tensor(size).numpy()
        self.q = torch.zeros(size, dtype=torch.int16).numpy()
        self.shares = [_shared(size) for _ in range(2)]
        self._third = _shared(size)
        self._third += 1
        self.out = torch.zeros(size).numpy()
        self.integers = torch.zeros(size, dtype=torch.int32).numpy()
        rows = min(512, size)
        self._u = np.arange(rows, dtype=np.int32) + M31.half

    def share(self, form: tuple[tuple[int, int, int], ...]) -> None:
        shift = kernels.shift_of(kernels.absmax(self.x, path=self._path))
        outs = [(to, *of) for to, of in zip(self.shares, form, strict=True)]
        kernels.share(self.x, shift, _KEYS[0], _KEYS[1:], M31.p, self.q, outs, path=self._path)

    def share_twice(self) -> None:
        """As Goten was published: masks are new for each of the products that a tensor is in."""
        shift = kernels.shift_of(kernels.absmax(self.x, path=self._path))
        kernels.share(self.x, shift, _KEYS[0], [], M31.p, self.q, [], path=self._path)
        for _ in range(2):
            outs = [
                (to, [alpha * (mask == i) for i in range(2)], [beta])
                for to, (mask, alpha, beta) in zip(self.shares, _GOTEN, strict=True)
            ]
            kernels.mix([self.q], _KEYS[1:], M31.p, outs, path=self._path)

    def combine(self, integers: Any) -> None:
        answers = [*self.shares, self._third]
        kernels.combine(answers, _COEFFICIENTS, M31.p, _SHIFT, self.out, integers, path=self._path)

    def check(self) -> None:
        rows = self.q[: self.q.size // self._u.size * self._u.size]
        kernels.contract(rows.reshape(self._u.size, 1, -1), self._u, None, path=self._path)


class _Torch:
    """Coded sharing by torch's own operations."""

    def __init__(self, size: int) -> None:
        self.x = _tensor(size)
        self._zeros, self._stream = bytes(4 * size), bytearray(4 * size)
        self.q = torch.zeros(size, dtype=torch.int16)
        self.shares = [torch.zeros(size, dtype=torch.int32) for _ in range(2)]
        self._third = torch.ones(size, dtype=torch.int32)
        self._fine, self._mask = (torch.zeros(size, dtype=torch.int32) for _ in range(2))
        self._sum, self._long = (torch.zeros(size, dtype=torch.int64) for _ in range(2))
        self.out, self._scaled = torch.zeros(size), torch.zeros(size)

    def _words(self, key: bytes, number: int, size: int) -> Any:
        start = number.to_bytes(8, "big") + bytes(8)
        cipher = Cipher(algorithms.AES256(key), modes.CTR(start)).encryptor()
        cipher.update_into(memoryview(self._zeros)[:size], memoryview(self._stream)[:size])
        return np.frombuffer(self._stream, np.uint8, size)

    def share(self) -> None:
        low, high = self.x.aminmax()
        shift = kernels.shift_of(max(-float(low), float(high)))
        words = torch.from_numpy(self._words(_KEYS[0], 0, 2 * self.x.numel()).view(np.int16))
        torch.mul(self.x, 2.0 ** (shift + 16), out=self._scaled).floor_()
        self._fine.copy_(self._scaled).add_(self._mask.copy_(words).bitwise_and_(0xFFFF))
        self.q.copy_(self._fine.bitwise_right_shift_(16))
        stream = torch.from_numpy(self._words(_KEYS[1], 0, 4 * self.x.numel()).view(np.int32))
        torch.bitwise_and(stream, M31.p, out=self._mask)
        if int(self._mask.max()) == M31.p:  # one in 2**31
            raise AssertionError("another key, please")
        for share, (_, alpha, beta) in zip(self.shares, _CODED, strict=True):
            self._sum.copy_(self._mask).mul_(alpha)
            share.copy_(self._sum.add_(self.q, alpha=beta).remainder_(M31.p))

    def combine(self) -> None:
        self._sum.zero_()
        for answer, times in zip((*self.shares, self._third), _COEFFICIENTS, strict=True):
            low, high = answer.aminmax()
            if int(low) < 0 or int(high) >= M31.p:
                raise AssertionError("no residue")
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
    if not all(np.array_equal(a, b.numpy()) for a, b in pairs):
        raise AssertionError("torch gives another result")
