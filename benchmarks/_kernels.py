"""How fast the native kernels of masked mode go over memory, beside separate torch operations.

On one core, from DRAM: every array is larger than the caches. Shares and answers lie where they do
in use, in memory that a worker sees too; all other arrays are PyTorch's, so that pages are of one
size. The baselines give the same bits by one torch operation after another: OpenSSL's AES-256-CTR
writes mask and rounding numbers to memory, then each step reads and writes whole tensors. One is
written as torch is, each operation making its result; the other in place, in buffers that are made
once, which no page of the operating system is cleared for. They work on a quarter of the numbers,
which is still more than the caches hold.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks._quiet import Quiet
from svetovid.offload import kernels
from svetovid.offload.field import M31
from svetovid.offload.links.memory import Shared

__all__ = ["SIZE", "kernel_ratios", "kernel_rounds"]

SIZE = 1 << 26
"""Numbers of a tensor: 256 MiB as float32."""
_KEYS = [bytes([i]) * 32 for i in range(3)]
_CODED = ((0, 2, -1), (0, 3, -2))
_GOTEN = ((0, -1, 1), (1, -1, 1))
_COEFFICIENTS = (3, -3, 1)
_SHIFT = 11
_KNOWN = ("kernel_in_place_ratio", "combine_in_place_ratio", "share_ratio", "published_share_ratio")
"""Whose medians must be known. How long the operating system takes to clear new memory for each
operation differs from round to round: of the others the low end counts."""
_TIMES = 4
"""Calls of a native kernel in one round: one takes less than a tenth of a second."""


def kernel_rounds(
    quiet: Quiet, rounds: int, *, size: int = SIZE, path: str | None = None
) -> dict[str, list[float]]:
    """Gelem/s of each round, all turn by turn.

    Args:
        quiet: takes the rounds.
        rounds: the fewest.
        size: numbers of a tensor.
        path: instruction set of the kernels.

    Returns:
        ``share``: absmax, quantise, one mask, two shares and q stored; ``share_goten``: the same
        with two masks; ``share_published``: quantised once, and two masks and shares for each of
        two products; ``combine``: three answers, to float32; ``combine_integers``: and to int32,
        for the check; ``check``: one contraction of int16 over a batch of 512; ``share_torch``,
        ``combine_torch``, ``share_in_place``, ``combine_in_place``: the first and ``combine`` by
        torch.

    Raises:
        HostError: ``bench.loaded``, ``bench.spread``, ``offload.kernels``.
    """
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {min(cores)})
    torch.set_num_threads(1)
    try:
        small = size // 4
        native = _Native(size, path)
        by_torch, in_place = _Torch(small), _InPlace(small)
        few = min(small, 1 << 20)
        _same(_Native(few, path), _Torch(few))
        _same(_Native(few, path), _InPlace(few))
        work: dict[str, tuple[int, int, Callable[[], object]]] = {
            "share": (_TIMES, size, lambda: native.share(_CODED)),
            "share_goten": (_TIMES, size, lambda: native.share(_GOTEN)),
            "share_published": (_TIMES, size, native.share_twice),
            "combine": (_TIMES, size, lambda: native.combine(None)),
            "combine_integers": (_TIMES, size, lambda: native.combine(native.integers)),
            "check": (_TIMES, size, native.check),
            "share_torch": (1, small, by_torch.share),
            "combine_torch": (1, small, by_torch.combine),
            "share_in_place": (1, small, in_place.share),
            "combine_in_place": (1, small, in_place.combine),
        }

        def turn(_: int) -> dict[str, float]:
            """In this order and then in the other: what came before leaves its mark on caches."""
            seconds = dict.fromkeys(work, 0.0)
            for name in (*work, *reversed(work)):
                times, _, call = work[name]
                begun = time.perf_counter()
                for _ in range(times):
                    call()
                seconds[name] += (time.perf_counter() - begun) / times / 2
            return {name: n / seconds[name] / 1e9 for name, (_, n, _) in work.items()}

        turn(0)
        found = quiet.until_narrow(
            *("kernels", rounds, turn),
            lambda found: {n: kernel_ratios(_columns(found))[n] for n in _KNOWN},
            most=8 * rounds,
        )
    finally:
        torch.set_num_threads(threads)
        os.sched_setaffinity(0, cores)
    return _columns(found)


def _columns(rounds: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [found[name] for found in rounds] for name in rounds[0]}


def kernel_ratios(found: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """What is claimed of :func:`kernel_rounds`, round by round."""
    ratios = {
        "kernel_ratio": ("share", "share_torch"),
        "kernel_in_place_ratio": ("share", "share_in_place"),
        "combine_ratio": ("combine", "combine_torch"),
        "combine_in_place_ratio": ("combine", "combine_in_place"),
        "share_ratio": ("share_goten", "share"),
        "published_share_ratio": ("share_published", "share"),
    }
    return {
        name: [a / b for a, b in zip(found[over], found[under], strict=True)]
        for name, (over, under) in ratios.items()
    }


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
        masks = _KEYS[1 : 2 + max(mask for mask, _, _ in form)]
        shift = kernels.shift_of(kernels.absmax(self.x, path=self._path))
        outs = [(to, *of) for to, of in zip(self.shares, form, strict=True)]
        kernels.share(self.x, shift, _KEYS[0], masks, M31.p, self.q, outs, path=self._path)

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
    """Coded sharing by torch's own operations, each of which makes its result."""

    def __init__(self, size: int) -> None:
        self.x = _tensor(size)
        self._zeros, self._stream = bytes(4 * size), bytearray(4 * size)
        self.q = torch.zeros(size, dtype=torch.int16)
        self.shares = [torch.zeros(size, dtype=torch.int32) for _ in range(2)]
        self._third = torch.ones(size, dtype=torch.int32)
        self.out = torch.zeros(size)

    def _words(self, key: bytes, size: int) -> torch.Tensor:
        """Random bytes, uint8."""
        cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
        cipher.update_into(memoryview(self._zeros)[:size], memoryview(self._stream)[:size])
        return torch.frombuffer(self._stream, dtype=torch.uint8, count=size)

    def _shift(self) -> int:
        low, high = self.x.aminmax()
        return kernels.shift_of(max(-float(low), float(high)))

    def share(self) -> None:
        shift = self._shift()
        words = self._words(_KEYS[0], 2 * self.x.numel()).view(torch.int16).int() & 0xFFFF
        fine = (self.x * 2.0 ** (shift + 16)).floor().int() + words
        self.q = (fine >> 16).short()
        mask = self._words(_KEYS[1], 4 * self.x.numel()).view(torch.int32) & M31.p
        _none_is_p(mask)
        long = mask.long()
        self.shares = [((alpha * long + beta * self.q) % M31.p).int() for _, alpha, beta in _CODED]

    def combine(self) -> None:
        total = torch.zeros(self.x.numel(), dtype=torch.int64)
        for answer, times in zip((*self.shares, self._third), _COEFFICIENTS, strict=True):
            _all_residues(answer)
            total = total + times * answer.long()
        self.out = ((total + M31.half) % M31.p - M31.half).float() * 2.0**-_SHIFT


class _InPlace(_Torch):
    """The same in place, in buffers that are made once."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._fine, self._mask = (torch.zeros(size, dtype=torch.int32) for _ in range(2))
        self._sum, self._long = (torch.zeros(size, dtype=torch.int64) for _ in range(2))
        self._scaled = torch.zeros(size)

    def share(self) -> None:
        shift = self._shift()
        words = self._words(_KEYS[0], 2 * self.x.numel()).view(torch.int16)
        torch.mul(self.x, 2.0 ** (shift + 16), out=self._scaled).floor_()
        self._fine.copy_(self._scaled).add_(self._mask.copy_(words).bitwise_and_(0xFFFF))
        self.q.copy_(self._fine.bitwise_right_shift_(16))
        stream = self._words(_KEYS[1], 4 * self.x.numel()).view(torch.int32)
        torch.bitwise_and(stream, M31.p, out=self._mask)
        _none_is_p(self._mask)
        for share, (_, alpha, beta) in zip(self.shares, _CODED, strict=True):
            self._sum.copy_(self._mask).mul_(alpha)
            share.copy_(self._sum.add_(self.q, alpha=beta).remainder_(M31.p))

    def combine(self) -> None:
        self._sum.zero_()
        for answer, times in zip((*self.shares, self._third), _COEFFICIENTS, strict=True):
            _all_residues(answer)
            self._sum.add_(self._long.copy_(answer), alpha=times)
        self._sum.remainder_(M31.p).add_(M31.half).remainder_(M31.p).sub_(M31.half)
        self.out.copy_(self._sum).mul_(2.0**-_SHIFT)


def _none_is_p(mask: torch.Tensor) -> None:
    if int(mask.max()) == M31.p:  # one in 2**31
        raise AssertionError("another key, please")


def _all_residues(answer: torch.Tensor) -> None:
    low, high = answer.aminmax()
    if int(low) < 0 or int(high) >= M31.p:
        raise AssertionError("no residue")


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
