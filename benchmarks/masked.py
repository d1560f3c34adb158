"""What the trusted side of masked mode saves: a step computed inside over the same step masked.

Each step is forward, backward and one step of SGD with momentum, in fp32. *Inside* it runs in this
process as PyTorch runs it; *masked* the plan's layers are sent to three real worker processes on
this machine, over shared memory, every product checked. Both are timed turn by turn, on the same
one core and with one thread; workers have the others. What counts is this process's own processor
time: transport, copies, ledger, checks and optimiser are in it, waiting is not.

Top-level keys:
    trusted_speedup: VGG11-BN at batch 512, CIFAR shape: inside over masked, processor seconds.
    trusted_speedup_unchecked: the same without checks.
    vs_bf16: the same, inside in bfloat16 (autocast).
    conv512_speedup: a convolution of 512 to 512 channels at 4 x 4, batch 512.
    block_8x512_speedup, block_1x4096_speedup: a transformer block, d = 2048, causal, of 8 texts of
        512 tokens, and of one of 4,096.
    products_ratio, operand_bytes_ratio: coded over improved Goten: products of all workers, numbers
        sent for each number of an operand.
    share_ratio, published_share_ratio: the same of masking and sharing, processor seconds; as
        published, each operand is masked for each of the two products that it is in.
    kernel_gelem_s, combine_gelem_s: numbers a second, in 10^9, from memory that no cache holds, on
        one core: absmax, quantise, mask and two shares; three answers put together.
    kernel_ratio, combine_ratio: over the same by separate torch operations.
    accuracy_points: the CNN of the main job on Fashion-MNIST: percentage points that the masked
        model is behind fp32 on 10,000 held-out images, the worst of three seeds.
    vs_crypten: a training step of LeNet, batch 32, seconds by the clock: in CrypTen with two
        processes over masked with every layer sent; null where ``SVETOVID_CRYPTEN`` names no
        Python (``_crypten.py``).
"""

from __future__ import annotations

import copy
import importlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import _accuracy, _crypten
from benchmarks._harness import interleave, summary
from benchmarks._kernels import kernel_rounds
from benchmarks._quiet import Quiet
from svetovid.crypto import Secret
from svetovid.offload.card import Seat
from svetovid.offload.links.local import started
from svetovid.offload.planner import LayerCost, Rates, measure_rates, plan
from svetovid.offload.protect import protect
from svetovid.offload.protocols import CODED, GOTEN, Scheme
from svetovid.offload.session import Place, Session

_LEARNING = {"lr": 0.01, "momentum": 0.9}
_BLOCK_ROUNDS = 5
"""Workers on one core take minutes for a block."""


@dataclass
class _Side:
    """One way to do a step."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    session: Session | None = None
    dtype: torch.dtype = torch.float32
    steps: int = 0

    def step(self, x: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> None:
        def body() -> None:
            self.optimiser.zero_grad()
            with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
                out = self.model(x)
            loss(out.float()).backward()

        if self.session is None:
            body()
        else:
            self.session.run(self.steps, body, self.model)
        self.optimiser.step()
        self.steps += 1


def _side(model: nn.Module, session: Session | None = None, **more: Any) -> _Side:
    return _Side(model, torch.optim.SGD(model.parameters(), **_LEARNING), session, **more)


def places(count: int, cores: set[int]) -> list[Place]:
    """Workers in processes of their own, on cores of their own."""

    def place(number: int) -> Place:
        name = f"worker {number}"

        def connect() -> Any:
            mine = os.sched_getaffinity(0)
            os.sched_setaffinity(0, cores)
            try:
                return started(identity=name, operator=f"operator {number}", timeout_s=600)
            finally:
                os.sched_setaffinity(0, mine)

        return Place(Seat(name, f"operator {number}", "memory"), connect)

    return [place(i) for i in range(count)]


@contextmanager
def _masked(
    model: nn.Module, layers: set[str], folder: Path, others: set[int], *, check: bool = True
) -> Iterator[_Side]:
    model = copy.deepcopy(model)
    where = places(3, others)
    key = Secret(bytes(32))
    with Session(CODED, where, folder, run="bench", roundings=key, check=check) as session:
        protect(model, session, layers)
        yield _side(model, session)


def _timed(run: Callable[[], object]) -> tuple[float, float]:
    """Processor seconds of this process, and seconds by the clock."""
    used, begun = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - used, time.perf_counter() - begun


def measured(
    model: nn.Module,
    x: torch.Tensor,
    loss: Callable[[torch.Tensor], torch.Tensor],
    rates: Rates,
    rounds: int,
    quiet: Quiet,
    *,
    every: bool = False,
) -> dict[str, Any]:
    """One net: inside and masked turn by turn; with ``every`` unchecked and in bfloat16 as well."""
    mine = os.sched_getaffinity(0)
    inside, others = {min(mine)}, (mine - {min(mine)}) or mine
    costs = plan(model, x, rates)
    sent = {cost.name for cost in costs if cost.send}
    os.sched_setaffinity(0, inside)
    try:
        with ExitStack() as stack:

            def masked(check: bool) -> _Side:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                return stack.enter_context(_masked(model, sent, folder, others, check=check))

            ways = {"inside": _side(copy.deepcopy(model)), "masked": masked(check=True)}
            if every:
                ways["unchecked"] = masked(check=False)
                ways["bf16"] = _side(copy.deepcopy(model), dtype=torch.bfloat16)

            def turn(names: list[str]) -> dict[str, tuple[float, float]]:
                return {n: _timed(lambda n=n: ways[n].step(x, loss)) for n in names}

            turn(list(ways))
            found = [
                quiet.round(lambda i=i: turn(list(ways)[:: 1 if i % 2 else -1]))
                for i in range(rounds)
            ]
    finally:
        os.sched_setaffinity(0, mine)
    cpu = {way: [f[way][0] for f in found] for way in ways}
    ratios = {
        way: [a / b for a, b in zip(cpu["inside"], cpu[way], strict=True)]
        for way in ("masked", "unchecked")
        if way in cpu
    }
    if "bf16" in cpu:
        ratios["bf16"] = [a / b for a, b in zip(cpu["bf16"], cpu["masked"], strict=True)]
    quiet.require_narrow("speedup", ratios["masked"])
    return {
        "cpu_s": {way: summary(seconds) for way, seconds in cpu.items()},
        "wall_s": {way: summary([f[way][1] for f in found]) for way in ways},
        "speedup": {way: summary(values) for way, values in ratios.items()},
        "plan": [_told(cost) for cost in costs],
    }


def _against_crypten(rounds: int, quiet: Quiet) -> dict[str, Any] | None:
    if not _crypten.PYTHON:
        return None
    x = torch.randn(_crypten.BATCH, 3, 32, 32)
    y = nn.functional.one_hot(torch.arange(_crypten.BATCH) % 10, 10).float()
    net = _crypten.lenet(nn)
    layers = {n for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    cores = os.sched_getaffinity(0)
    with (
        tempfile.TemporaryDirectory() as folder,
        _crypten.stepping() as theirs,
        _masked(net, layers, Path(folder), cores) as ours,
    ):

        def step() -> None:
            ours.step(x, lambda out: nn.functional.mse_loss(out, y))

        def turn() -> tuple[float, float]:
            return theirs(), _timed(step)[1]

        turn()
        turn()
        found = [quiet.round(turn) for _ in range(rounds)]
    return {
        "crypten_s": summary([f[0] for f in found]),
        "masked_s": summary([f[1] for f in found]),
        "ratio": summary([a / b for a, b in found]),
    }


def _accuracies(seeds: int, count: int, epochs: int) -> list[dict[str, float]]:
    """Percent right on held-out images, plain and masked, from the same starts and batches."""
    data, held_out = _accuracy.images("train", count), _accuracy.images("t10k", 10_000)
    found = []
    for seed in range(seeds):
        plain, net = _accuracy.network(seed), _accuracy.network(seed)
        _accuracy.train(plain, lambda _, step: step(), data, epochs)
        layers = {n for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        with (
            tempfile.TemporaryDirectory() as folder,
            _masked(net, layers, Path(folder), os.sched_getaffinity(0)) as side,
        ):
            assert side.session is not None
            _accuracy.train(side.model, partial(_run, side.session, side.model), data, epochs)
        net.load_state_dict(side.model.state_dict())
        ways = {"plain": plain, "masked": net}
        found.append({way: _accuracy.accuracy(model, held_out) for way, model in ways.items()})
    return found


def _run(session: Session, model: nn.Module, number: int, step: Callable[[], None]) -> None:
    session.run(number, step, model)


def _sharing(elements: int, rounds: int, quiet: Quiet) -> dict[str, list[float]]:
    """Processor seconds of masking and sharing, coded over Goten."""
    import numpy as np

    from svetovid.offload import kernels
    from svetovid.offload.field import M31

    x = np.random.default_rng(0).standard_normal(elements, np.float32)
    q = np.empty(elements, np.int16)
    memory = [np.empty(elements, np.int32) for _ in range(3)]

    def share(scheme: Scheme) -> Callable[[], None]:
        made = {s.point: s for s in scheme.shares}
        sent = [made[p] for w in scheme.workers for p in w.points if p in made]
        keys = [bytes([i]) * 32 for i, _ in enumerate(scheme.masks)]
        outs = [
            (to, scheme.masks.index(s.mask), s.alpha, s.betas[0])
            for to, s in zip(memory, sent, strict=False)
        ]

        def once() -> None:
            shift = kernels.shift_of(kernels.absmax(x))
            kernels.share(x, shift, bytes(32), keys, M31.p, q, outs)

        return once

    work = {"coded": share(CODED), "goten": share(GOTEN)}
    seconds = interleave(work, rounds, quiet)
    ratios = [a / b for a, b in zip(seconds["coded"], seconds["goten"], strict=True)]
    return {"improved": ratios, "published": [r / 2 for r in ratios]}


def run(quick: bool) -> dict[str, Any]:
    """Measure everything."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    models = importlib.import_module("examples.masked.models")
    quiet = Quiet(quick)
    batch, rounds, width = (8, 2, 64) if quick else (512, 7, 2048)
    tokens = ((2, 16), (1, 32)) if quick else ((8, 512), (1, 4096))
    rates = measure_rates(elements=1 << 18 if quick else 1 << 24)
    kernels = kernel_rounds(quiet, 2 if quick else 11, **({"size": 1 << 20} if quick else {}))
    shared = _sharing(1 << 18 if quick else 1 << 25, 2 if quick else 11, quiet)
    crypten = _against_crypten(2 if quick else 11, quiet)
    accuracy = _accuracies(*((1, 256, 1) if quick else (3, 12_000, 2)))
    labels = torch.randint(0, 10, (batch,))
    nets = {
        "vgg11_bn": measured(
            models.VGG11(),
            torch.randn(batch, 3, 32, 32),
            lambda out: nn.functional.cross_entropy(out, labels),
            *(rates, rounds, quiet),
            every=True,
        ),
        "conv512": measured(
            nn.Sequential(nn.Conv2d(512, 512, 3, padding=1)),
            torch.randn(batch, 512, 4, 4, requires_grad=True),
            lambda out: out.square().mean(),
            *(rates, rounds, quiet),
        ),
    }
    for name, (texts, length) in zip(("8x512", "1x4096"), tokens, strict=True):
        nets[f"block_{name}"] = measured(
            models.Block(width, 16),
            torch.randn(texts, length, width, requires_grad=True),
            lambda out: out.square().mean(),
            *(rates, min(rounds, _BLOCK_ROUNDS), quiet),
        )
    native = {name: summary(values) for name, values in kernels.items()}
    speedup = {name: net["speedup"]["masked"]["median"] for name, net in nets.items()}
    return {
        "trusted_speedup": speedup["vgg11_bn"],
        "trusted_speedup_unchecked": nets["vgg11_bn"]["speedup"]["unchecked"]["median"],
        "vs_bf16": nets["vgg11_bn"]["speedup"]["bf16"]["median"],
        "conv512_speedup": speedup["conv512"],
        "block_8x512_speedup": speedup["block_8x512"],
        "block_1x4096_speedup": speedup["block_1x4096"],
        "products_ratio": CODED.products / GOTEN.products,
        "operand_bytes_ratio": CODED.sent / GOTEN.sent,
        "share_ratio": summary(shared["improved"])["median"],
        "published_share_ratio": summary(shared["published"])["median"],
        "kernel_gelem_s": native["share"]["median"],
        "combine_gelem_s": native["combine"]["median"],
        "kernel_ratio": native["share"]["median"] / native["share_torch"]["median"],
        "combine_ratio": native["combine"]["median"] / native["combine_torch"]["median"],
        "accuracy_points": max(found["plain"] - found["masked"] for found in accuracy),
        "accuracy": accuracy,
        "vs_crypten": crypten and crypten["ratio"]["median"],
        "crypten": crypten,
        "rates": {
            name: getattr(rates, name) for name in ("share", "combine", "check", "product_s")
        },
        "kernels": native,
        "sharing": {name: summary(values) for name, values in shared.items()},
        "nets": nets,
        "quiet": quiet.facts(),
    }


def _told(cost: LayerCost) -> dict[str, Any]:
    return {
        "layer": cost.name,
        "inside_s": round(cost.inside_s, 5),
        "masked_s": round(cost.masked_s, 5),
        "sent": cost.send,
    }
