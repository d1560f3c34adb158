"""Both halves of masked mode in one process: a sandbox's multiplier, a host that answers it in a
thread, and workers in memory."""

from __future__ import annotations

import contextlib
import mmap
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import maskedjob
from offload.memory_link import MemoryLink
from svetovid.crypto import Secret
from svetovid.errors import SvetovidError
from svetovid.host.channel import Channel
from svetovid.host.inbox import Inbox
from svetovid.host.masking import Masking, Room
from svetovid.offload.card import Seat
from svetovid.offload.plain import PlainMultiplier, PlainOperand
from svetovid.offload.protocols import SCHEMES
from svetovid.offload.session import Place, Session
from svetovid.policy.documents import JobLimits
from svetovid.training._masked import HostMultiplier
from svetovid.training._wire import Wire

ROUNDINGS = Secret(bytes(range(32)))
X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


class Numbered(PlainMultiplier):
    """The plain simulator, which calls operands by number as a job's host does."""

    def __init__(self, run: str, roundings: Secret = ROUNDINGS) -> None:
        super().__init__(run, roundings)
        self._number, self._at = -1, 0

    def start(self) -> None:
        self.end()
        self._number, self._at = self._number + 1, 0
        self.begin(self._number)

    def finish(self) -> None:
        self.end()

    def operand(self, name: str, value: torch.Tensor) -> PlainOperand:
        self._at += 1
        return super().operand(str(self._at - 1), value)


class Both:
    """A job's sandbox and its host.

    Attributes:
        links: name to worker, as each was connected.
        failed: what ended the host's side.
    """

    def __init__(self, folder: Path, *, workers: int = 5, size: int = 1 << 20, **offload: Any):
        agreed = maskedjob.offload(*(f"operator {i}" for i in range(workers)), **offload)
        self.links: dict[str, MemoryLink] = {}
        self.room = Room(size)
        self.session = Session(
            SCHEMES[agreed.protocol],
            [self._place(f"worker {i}") for i in range(workers)],
            folder,
            run="run",
            roundings=ROUNDINGS,
        )
        self.masking = Masking(self.session, self.room, agreed)
        ours, theirs = socket.socketpair()
        self.inbox = Inbox({}, {}, JobLimits(), lambda _: None, lambda _: None, self.masking)
        self.channel = Channel(ours, self.inbox.room)
        self.wire = Wire(theirs.detach())
        self.failed: SvetovidError | None = None
        self._step = -1
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self.wire.send("ready")
        self.memory = mmap.mmap(self.room.fd, self.room.size)
        self.multiplier = HostMultiplier(self.wire.ask, memoryview(self.memory))

    def _place(self, name: str) -> Place:
        def connect() -> MemoryLink:
            self.links[name] = MemoryLink(name)
            return self.links[name]

        return Place(Seat(name, f"operator of {name}", "tls"), connect)

    def _listen(self) -> None:
        try:
            while (message := self.channel.receive()) is not None:
                answer = self.inbox.take(message)
                if answer is not None:
                    self.channel.answer(answer)
        except SvetovidError as e:
            self.failed = e
            self.channel.end()

    def begin(self, step: int | None = None) -> str:
        """Begin a step past the sandbox's own half: the next one where none is named."""
        self._step = self._step + 1 if step is None else step
        return self.wire.ask("begin", step=self._step)

    def refused(self, act: Callable[[], object]) -> str:
        """The code that ends the job where its code does this."""
        with contextlib.suppress(ConnectionError):
            act()
        self._thread.join(10)
        assert self.failed is not None
        return self.failed.code

    def close(self) -> None:
        self.wire._sock.close()
        self._thread.join(10)
        self.channel.close()
        self.session.__exit__(None, None, None)
        self.room.close()


def net() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 3)),
    )


def trained(
    model: nn.Module,
    run: Callable[[Callable[[], float]], float],
    steps: int,
    note: Callable[[], None] = lambda: None,
) -> None:
    """Gradients are not cleared in the step: what is done again must not add to them."""
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    torch.manual_seed(11)
    for _ in range(steps):
        optimiser.zero_grad(set_to_none=False)

        def step() -> float:
            note()
            loss = nn.functional.cross_entropy(model(X), Y)
            loss.backward()
            return loss.item()

        run(step)
        optimiser.step()
