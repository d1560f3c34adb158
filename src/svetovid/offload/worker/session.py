"""One connection, as the worker serves it.

Rules:

1. What is not a message of the protocol, in its order and within the limits, ends the connection.
2. A connection leaves nothing behind: operands and memories are its own.
3. Operands are forgotten when the trusted side says so, or, the oldest first, when there are more
   numbers than the limits allow; work that needs one of these is refused.
"""

from __future__ import annotations

import math
import mmap
import os
import time
from typing import TYPE_CHECKING

import numpy as np

from svetovid.errors import HostError, LimitError, SvetovidError
from svetovid.offload import wire
from svetovid.offload.links.channel import BYTES_PER_S, Channel
from svetovid.offload.links.framed import Observer
from svetovid.offload.links.memory import mapped
from svetovid.offload.reading import parse_request
from svetovid.offload.work import Work
from svetovid.offload.worker.engine import Engine

if TYPE_CHECKING:
    import torch

    from svetovid.offload.work import Residues

__all__ = ["serve"]


_MEMORIES = 1000
"""Each is a descriptor."""


class _Connection:
    def __init__(
        self,
        channel: Channel,
        engine: Engine,
        limits: wire.Limits,
        idle_s: float,
        stall_s: float,
        observer: Observer | None,
    ) -> None:
        self._channel = channel
        self._engine = engine
        self._limits = limits
        self._idle_s = idle_s
        self._stall_s = stall_s
        self._observer = observer
        self._seq = 0
        self._held: dict[int, torch.Tensor] = {}
        self._numbers = 0
        self._memories: dict[int, tuple[mmap.mmap, bool]] = {}

    def one(self) -> None:
        """Read one message and do what it says."""
        header = self._header()
        self._seq += 1
        try:
            self._do(header)
        except LimitError:
            self._reply(wire.Refused(self._seq, "worker.limit"))
            raise

    def _do(self, header: bytes) -> None:
        message = parse_request(header, self._limits)
        if message.seq != self._seq:
            raise wire.bad(f"message {self._seq}", message.seq)
        numbers = None
        if isinstance(message, wire.Operand):
            numbers = self._operand(message)
        elif isinstance(message, wire.Memory):
            self._map(message)
        if (fd := self._channel.descriptor()) is not None:
            os.close(fd)
            raise wire.bad("no descriptor with this message")
        if self._observer is not None:
            self._observer.sent(header, numbers)
        if isinstance(message, wire.Seed):
            self._make_room(message.operand, message.count)
            self._hold(message.operand, self._engine.expand(message.count, message.key, message.p))
        elif isinstance(message, wire.Multiply):
            self._multiply(message)
        elif isinstance(message, wire.Drop):
            self._drop(message)
        elif isinstance(message, wire.Ping):
            self._reply(wire.Answered(message.seq, 0))

    # -- operands

    def _operand(self, message: wire.Operand) -> Residues:
        self._make_room(message.operand, message.count)
        if message.at is not None:
            numbers = self._shared(message.at, message.count, answers=False)
        else:
            numbers = np.empty(message.count, np.dtype("<i4"))
            self._channel.read(numbers.data.cast("B"), self._until(numbers.nbytes))
        self._hold(message.operand, self._engine.hold(numbers))
        return numbers

    def _make_room(self, number: int, count: int) -> None:
        """Before it is there: both together would be more than the limit."""
        self._forget(number)
        while self._numbers + count > self._limits.numbers:
            self._forget(next(iter(self._held)))

    def _hold(self, number: int, tensor: torch.Tensor) -> None:
        self._held[number] = tensor
        self._numbers += tensor.numel()

    def _forget(self, number: int) -> None:
        if number in self._held:
            self._numbers -= self._held.pop(number).numel()

    def _drop(self, message: wire.Drop) -> None:
        self._held.clear()
        self._numbers = 0
        for number in message.memories:
            if self._memories.pop(number, None) is None:
                raise wire.bad("memories that were handed over", number)

    # -- memory

    def _map(self, message: wire.Memory) -> None:
        fd = self._channel.descriptor()
        if fd is None:
            raise wire.bad("a descriptor with a memory")
        try:
            total = message.size + sum(len(known) for known, _ in self._memories.values())
            if message.memory in self._memories or len(self._memories) >= _MEMORIES:
                raise wire.bad(f"at most {_MEMORIES} memories, each with a number of its own")
            if total > self._limits.shared:
                raise wire.over("bytes of memory", self._limits.shared, total)
            made = mapped(fd, message.size, writable=message.answers)
        except (OSError, ValueError) as e:
            raise wire.bad("a descriptor that can be mapped", e) from e
        finally:
            os.close(fd)
        self._memories[message.memory] = made, message.answers

    def _shared(self, at: wire.Place, count: int, *, answers: bool) -> Residues:
        memory, writable = self._memories.get(at.memory, (b"", answers))
        end = at.offset + count * wire.NUMBER_BYTES
        if writable is not answers or at.offset % wire.NUMBER_BYTES or end > len(memory):
            raise wire.bad("a place in memory that was handed over for this")
        return np.frombuffer(memory, np.dtype("<i4"), count, at.offset)

    # -- work

    def _multiply(self, message: wire.Multiply) -> None:
        work = message.work
        if not self._holds(work):
            self._reply(wire.Refused(message.seq, "worker.miss"))
            return
        count = math.prod(work.product.out) * work.parts
        if message.at is not None:
            out = self._shared(message.at, count, answers=True)
        else:
            out = np.empty(count, np.dtype("<i4"))
        self._engine.compute(work, self._held.__getitem__, out)
        self._reply(wire.Answered(message.seq, count), out, inline=message.at is None)

    def _holds(self, work: Work) -> bool:
        total = sum(dict(wire.operands(work)).values())
        if total > self._limits.numbers:  # sent again and again, they would never be here together
            raise wire.over("numbers of the operands of a work", self._limits.numbers, total)
        for number, size in wire.operands(work):
            if number not in self._held:
                return False
            if self._held[number].numel() != size:
                raise wire.bad(f"an operand of {size:,} numbers", self._held[number].numel())
        return True

    # -- bytes

    def _until(self, size: int) -> float:
        return time.monotonic() + self._stall_s + size / BYTES_PER_S

    def _header(self) -> bytes:
        prefix = bytearray(wire.PREFIX.size)
        rest = memoryview(prefix)
        patience = time.monotonic() + self._idle_s
        while not (got := self._channel.receive(rest)):
            self._channel.ready(patience)
        until = self._until(0)
        self._channel.read(rest[got:], until)
        header = bytearray(wire.header_length(bytes(prefix)))
        self._channel.read(memoryview(header), until)
        return bytes(header)

    def _reply(
        self, message: wire.Reply, numbers: Residues | None = None, *, inline: bool = False
    ) -> None:
        data = wire.encode(message)
        if self._observer is not None:
            self._observer.received(data[wire.PREFIX.size :], numbers)
        views = [memoryview(data)]
        if inline and numbers is not None:
            views.append(numbers.data.cast("B"))
        # The trusted side may be busy with something else for as long as it may be idle.
        until = self._until(sum(v.nbytes for v in views)) + self._idle_s
        for view in views:
            self._channel.write(view, until)


def serve(
    channel: Channel,
    engine: Engine,
    limits: wire.Limits,
    *,
    idle_s: float = math.inf,
    stall_s: float = 60.0,
    observer: Observer | None = None,
) -> SvetovidError:
    """Serve one trusted side until it leaves.

    Args:
        channel: connected to it; closed afterwards.
        engine: computes.
        limits: of what it may ask for.
        idle_s: how long it may say nothing, and leave an answer unread.
        stall_s: how long a message that was begun may take; a large one a second more for each MiB.
        observer: is shown every frame.

    Returns:
        Why it ended: ``worker.gone`` where the other side closed.

    Raises:
        HostError: ``worker.compute``: the device failed; the worker is of no use any more.
    """
    connection = _Connection(channel, engine, limits, idle_s, stall_s, observer)
    try:
        while True:
            connection.one()
    except HostError:
        raise
    except SvetovidError as e:
        return e
    finally:
        channel.close()
