"""What the trusted side of masked mode saves: a step computed inside over the same step masked.

Each step is forward, backward and one step of SGD with momentum, in fp32. *Inside* it runs in this
process as PyTorch runs it; *masked* the plan's layers are sent to three real worker processes on
this machine, over shared memory, every product checked. Both are timed turn by turn, on the same
one core and with one thread; workers have the others. What counts is this process's own processor
time: transport, copies, ledger, checks and optimiser are in it, waiting is not.

Inside, the faster of PyTorch's two memory layouts counts. Both ways run in one process that keeps
what it frees (``svetovid.offload.allocator``), in a steady state: memory was touched before.

Top-level keys:
    trusted_speedup: VGG11-BN at batch 512, CIFAR shape: inside over masked, processor seconds.
    trusted_speedup_tls: the same with workers behind TLS on the loopback; told, not bound.
    vs_bf16: the same, inside in bfloat16 (autocast); ``bf16_by`` says by which instructions.
    conv512_speedup: convolutions to 512 channels, batch 512: the worst of 256 and 512 channels at
        4 x 4 and 512 at 2 x 2.
    block_8x512_speedup, block_1x4096_speedup: a transformer block, d = 2048, causal, of 8 texts of
        512 tokens, and of one of 4,096.
    products_ratio, operand_bytes_ratio: coded over improved Goten, as workers count them in one
        step of a small net: products of whole tensors, bytes of operands.
    share_ratio, published_share_ratio: masking and sharing in seconds of one core, coded over
        improved Goten, two shares written each; and over Goten as published, whose masks are new
        for each of the two products that a tensor is in.
    kernel_gelem_s, combine_gelem_s: numbers a second, in 10^9, from memory that no cache holds, on
        one core: absmax, quantise, mask and two shares; three answers put together.
        ``combine_checked_gelem_s``: and written as integers too, for the check.
    kernel_ratio, combine_ratio: over the same bits by separate torch operations, each of which
        makes its result. ``kernel_in_place_ratio``, ``combine_in_place_ratio``: over the hardest
        such baseline: in place, in buffers that are made once.
    accuracy_points: the CNN of the main job, trained on 12,000 images of Fashion-MNIST for two
        epochs: percentage points that the masked model, used masked, is behind fp32 on 10,000
        held-out images, the worst of three seeds.
    vs_crypten: a training step of LeNet, batch 32, seconds by the clock: in CrypTen with two
        processes over masked with every layer sent; null where ``SVETOVID_CRYPTEN`` names no
        Python (``_crypten.py``). CrypTen trusts no machine; masked mode trusts one.
    parts: when each part of the run was measured (``_parts.py``).
    gpu: null: workers of this benchmark compute on processors.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from torch import nn

from benchmarks import _accuracy, _crypten
from benchmarks import _sides as sides
from benchmarks._harness import summary
from benchmarks._kernels import kernel_ratios, kernel_rounds
from benchmarks._parts import Parts
from benchmarks._quiet import Quiet
from svetovid.offload.kernels import paths
from svetovid.offload.planner import LayerCost, Rates, costs, measure_rates, plan
from svetovid.offload.protocols import CODED, GOTEN, Scheme
from svetovid.offload.recorder import Recorder
from svetovid.offload.session import Session

T = TypeVar("T")
_NET_ROUNDS = 6
"""Workers on one core take a minute for VGG11, and minutes for a block."""
_TIMES = {"inside": 2, "channels_last": 2, "bf16": 2}
"""Steps of a turn: these take seconds, where workers take a minute."""
_STEPS = 5
"""Of ours for one of CrypTen's, which is much longer."""
_INFERENCE = 1 << 20
"""The step after all steps of training."""


def _timed(run: Callable[[], object]) -> tuple[float, float]:
    """Processor seconds of this process, and seconds by the clock."""
    used, begun = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - used, time.perf_counter() - begun


def _each(run: Callable[[], object], times: int) -> tuple[float, float]:
    """The same of one of several runs."""
    used, passed = _timed(lambda: [run() for _ in range(times)])
    return used / times, passed / times


def measured(
    model: nn.Module,
    x: torch.Tensor,
    loss: Callable[[torch.Tensor], torch.Tensor],
    rates: Rates,
    rounds: int,
    quiet: Quiet,
    *,
    every: bool = False,
    send: set[str] | None = None,
) -> dict[str, Any]:
    """One net: inside and masked turn by turn; with ``every`` also inside in bfloat16, and some
    rounds over TLS. What the plan says is sent, or ``send``."""
    mine = os.sched_getaffinity(0)
    inside, others = {min(mine)}, (mine - {min(mine)}) or mine
    found_costs = costs(model, x, rates)
    sent = send or plan(found_costs)
    os.sched_setaffinity(0, inside)
    try:
        with ExitStack() as stack:

            def masked(**how: bool) -> sides.Side:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                return stack.enter_context(sides.masked(model, sent, folder, others, **how))

            ways = {"inside": sides.side(model), "channels_last": sides.side(sides.turned(model))}
            ways["masked"] = masked()
            if every:
                ways["bf16"] = sides.side(model, dtype=torch.bfloat16)

            def turn(names: list[str]) -> dict[str, tuple[float, float]]:
                return {
                    n: _each(lambda n=n: ways[n].step(x, loss), _TIMES.get(n, 1)) for n in names
                }

            turn(list(ways))
            found = quiet.until_narrow(
                type(model).__name__,
                rounds,
                lambda i: turn(list(ways)[:: 1 if i % 2 else -1]),
                lambda found: _speedups(found)[1],
                most=3 * rounds,
            )
            told = {way: [f[way] for f in found] for way in ways}
            best, ratios = _speedups(found)
            if every:
                ways["tls"] = masked(tls=True)
                pair = [best, "tls"]
                turn(pair)
                beside = [
                    quiet.round(lambda i=i: turn(pair[:: 1 if i % 2 else -1]))
                    for i in range(rounds)
                ]
                told["tls"] = [f["tls"] for f in beside]
                ratios["tls"] = _over([f[best][0] for f in beside], [f["tls"][0] for f in beside])
    finally:
        os.sched_setaffinity(0, mine)
    cpu = {way: [used for used, _ in each] for way, each in told.items()}
    macs = sum(cost.macs for cost in found_costs)
    return {
        "baseline": best,
        "inside_gflop_s": 2 * macs / median(cpu[best]) / 1e9,
        "cpu_s": {way: summary(seconds) for way, seconds in cpu.items()},
        "wall_s": {way: summary([passed for _, passed in each]) for way, each in told.items()},
        "waiting_s": summary([f["masked"][1] - f["masked"][0] for f in found]),
        "speedup": {way: summary(values) for way, values in ratios.items()},
        "plan": [_told(cost) for cost in found_costs],
    }


def _speedups(found: Sequence[Mapping[str, tuple[float, float]]]) -> tuple[str, dict[str, Any]]:
    """The better way inside, and round by round what others are over it."""
    cpu = {way: [f[way][0] for f in found] for way in found[0]}
    best = min(("inside", "channels_last"), key=lambda way: median(cpu[way]))
    ratios = {"masked": _over(cpu[best], cpu["masked"])}
    if "bf16" in cpu:
        ratios["bf16"] = _over(cpu["bf16"], cpu["masked"])
    return best, ratios


def _against_crypten(rounds: int, quiet: Quiet) -> dict[str, Any]:
    x = torch.randn(_crypten.BATCH, 3, 32, 32)
    y = nn.functional.one_hot(torch.arange(_crypten.BATCH) % 10, 10).float()
    net = _crypten.lenet(nn)
    layers = {n for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    cores = os.sched_getaffinity(0)
    with (
        tempfile.TemporaryDirectory() as folder,
        _crypten.stepping() as theirs,
        sides.masked(net, layers, Path(folder), cores) as ours,
    ):

        def step() -> None:
            ours.step(x, lambda out: nn.functional.mse_loss(out, y))

        def turn(_: int) -> tuple[float, float]:
            """In this order and then in the other."""
            before, mine = theirs(), _each(step, _STEPS)[1]
            mine, after = (mine + _each(step, _STEPS)[1]) / 2, theirs()
            return (before + after) / 2, mine

        turn(0)
        found = quiet.until_narrow(
            *("LeNet", rounds, turn),
            lambda found: {"vs_crypten": [a / b for a, b in found]},
            most=4 * rounds,
        )
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
            sides.masked(net, layers, Path(folder), os.sched_getaffinity(0), seed=seed) as side,
        ):
            session = side.session
            assert session is not None
            run = partial(_run, session, side.model)
            _accuracy.train(side.model, run, data, epochs)
            masked = session.run(
                _INFERENCE, partial(_accuracy.accuracy, side.model, held_out), side.model
            )
        found.append({"plain": _accuracy.accuracy(plain, held_out), "masked": masked})
    return found


def _run(session: Session, model: nn.Module, number: int, step: Callable[[], None]) -> None:
    session.run(number, step, model)


def _counted(scheme: Scheme) -> dict[str, int]:
    """What workers count in one step of a small net: products of whole tensors, operands' bytes."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    seen = [Recorder() for _ in scheme.workers]
    with (
        tempfile.TemporaryDirectory() as folder,
        sides.masked(
            *(net, {"0", "3"}, Path(folder), os.sched_getaffinity(0)),
            scheme=scheme,
            observers=seen,
        ) as side,
    ):
        side.step(torch.randn(4, 3, 8, 8), lambda out: out.square().mean())
    frames = [frame for recorder in seen for frame in recorder.seen if frame.sent]
    products = (len(f.message["terms"]) for f in frames if f.kind == "work")
    return {
        "products": sum(products),
        "operand_bytes": sum(recorder.sent_bytes["operand"] for recorder in seen),
    }


def _bf16_by() -> str:
    """Which instructions of this processor multiply bfloat16."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return next((f for f in ("amx_bf16", "avx512_bf16") if f in flags), "none")


def run(quick: bool) -> dict[str, Any]:
    """Measure everything."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    models = importlib.import_module("examples.masked.models")
    parts = Parts("masked", quick)
    batch, rounds, width = (8, 2, 64) if quick else (512, _NET_ROUNDS, 2048)
    tokens = ((2, 16), (1, 32)) if quick else ((8, 512), (1, 4096))
    rates = Rates(
        **parts.take("rates", lambda _: vars(measure_rates(elements=1 << 18 if quick else 1 << 24)))
    )
    kernels = parts.take(
        "kernels",
        lambda quiet: kernel_rounds(
            quiet, 2 if quick else 11, **({"size": 1 << 20} if quick else {})
        ),
    )
    ratios = kernel_ratios(kernels)
    counted = {scheme.name: _counted(scheme) for scheme in (CODED, GOTEN)}
    crypten = None
    if _crypten.PYTHON:
        crypten = parts.take("crypten", partial(_against_crypten, 2 if quick else 11))
    accuracy = parts.take(
        "accuracy", lambda _: _accuracies(*((1, 256, 1) if quick else (3, 12_000, 2)))
    )
    labels = torch.randint(0, 10, (batch,))
    nets: dict[str, Any] = {}

    def net(name: str, *what: Any, **how: Any) -> None:
        nets[name] = parts.take(name, lambda quiet: measured(*what, rates, rounds, quiet, **how))

    net(
        "vgg11_bn",
        models.VGG11(),
        torch.randn(batch, 3, 32, 32),
        lambda out: nn.functional.cross_entropy(out, labels),
        every=True,
    )
    convs = ((256, 4), (512, 4), (512, 2))
    for channels, side in convs:
        net(
            f"conv_{channels}_{side}x{side}",
            nn.Sequential(nn.Conv2d(channels, 512, 3, padding=1)),
            torch.randn(batch, channels, side, side, requires_grad=True),
            lambda out: out.square().mean(),
            send={"0"},
        )
    for name, (texts, length) in zip(("8x512", "1x4096"), tokens, strict=True):
        net(
            f"block_{name}",
            models.Block(width, 16),
            torch.randn(texts, length, width, requires_grad=True),
            lambda out: out.square().mean(),
        )
    parts.forget()
    native = {name: summary(values) for name, values in kernels.items()}
    summed = {name: summary(values) for name, values in ratios.items()}
    speedup = {name: net["speedup"]["masked"]["median"] for name, net in nets.items()}
    coded, goten = counted[CODED.name], counted[GOTEN.name]
    return {
        "trusted_speedup": speedup["vgg11_bn"],
        "trusted_speedup_tls": nets["vgg11_bn"]["speedup"]["tls"]["median"],
        "vs_bf16": nets["vgg11_bn"]["speedup"]["bf16"]["median"],
        "bf16_by": _bf16_by(),
        "conv512_speedup": min(speedup[f"conv_{c}_{side}x{side}"] for c, side in convs),
        "block_8x512_speedup": speedup["block_8x512"],
        "block_1x4096_speedup": speedup["block_1x4096"],
        "products_ratio": coded["products"] / goten["products"],
        "operand_bytes_ratio": coded["operand_bytes"] / goten["operand_bytes"],
        **{name: found["median"] for name, found in summed.items()},
        "kernel_gelem_s": native["share"]["median"],
        "combine_gelem_s": native["combine"]["median"],
        "combine_checked_gelem_s": native["combine_integers"]["median"],
        "instructions": paths()[0],
        "accuracy_points": max(found["plain"] - found["masked"] for found in accuracy),
        "accuracy": accuracy,
        "vs_crypten": crypten and crypten["ratio"]["median"],
        "crypten": crypten,
        "rates": {
            name: getattr(rates, name) for name in ("share", "combine", "check", "product_s")
        },
        "kernels": native,
        "ratios": summed,
        "counted": counted,
        "gpu": None,
        "nets": nets,
        "parts": parts.dates(),
        "quiet": parts.facts(),
    }


def _over(of: Sequence[float], rates: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(of, rates, strict=True)]


def _told(cost: LayerCost) -> dict[str, Any]:
    return {
        "layer": cost.name,
        "macs": cost.macs,
        "inside_s": round(cost.inside_s, 5),
        "masked_s": round(cost.masked_s, 5),
        "sent": cost.send,
    }
