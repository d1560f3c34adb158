"""Which layers are worth sending, from rates measured on this machine.

A layer pays where the trusted side spends less on masking, putting together and checking than on
computing it. Both are measured here: the layer is run with tensors of its own shapes, and the
kernels' rates are applied to the numbers that its products would touch. Nothing is assumed of kinds
of layers: attention's score matrix may well be faster inside, a first convolution may pay.
"""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from svetovid.errors import InputError
from svetovid.offload import freivalds, kernels
from svetovid.offload.address import KEY_BYTES
from svetovid.offload.allocator import kept_memory
from svetovid.offload.field import M31
from svetovid.offload.layers import masked_form
from svetovid.offload.product import Product
from svetovid.offload.protecting import protect
from svetovid.offload.protocols import CODED, Scheme

__all__ = ["LayerCost", "Rates", "costs", "measure_rates", "plan"]

_ELEMENTS = 1 << 23
"""Of a kernel's measurement: more than caches hold."""
_CHANNELS = 256
_ROUNDS = 3


@dataclass(frozen=True)
class Rates:
    """What the trusted side can do, in numbers a second of processor time.

    Attributes:
        share: quantised, masked and shared.
        combine: put together from answers.
        check: contracted for a check, all repetitions together.
        product_s: seconds that a product takes however small it is.
    """

    share: float
    combine: float
    check: float
    product_s: float


@dataclass(frozen=True)
class LayerCost:
    """One layer in one step.

    Attributes:
        inside_s: processor seconds to compute it inside, forward and backward.
        masked_s: processor seconds on the trusted side to have it computed; infinite where it
            cannot be sent.
        macs: multiplications of its products.
        send: whether that pays.
    """

    name: str
    kind: str
    inside_s: float
    masked_s: float
    macs: int

    @property
    def send(self) -> bool:
        return self.masked_s < self.inside_s


def measure_rates(scheme: Scheme = CODED, *, threads: int = 1, elements: int = _ELEMENTS) -> Rates:
    """Measure the kernels: best of some rounds.

    Args:
        elements: of the tensors that are measured with.
    """
    with kept_memory():
        return _measured(scheme, threads, elements)


def _measured(scheme: Scheme, threads: int, elements: int) -> Rates:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(elements, np.float32)
    q = np.empty(elements, np.int16)
    sent = [p for w in scheme.workers for p in w.points if p not in scheme.masks]
    size = elements // scheme.blocks
    outs = [np.empty(size, np.int32) for _ in sent]
    roles = list(scheme.masks)
    made = {share.point: share for share in scheme.shares}
    keys = [bytes([i]) * KEY_BYTES for i in range(len(roles))]

    def share() -> None:
        shift = kernels.shift_of(kernels.absmax(x, threads=threads))
        rounding, p = bytes(KEY_BYTES), M31.p
        if scheme.at_once:
            which = [made[point] for point in sent]
            to = [
                (out, roles.index(s.mask), s.alpha, s.betas[0])
                for out, s in zip(outs, which, strict=True)
            ]
            kernels.share(x, shift, rounding, keys, p, q, to, threads=threads)
            return
        kernels.share(x, shift, rounding, [], p, q, [], threads=threads)
        blocks = [q[k * size : (k + 1) * size] for k in range(scheme.blocks)]
        rows = [(out, *scheme.row(point)) for out, point in zip(outs, sent, strict=True)]
        kernels.mix(blocks, keys, p, rows, threads=threads)

    share()
    whole, out = np.empty(elements, np.int32), np.empty(elements, np.float32)
    times = [scheme.answers([k], M31.p) for k in range(scheme.blocks)]

    def combine(count: int = size) -> None:
        for k, of_block in enumerate(times):
            used = [n for n in of_block if n]
            given = [outs[i % len(outs)][:count] for i in range(len(used))]
            at = slice(k * size, k * size + count)
            kernels.combine(given, used, M31.p, 0, out[at], whole[at], threads=threads)

    by = rng.integers(0, M31.p, _CHANNELS, np.int32)

    def check() -> None:
        for _ in range(freivalds.repeats(M31)):
            kernels.contract(whole.reshape(-1, _CHANNELS, 16), None, by, threads=threads)

    one = Product("matmul", (1, 1, 1), (1, 1, 1), (1, 1, 1))

    def least() -> None:
        combine(1)
        freivalds.holds(one, [(1, q[:1], q[:1])], whole[:1], 1, M31)

    return Rates(
        share=elements / _best(share),
        combine=elements / _best(combine),
        check=elements / _best(check),
        product_s=_best(least),
    )


def _best(run: Callable[[], object], rounds: int = _ROUNDS) -> float:
    """Least processor seconds of some rounds, the first of which only warms up."""
    found = []
    for _ in range(rounds + 1):
        begun = time.process_time()
        run()
        found.append(time.process_time() - begun)
    return max(min(found[1:]), 1e-9)


@dataclass
class _Counted:
    """What a layer's products touch."""

    shared: int = 0
    combined: int = 0
    checked: int = 0
    products: int = 0
    macs: int = 0
    fits: bool = True


@dataclass(frozen=True, eq=False)
class _Operand:
    layer: str
    shape: tuple[int, ...]


@dataclass
class _Counter:
    """A multiplier that counts, and answers zeros."""

    layers: dict[str, _Counted] = field(default_factory=lambda: defaultdict(_Counted))
    begun: int = 0

    def operand(self, name: str, value: torch.Tensor) -> _Operand:
        layer = name.rsplit("/", 1)[0].split("#")[0]
        self.layers[layer].shared += value.numel()
        return _Operand(layer, tuple(value.shape))

    def ask(self, product: Product, a: _Operand, b: _Operand) -> Callable[[], torch.Tensor]:
        """See :meth:`svetovid.offload.multiplier.Multiplier.ask`: computed when it is taken."""
        return lambda: self.multiply(product, a, b)

    def multiply(self, product: Product, a: _Operand, b: _Operand) -> torch.Tensor:
        counted = self.layers[a.layer]
        try:
            parts = len(product.parts(M31.longest))
        except InputError:  # a sum that is too long, and cannot be cut
            counted.fits, parts = False, 1
        out = math.prod(product.out)
        counted.combined += parts * out
        counted.checked += math.prod(product.a) + math.prod(product.b) + parts * out
        counted.products += parts
        counted.macs += product.macs
        return torch.zeros(product.out)


def plan(found: Iterable[LayerCost]) -> set[str]:
    """Names of the layers that are worth sending, as :func:`svetovid.offload.protect` and
    ``svetovid.training.protect`` take them."""
    return {cost.name for cost in found if cost.send}


def costs(
    model: nn.Module,
    example: torch.Tensor,
    rates: Rates,
    *,
    train: bool = True,
    tick: Callable[[str], None] = lambda _: None,
) -> list[LayerCost]:
    """What each layer that can be sent costs inside and sent, in the model's order.

    Args:
        model: plain, of float32.
        example: a batch as it will be; its values do not matter.
        train: with gradients, or forward only.
        tick: called with the name of each layer before it is measured.

    """
    with kept_memory():
        return list(_costs(model, example, rates, train, tick))


def _costs(
    model: nn.Module, example: torch.Tensor, rates: Rates, train: bool, tick: Callable[[str], None]
) -> Iterator[LayerCost]:
    counter = _Counter()
    with torch.set_grad_enabled(train), torch.random.fork_rng():
        can = {name for name, module in model.named_modules() if masked_form(module)}
        out = protect(copy.deepcopy(model).train(train), counter, can)(example)
        if train:
            out.sum().backward()
        inputs = dict(_inputs(copy.deepcopy(model).train(train), example))
    for name, module in model.named_modules():
        if masked_form(module) is None or name not in counter.layers:
            continue
        tick(name)
        counted = counter.layers[name]
        # What a layer does beside its products stays inside: a bias, a softmax, a dropout.
        around = protect(copy.deepcopy(module), _Counter())
        masked = (
            sum(_seconds(around, given, train) for given in inputs[name])
            + counted.shared / rates.share
            + counted.combined / rates.combine
            + counted.checked / rates.check
            + counted.products * rates.product_s
        )
        yield LayerCost(
            name,
            type(module).__name__,
            sum(_seconds(module, given, train) for given in inputs[name]),
            masked if counted.fits else math.inf,
            counted.macs,
        )


_Given = tuple[tuple[Any, ...], dict[str, Any]]


def _inputs(model: nn.Module, example: torch.Tensor) -> Iterator[tuple[str, list[_Given]]]:
    """What each layer is called with."""
    seen: dict[str, list[_Given]] = defaultdict(list)
    for name, module in model.named_modules():
        if masked_form(module) is not None:

            def hook(
                _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name
            ) -> None:
                seen[name].append((args, kwargs))

            module.register_forward_pre_hook(hook, with_kwargs=True)
    model(example)
    yield from seen.items()


def _seconds(module: nn.Module, given: _Given, train: bool) -> float:
    """Processor seconds to compute a layer, with gradients of what needs them."""
    layer = copy.deepcopy(module).train(train)
    args, kwargs = given

    def own(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.detach().clone().requires_grad_(value.requires_grad and train)

    args, kwargs = tuple(own(a) for a in args), {k: own(v) for k, v in kwargs.items()}

    def once() -> None:
        for tensor in (*layer.parameters(), *args, *kwargs.values()):
            if isinstance(tensor, torch.Tensor):
                tensor.grad = None
        out = layer(*args, **kwargs)
        first = out[0] if isinstance(out, tuple) else out
        if train and first.requires_grad:
            first.backward(torch.ones_like(first))

    return _best(once)
