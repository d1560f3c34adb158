"""What outlives a crash of the trusted side: the attempt, and who has which point.

The masks' key does not: it is drawn anew in each life, so that nobody who puts an old ledger back
can have a mask used twice (ADR 0022). Within a life every address is used once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from svetovid.crypto import canonical, load_json
from svetovid.errors import HostError, IntegrityError, RefusalError, SvetovidError
from svetovid.offload.address import Mask

__all__ = ["Ledger"]

_MAX_BYTES = 1 << 16
_LAST = 1 << 40


class Ledger:
    """Of one run.

    Args:
        path: a file in a folder that only the trusted side can write to; made where it is missing.
        run: names the run; 1 to 64 characters.

    Raises:
        IntegrityError: ``offload.ledger``: another run's, or not a ledger.

    Attributes:
        attempt: under which everything is masked now; 0 before :meth:`begin`.
    """

    def __init__(self, path: Path, run: str) -> None:
        self._path = path
        self._run = run
        self._points: dict[str, int] = {}
        self.attempt = 0
        self._used: set[Mask] = set()
        self._step = -1
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file:
                held = load_json(file.read(_MAX_BYTES))
            run, attempt, points = held["run"], held["attempt"], held["points"]
            numbers = [attempt, *points.values()]
            whole = all(type(n) is int and 0 <= n < _LAST for n in numbers)
        except OSError as e:
            raise self._bad(str(e.strerror)) from e
        except (SvetovidError, TypeError, KeyError, AttributeError) as e:
            raise self._bad("no ledger") from e
        if run != self._run or not whole or set(held) != {"run", "attempt", "points"}:
            raise self._bad(f"one of run {run}")
        self.attempt, self._points = attempt, dict(points)

    def _bad(self, observed: str) -> IntegrityError:
        return IntegrityError(
            "offload.ledger",
            expected=f"the ledger of run {self._run}",
            observed=f"{observed} in {self._path}",
            next_step="put the ledger of this run back, or begin a new run in an empty folder",
        )

    def _write(self) -> None:
        try:
            self._put()
        except OSError as e:
            raise HostError(
                "offload.ledger",
                expected="room for the run's ledger",
                observed=f"{e.strerror}: {self._path}",
                next_step="make room: without it no mask is used",
            ) from e

    def _put(self) -> None:
        text = canonical({"run": self._run, "attempt": self.attempt, "points": self._points})
        new = self._path.with_suffix(".new")
        with new.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def begin(self) -> int:
        """A new attempt: at a start, before a step is done again, when a worker is replaced. It is
        on the disk before it is used."""
        self.attempt += 1
        self._write()
        self._used.clear()
        self._step = -1
        return self.attempt

    def bind(self, identity: str, point: int) -> None:
        """Give a worker a place among the points, for as long as the run lasts.

        Raises:
            RefusalError: ``offload.point``: it had another one.
        """
        held = self._points.setdefault(identity, point)
        if held != point:
            raise RefusalError(
                "offload.point",
                expected=f"place {held} for {identity}, as before in this run",
                observed=f"place {point}",
                next_step="give it its old place, or take another worker: two points are a secret",
            )
        self._write()

    def use(self, address: Mask) -> Mask:
        """Note that a mask is about to be used.

        Raises:
            RefusalError: ``offload.reuse``: for the second time, of another attempt, or of a step
                that is over.
        """
        stale = address.attempt != self.attempt or address.run != self._run or self.attempt < 1
        if stale or address.step < self._step or address in self._used:
            raise RefusalError(
                "offload.reuse",
                expected="a mask that was never used",
                observed=json.dumps([address.attempt, address.step, address.tensor, address.role]),
                next_step="begin a new attempt before anything is done again",
            )
        if address.step > self._step:
            self._step = address.step
            self._used.clear()
        self._used.add(address)
        return address
