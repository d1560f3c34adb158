"""The exact product of two tensors of residues, on any device: what a worker computes.

The trusted side computes its small contracted products with it too.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor

from svetovid.errors import HostError, InputError
from svetovid.offload import packed_limbs
from svetovid.offload.field import FIELDS
from svetovid.offload.limbs import SCHEMES, Scheme
from svetovid.offload.lowering import compute
from svetovid.offload.product import Product
from svetovid.offload.windows import forward, padded, slid

Compute = Callable[[Product, Tensor, Tensor], Tensor]

__all__ = ["fastest", "kernels", "multiply", "proven", "self_test"]


def multiply(
    product: Product,
    a: Tensor,
    b: Tensor,
    p: int,
    parts: int,
    *,
    kernel: str | None = None,
    packed: bool = True,
) -> Tensor:
    """The product modulo p, each part of the reduction for itself.

    Args:
        a, b: int32 residues in [0, p) on one device, of the product's shapes or flat.
        p: prime of the field.
        parts: as :meth:`Product.split` takes it. 1 for the whole in one result.
        kernel: one of :func:`kernels`; the fastest where it is not said.
        packed: whether it may compute what is narrow with digits that stay together.

    Returns:
        int32 residues in [0, p), ``[parts, *product.out]``.

    Raises:
        InputError: ``worker.operand``: a number is no residue, or there are not so many of them;
            ``offload.shape``: it cannot be split so.
    """
    ranges = product.split(parts)
    a, b = _operand(a, product.a, p), _operand(b, product.b, p)
    by = SCHEMES[kernel or fastest(a.device, p)](p)
    by = replace(by, packs=by.packs and packed)
    out = torch.zeros(parts, *product.out, dtype=torch.int32, device=a.device)
    for result, part in zip(out, ranges, strict=True):
        compute(by, product, a, b, part, result)
    return out


def _operand(value: Tensor, shape: tuple[int, ...], p: int) -> Tensor:
    good = value.dtype == torch.int32 and value.numel() == math.prod(shape)
    if good:
        least, greatest = value.aminmax()
        good = int(least) >= 0 and int(greatest) < p
    if not good:
        raise InputError(
            "worker.operand",
            expected=f"{math.prod(shape):,} int32 numbers from 0 to {p - 1:,}",
            observed=f"{value.numel():,} of {value.dtype}, or numbers outside",
            next_step="drop the connection: whoever sent this does not speak the protocol",
        )
    return value.reshape(shape)


def _square(k: int, side: int) -> Product:
    return Product("matmul", (1, side, k), (1, k, side), (1, side, side))


@cache
def kernels(device: torch.device) -> tuple[str, ...]:
    """Those of :data:`svetovid.offload.limbs.SCHEMES` that this device can compute at all."""
    p = max(FIELDS)
    ones = torch.ones(64, dtype=torch.int32, device=device)

    def runs(kernel: str) -> bool:
        try:
            multiply(_square(8, 8), ones, ones, p, 1, kernel=kernel)
        except (RuntimeError, TypeError):
            return False
        return True

    return tuple(kernel for kernel in SCHEMES if runs(kernel))


@cache
def fastest(device: torch.device, p: int) -> str:
    """The kernel that multiplied matrices first here, of those that :func:`kernels` names."""
    on_cpu = device.type == "cpu"
    side = 384 if on_cpu else 4096
    # Workers that start together share cores: seconds by the clock would say who had one.
    clock = time.process_time if on_cpu else time.perf_counter
    operand = torch.arange(side * side, dtype=torch.int32, device=device) % p

    def seconds(kernel: str) -> float:
        rounds = []
        for _ in range(3):
            start = clock()
            # The device has finished only when a number is here.
            multiply(_square(side, side), operand, operand, p, 1, kernel=kernel)[0, 0, 0, 0].item()
            rounds.append(clock() - start)
        return min(rounds)

    return min(kernels(device), key=seconds)


def self_test(device: torch.device) -> None:
    """Hold every kernel of a device against whole numbers, in every field and of every kind: at the
    ends of the operands where sums are longest, and of random ones.

    Fast algorithms that trade exactness for speed (Winograd, FFT, TF32, FP64 that is emulated in
    fewer bits) fail it.

    Raises:
        HostError: ``worker.kernel``: a kernel is not exact. The machine can be no worker.
    """
    side = 32 if device.type == "cpu" else 512
    for kernel, p in itertools.product(kernels(device), FIELDS):
        by = SCHEMES[kernel](p)
        for packed in {by.packs, False}:
            compute = partial(multiply, p=p, parts=1, kernel=kernel, packed=packed)
            exact = all(
                _exact_at_ends(product, by, compute, device) for product in _long(by.longest, side)
            ) and all(
                _exact_at_random(product, p, compute, device)
                for product in (_square(by.longest + 1, side), *_small())
            )
            if not exact:
                raise HostError(
                    "worker.kernel",
                    expected=f"exact products modulo {p:,}",
                    observed=f"another result by {kernel} on {device}",
                    next_step="use another device: this one, or its driver's settings, rounds",
                )


@cache
def proven(device: torch.device) -> None:
    """:func:`self_test`, once in a process.

    Raises:
        HostError: ``worker.kernel``.
    """
    self_test(device)


def _long(k: int, side: int) -> list[Product]:
    """Of every kind, with so many terms to every number of the result."""
    conv = partial(Product, stride=(1,), padding=(0,), dilation=(1,))
    return [
        _square(k, side),
        conv("conv", (2, k, 1), (8, k, 1), (2, 8, 1)),
        conv("conv_input", (2, k, 1), (k, 8, 1), (2, 8, 1)),
        conv("conv_weight", (k, 2, 1), (k, 8, 1), (8, 2, 1)),
    ]


def _small() -> list[Product]:
    """Convolutions with all that a convolution may have but groups, which are taken one by one."""
    x, w, y = (2, 8, 7, 9), (8, 8, 3, 3), (2, 8, 4, 3)
    conv = partial(Product, stride=(2, 3), padding=(1, 1), dilation=(1, 2))
    return [
        conv("conv", x, w, y),
        conv("conv_input", y, w, x),
        conv("conv_weight", x, y, w),
    ]


def _exact_at_ends(product: Product, by: Scheme, compute: Compute, device: torch.device) -> bool:
    """Of operands that are one number everywhere."""
    half = by.p // 2
    ends = {by.ends, packed_limbs.ends(by.p)} if by.packs else {by.ends}
    pairs = [pair for low, high in ends for pair in ((low, low), (low, high))]
    for left, right in ((half, half), (half, -half), *pairs):
        a = torch.full(product.a, left % by.p, dtype=torch.int32, device=device)
        b = torch.full(product.b, right % by.p, dtype=torch.int32, device=device)
        result = compute(product, a, b)
        if not bool((result == product.reduction * left * right % by.p).all()):
            return False
    return True


def _exact_at_random(product: Product, p: int, compute: Compute, device: torch.device) -> bool:
    """The result against a random tensor, and the same number from the operands: they agree on a
    wrong result with probability 1 / p, of a matrix product 2 / p."""
    draws = torch.Generator().manual_seed(product.reduction)

    def draw(*shape: int) -> Tensor:
        return torch.randint(p, shape, generator=draws, dtype=torch.int32)

    a, b = draw(*product.a), draw(*product.b)
    result = compute(product, a.to(device), b.to(device))[0].cpu().long()
    if product.kind == "matmul":
        left, right = draw(product.out[1]).long(), draw(product.out[2]).long()
        seen = _dot((result[0] * right % p).sum(1), left, p)
        return seen == _dot((a[0].mT * left % p).sum(1), (b[0] * right % p).sum(1), p)
    against = draw(*product.out)
    x, w, y = {
        "conv": (a, b, against),
        "conv_input": (against, b, a),
        "conv_weight": (a, against, b),
    }[product.kind]
    weight = w.long().movedim(1, -1).flatten(1)
    read = slid(*padded(x.long().movedim(1, -1), forward(product)))
    forwards = (read.reshape(-1, 1, weight.shape[1]) * weight % p).sum(-1)
    return _dot(result, against, p) == _dot(forwards, y.movedim(1, -1).reshape(-1, w.shape[0]), p)


def _dot(a: Tensor, b: Tensor, p: int) -> int:
    """Of int64, reduced before it is multiplied: no product reaches 2^62."""
    return int((a % p * (b % p) % p).sum() % p)
