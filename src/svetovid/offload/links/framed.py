"""A link over frames: numbers messages, sends operands once and again, takes answers in order.

Rules:

1. One message at a time is on its way in; it is looked at only when it is this process's own.
2. An answer belongs to the oldest work that is not answered, under its number and of its size.
3. A whole message has a deadline, however it drips.
4. After any error the link refuses further use.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from svetovid.errors import (
    LimitError,
    RefusalError,
    SvetovidError,
    TransportError,
)
from svetovid.offload import wire
from svetovid.offload.links.channel import BYTES_PER_S, Channel, gone
from svetovid.offload.links.inbox import Inbox, wrong
from svetovid.offload.links.store import Room, Store

if TYPE_CHECKING:
    from svetovid.offload.work import Residues, Work

__all__ = ["FramedLink", "Observer"]


class Observer(Protocol):
    """Is shown every frame: all that a worker sees, and all that it says."""

    def sent(self, header: bytes, numbers: Residues | None) -> None:
        """By the trusted side."""
        ...

    def received(self, header: bytes, numbers: Residues | None) -> None:
        """From the worker."""
        ...


@dataclass
class _Held:
    """An operand that the worker was given, so that it can be given again."""

    number: int
    count: int
    room: Room | None
    key: bytes = b""
    p: int = 0

    def message(self, seq: int) -> wire.Request:
        if self.room is None:
            return wire.Seed(seq, self.number, self.count, self.p, self.key)
        return wire.Operand(seq, self.number, self.count, self.room.at)


@dataclass(eq=False)
class _Asked:
    """Work under way, or a ping."""

    link: FramedLink
    work: Work | None
    room: Room | None
    count: int
    seq: int = 0
    done: bool = False
    repeated: bool = False
    dropped: bool = False

    def wait(self) -> Residues:
        return self.link._answer(self)


class FramedLink:
    """One worker behind a channel; see :class:`svetovid.offload.work.Link`.

    Args:
        channel: connected; this object closes it.
        store: where operands and answers lie.
        identity, operator: of the worker.
        timeout_s: for one message to be read or written whole, the worker's computing included;
            a large one has a second more for every MiB.
        closed: called once, after everything is closed.
        observer: is shown every frame.
    """

    def __init__(
        self,
        channel: Channel,
        store: Store,
        *,
        identity: str,
        operator: str,
        timeout_s: float,
        closed: Callable[[], None] = lambda: None,
        observer: Observer | None = None,
    ) -> None:
        self.identity = identity
        self.operator = operator
        self._channel = channel
        self._store = store
        self._timeout_s = timeout_s
        self._closed = closed
        self._observer = observer
        self._failed: SvetovidError | None = None
        self._seq = 0
        self._held: dict[int, _Held] = {}
        self._asked: deque[_Asked] = deque()
        self._missed: deque[_Asked] = deque()
        self._step: list[_Asked] = []
        self._inbox = Inbox(channel, self._begun, self._done)

    # -- what the trusted side asks for

    def send(self, operand: int, count: int, fill: Callable[[Residues], None]) -> None:
        """See :meth:`svetovid.offload.work.Link.send`.

        Args:
            operand: a number that is new in this step.
            count: of residues.
            fill: writes them; it may use this link itself.

        Raises:
            RefusalError: ``worker.operand``: the number was used in this step.
            HostError: ``worker.memory``.
            TransportError: ``worker.silent``, ``worker.gone``, ``worker.closed``.
        """
        self._usable()
        self._new(operand)
        room = self._store.take(count, answers=False)
        self._held[operand] = held = _Held(operand, count, room)
        try:
            fill(room.numbers)
        except BaseException:
            del self._held[operand]
            raise
        self._give(held)

    def seed(self, operand: int, count: int, key: bytes, p: int) -> None:
        """See :meth:`svetovid.offload.work.Link.seed`; raises as :meth:`send`.

        Args:
            operand, count: as of :meth:`send`.
            key: that the worker expands them from.
            p: prime of the field.
        """
        self._usable()
        self._new(operand)
        self._held[operand] = held = _Held(operand, count, None, key, p)
        self._give(held)

    def ask(self, work: Work) -> _Asked:
        """See :meth:`svetovid.offload.work.Link.ask`; raises as :meth:`send`."""
        self._usable()
        for number, size in wire.operands(work):
            held = self._held.get(number)
            if held is None or held.count != size:
                raise _operand(f"{size:,} numbers under {number}, sent in this step")
        count = math.prod(work.product.out) * work.parts
        asked = _Asked(self, work, self._store.take(count, answers=True), count)
        self._step.append(asked)
        self._ask(asked)
        return asked

    def ping(self, timeout_s: float) -> None:
        """Wait until the worker says that it is there.

        Raises:
            TransportError: ``worker.silent``, ``worker.gone``, ``worker.closed``.
            IntegrityError: ``worker.answer``.
        """
        self._usable()
        asked = _Asked(self, None, None, 0)
        self._ask(asked)
        while not asked.done:
            self._message(timeout_s)

    def drop(self) -> None:
        """See :meth:`svetovid.offload.work.Link.drop`. Waits for what is not answered; what
        :meth:`_Asked.wait` gave is then written over.

        Raises: as the answers.
        """
        self._usable()
        while self._asked or self._missed:
            self._message(self._timeout_s)
        self._held.clear()
        for asked in self._step:
            asked.dropped = True
        self._step.clear()
        gone = tuple(self._store.reuse())
        self._frame(lambda seq: wire.Drop(seq, gone))

    def abort(self) -> None:
        """From any thread: whatever waits for the worker fails now, with ``worker.gone``."""
        self._channel.abort()

    def close(self) -> None:
        """Leave the worker. Whatever is not answered never will be."""
        if self._failed is None:
            self._failed = TransportError(
                "worker.closed",
                expected="a link that is open",
                next_step="open another: this one was closed by the trusted side",
            )
            self._leave()

    # -- operands

    def _usable(self) -> None:
        if self._failed is not None:
            raise type(self._failed).from_reasons(self._failed.reasons)

    def _new(self, operand: int) -> None:
        if operand in self._held:
            raise _operand(f"a number that is new in this step, not {operand}")

    def _give(self, held: _Held) -> None:
        room = held.room
        if room is not None:
            self._hand_over(room)
        numbers = None if room is None else room.numbers
        self._frame(held.message, numbers, inline=room is not None and room.at is None)

    def _hand_over(self, room: Room) -> None:
        """The worker must have a memory before it is told of a place in it."""
        memory = room.memory
        if memory is None or memory.known:
            return
        fd = memory.handed_over()
        try:
            self._frame(
                lambda seq: wire.Memory(seq, memory.number, memory.size, memory.answers), None, fd
            )
        finally:
            os.close(fd)
        memory.known = True

    # -- work

    def _ask(self, asked: _Asked) -> None:
        room, work = asked.room, asked.work

        def message(seq: int) -> wire.Request:
            asked.seq = seq
            if work is None:
                return wire.Ping(seq)
            return wire.Multiply(seq, work, None if room is None else room.at)

        if room is not None:
            self._hand_over(room)
        self._asked.append(asked)
        self._frame(message)

    def _answer(self, asked: _Asked) -> Residues:
        while not asked.done:
            self._usable()
            self._message(self._timeout_s)
        if asked.dropped or asked.room is None:
            raise RefusalError(
                "worker.dropped",
                expected="an answer of this step",
                observed="one of a step that has ended",
                next_step="read answers before the step ends",
            )
        return asked.room.numbers

    def _again(self) -> None:
        """What the worker had forgotten is sent again, the same bytes, and the work after it."""
        while self._missed:
            asked = self._missed.popleft()
            assert asked.work is not None
            for number in dict(wire.operands(asked.work)):
                self._give(self._held[number])
            asked.repeated = True
            self._ask(asked)

    # -- bytes

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Whatever goes wrong inside ends the link: nobody knows how far a frame got."""
        try:
            yield
        except BaseException as e:
            if self._failed is None:
                self._failed = e if isinstance(e, SvetovidError) else gone("an interruption")
                self._leave()
            raise

    def _leave(self) -> None:
        self._held.clear()
        self._step.clear()
        self._channel.close()
        self._store.close()
        self._closed()

    def _frame(
        self,
        message: Callable[[int], wire.Request],
        numbers: Residues | None = None,
        descriptor: int | None = None,
        *,
        inline: bool = False,
    ) -> None:
        """Send one message; answers that come meanwhile are taken, or both sides could wait for
        each other for ever."""
        with self._failing():
            self._seq += 1
            data = wire.encode(message(self._seq))
            if self._observer is not None:
                self._observer.sent(data[wire.PREFIX.size :], numbers)
            views = [memoryview(data)]
            if inline and numbers is not None:
                views.append(numbers.data.cast("B"))
            size = sum(v.nbytes for v in views)
            until = time.monotonic() + self._timeout_s * (1 + len(self._asked)) + size / BYTES_PER_S
            try:
                for view in views:
                    self._push(view, descriptor, until)
            except TransportError:
                self._last_words()
                raise

    def _push(self, data: memoryview, descriptor: int | None, until: float) -> None:
        while data:
            sent = self._channel.send(data, descriptor)
            if sent:
                data, descriptor = data[sent:], None
            elif not self._inbox.receive():
                self._channel.ready(until, sending=True)
            self._channel.in_time(until)

    def _last_words(self) -> None:
        """A worker that closes may have said why."""
        with contextlib.suppress(TransportError):
            while self._inbox.receive():
                pass

    def _message(self, timeout_s: float) -> None:
        """Take one more message, whole."""
        with self._failing():
            if self._asked:
                until = time.monotonic() + timeout_s + self._asked[0].count * 4 / BYTES_PER_S
                taken = self._inbox.taken
                while self._inbox.taken == taken:
                    if not self._inbox.receive():
                        self._channel.ready(until)
                    self._channel.in_time(until)
            self._again()

    # -- replies

    def _begun(self, reply: wire.Reply) -> memoryview | None:
        if isinstance(reply, wire.Refused) and reply.reason == "worker.limit":
            raise LimitError(
                "worker.limit",
                expected="work within the worker's limits",
                observed="more",
                next_step="make the batch smaller, or give the worker larger limits",
            )
        oldest = self._asked[0] if self._asked else None
        if oldest is None or reply.seq != oldest.seq:
            raise wrong("an answer to what was not asked, or out of order")
        if isinstance(reply, wire.Refused):
            if oldest.work is None or oldest.repeated:
                raise wrong("an operand missed that was just sent")
            self._missed.append(oldest)
            return None
        if reply.count != oldest.count:
            raise wrong(f"{reply.count:,} numbers instead of {oldest.count:,}")
        room = oldest.room
        return room.numbers.data.cast("B") if room is not None and room.at is None else None

    def _done(self, header: bytes) -> None:
        asked = self._asked.popleft()
        asked.done = asked not in self._missed
        if self._observer is not None:
            room = asked.room if asked.done else None
            self._observer.received(header, None if room is None else room.numbers)


def _operand(expected: str) -> RefusalError:
    return RefusalError(
        "worker.operand",
        expected=expected,
        next_step="send each operand once in a step, and before it is asked for",
    )
