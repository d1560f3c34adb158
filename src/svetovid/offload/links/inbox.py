"""A worker's replies, put together from whatever pieces come."""

from __future__ import annotations

from collections.abc import Callable

from svetovid.errors import IntegrityError, ParseError
from svetovid.offload import wire
from svetovid.offload.links.channel import Channel
from svetovid.offload.reading import parse_reply

__all__ = ["Inbox", "wrong"]


def wrong(observed: str) -> IntegrityError:
    """A reply that no honest worker would send."""
    return IntegrityError(
        "worker.answer",
        expected="the answer to the oldest work, of the size that was asked for",
        observed=observed,
        next_step="do not use this worker: it does not speak the protocol",
    )


class Inbox:
    """Reads no byte further than the reply under way, and looks at it only when it is here whole.

    Args:
        begun: is given a reply; says where its payload goes, if one follows; may refuse it.
        done: is given the header of a reply whose payload is here.
    """

    def __init__(
        self,
        channel: Channel,
        begun: Callable[[wire.Reply], memoryview | None],
        done: Callable[[bytes], None],
    ) -> None:
        self._channel = channel
        self._begun = begun
        self._done = done
        self.taken = 0
        """Replies so far."""
        self._expect(wire.PREFIX.size, self._prefix)

    def _expect(self, size: int, then: Callable[[bytes], None]) -> None:
        self._buffer = bytearray(size)
        self._want = memoryview(self._buffer)
        self._then = then

    def receive(self) -> bool:
        """Read once: whether anything was there.

        Raises:
            TransportError: ``worker.gone``.
            IntegrityError: ``worker.answer``.
        """
        got = self._channel.receive(self._want)
        self._want = self._want[got:]
        if not self._want:
            self._then(bytes(self._buffer))
        return got > 0

    def _prefix(self, data: bytes) -> None:
        try:
            length = wire.header_length(data)
        except ParseError as e:
            raise wrong(f"a header of {e.reason.observed} bytes") from e
        self._expect(length, self._header)

    def _header(self, data: bytes) -> None:
        try:
            reply = parse_reply(data)
        except ParseError as e:
            raise wrong(f"a reply without {e.reason.expected}") from e
        payload = self._begun(reply)
        if payload is None:
            self._complete(data)
        else:
            self._buffer = bytearray()
            self._want = payload
            self._then = lambda _: self._complete(data)

    def _complete(self, header: bytes) -> None:
        self.taken += 1
        self._expect(wire.PREFIX.size, self._prefix)
        self._done(header)
