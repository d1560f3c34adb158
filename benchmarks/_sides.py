"""Two ways to do a step of training, and workers in processes of their own."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from svetovid.crypto import Secret
from svetovid.offload.card import Seat
from svetovid.offload.links import connected, make_certificate
from svetovid.offload.links.local import started
from svetovid.offload.protecting import protect
from svetovid.offload.protocols import CODED, Scheme
from svetovid.offload.recorder import Recorder
from svetovid.offload.session import Place, Session

__all__ = ["Side", "masked", "side", "turned"]

_LEARNING = {"lr": 0.01, "momentum": 0.9}


@dataclass
class Side:
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


def turned(model: nn.Module) -> nn.Module:
    """In the other memory layout, which PyTorch's convolutions may like better."""
    return copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def side(model: nn.Module, session: Session | None = None, **more: Any) -> Side:
    if session is None:
        model = copy.deepcopy(model)
    return Side(model, torch.optim.SGD(model.parameters(), **_LEARNING), session, **more)


@contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    """What is started meanwhile stays on these cores."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def places(cores: set[int], observers: Sequence[Recorder | None]) -> list[Place]:
    """Workers in processes of their own, on cores of their own, that see the same memory."""

    def place(number: int, observer: Recorder | None) -> Place:
        who = {"identity": f"worker {number}", "operator": f"operator {number}"}

        def connect() -> Any:
            with _on(cores):
                return started(**who, timeout_s=600, observer=observer)

        return Place(Seat(*who.values(), "memory"), connect)

    return [place(i, observer) for i, observer in enumerate(observers)]


@contextmanager
def served(count: int, cores: set[int], folder: Path) -> Iterator[list[Place]]:
    """The same behind TLS on the loopback, as ``svetovid worker serve`` has them."""
    own = folder / "host.pem"
    make_certificate(own)
    with ExitStack() as stack:

        def place(number: int) -> Place:
            file, operator = folder / f"worker{number}.pem", f"operator {number}"
            identity = make_certificate(file)
            command = [sys.executable, "-m", "svetovid.cli", "worker", "serve", str(file)]
            host = [f"--host={own.with_suffix('.crt')}", "--listen=127.0.0.1:0", "--json"]
            with _on(cores):
                worker = subprocess.Popen([*command, *host], stdout=subprocess.PIPE, text=True)
            stack.enter_context(worker)
            stack.callback(worker.kill)
            assert worker.stdout is not None
            port = json.loads(worker.stdout.readline())["port"]
            who = {"own": own, "identity": identity, "operator": operator, "timeout_s": 600.0}
            return Place(
                Seat(identity, operator, "tls"),
                lambda: connected("127.0.0.1", port, **who),  # type: ignore[arg-type]
            )

        yield [place(i) for i in range(count)]


@contextmanager
def masked(
    model: nn.Module,
    layers: set[str],
    folder: Path,
    others: set[int],
    *,
    tls: bool = False,
    scheme: Scheme = CODED,
    seed: int = 0,
    observers: Sequence[Recorder | None] = (None,) * 3,
) -> Iterator[Side]:
    model = copy.deepcopy(model)
    key = Secret(bytes([seed]) * 32)
    with ExitStack() as stack:
        where = stack.enter_context(served(3, others, folder)) if tls else places(others, observers)
        session = stack.enter_context(
            Session(scheme, where, folder, run=f"bench {seed}", roundings=key)
        )
        protect(model, session, layers)
        yield side(model, session)
