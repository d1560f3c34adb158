"""Everything that a worker sees, byte for byte: for tests, and for whoever audits a run.

Shown to a link, it records what the trusted side sends; shown to a worker, what that one reads.
Both records are the same.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from svetovid.offload import wire

if TYPE_CHECKING:
    from svetovid.offload.work import Residues

__all__ = ["Recorder", "Seen"]


@dataclass(frozen=True)
class Seen:
    """One frame.

    Attributes:
        sent: by the trusted side; else by the worker.
        header: its bytes.
        numbers: of its payload, or where it says that they are; those of a seed are expanded.
    """

    sent: bool
    header: bytes
    numbers: Residues | None

    @property
    def message(self) -> dict[str, Any]:
        """The header, parsed."""
        value: dict[str, Any] = json.loads(self.header)
        return value

    @property
    def kind(self) -> str:
        """Of message: ``operand``, ``work`` and so on."""
        return str(self.message["type"])


class Recorder:
    """Keeps what it is shown.

    Args:
        keep: every frame, in memory; otherwise only how much there was.
        file: where every frame is written to as well, as it stands on the wire, with all payloads
            inline: opened for writing bytes, closed by whoever opened it.
    """

    def __init__(self, *, keep: bool = True, file: IO[bytes] | None = None) -> None:
        self._keep = keep
        self._file = file
        self.seen: list[Seen] = []
        """In order."""
        self.frames: Counter[str] = Counter()
        """How many, by kind."""
        self.sent_bytes: Counter[str] = Counter()
        """Headers, payloads, and what was put into shared memory for the worker, by kind."""
        self.received_bytes: Counter[str] = Counter()
        """The same from the worker."""

    def sent(self, header: bytes, numbers: Residues | None) -> None:
        """See :class:`svetovid.offload.links.Observer`."""
        self._take(header, numbers, self.sent_bytes, sent=True)

    def received(self, header: bytes, numbers: Residues | None) -> None:
        """See :class:`svetovid.offload.links.Observer`."""
        self._take(header, numbers, self.received_bytes, sent=False)

    def _take(
        self, header: bytes, numbers: Residues | None, count: Counter[str], *, sent: bool
    ) -> None:
        message = json.loads(header)
        kind = message["type"]
        self.frames[kind] += 1
        count[kind] += wire.PREFIX.size + len(header) + (0 if numbers is None else numbers.nbytes)
        if self._file is not None:
            self._file.write(wire.PREFIX.pack(len(header)) + header)
            if numbers is not None:
                self._file.write(numbers.tobytes())
        if self._keep:
            if kind == "seed":
                numbers = _expanded(message)
            self.seen.append(Seen(sent, header, None if numbers is None else numbers.copy()))


def _expanded(message: dict[str, Any]) -> Residues:
    import numpy as np

    from svetovid.offload.worker.expansion import expand

    numbers = np.empty(message["count"], np.int32)
    expand(bytes.fromhex(message["key"]), message["p"], numbers)
    return numbers
