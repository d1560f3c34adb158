"""Progress for whoever may see it: the recipients, sealed, at fixed intervals (T9).

A running job leaves one small file. Every interval it is replaced by a new one of the same length,
whether or not anything happened, so the operator learns nothing from it but that the job is alive.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from fsspec.implementations.local import LocalFileSystem

from svetovid.crypto import Card, Secret, canonical, seal
from svetovid.host.deliver import located
from svetovid.policy.documents import Job
from svetovid.protocol.output import progress_context

__all__ = ["NOTE_BYTES", "ProgressNotes"]

NOTE_BYTES = 256
"""Plaintext bytes of a note, padded with spaces: every note has one length."""


class ProgressNotes:
    """Writes the newest progress of a job, sealed to each recipient, every ``interval_s``."""

    def __init__(self, job: Job, url: str, interval_s: float = 1.0) -> None:
        self._url = url
        self._interval = interval_s
        self._job = job.digest()
        self._cards = [Card.open(r.card) for r in job.recipients]
        self._newest: tuple[int, int] = (0, 0)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="progress", daemon=True)

    def note(self, event: Mapping[str, Any]) -> None:
        """Take over an event of the sandbox; only progress (done, total) is kept."""
        done, total = event.get("done"), event.get("total")
        if isinstance(done, int) and isinstance(total, int):
            self._newest = (done, total)

    def _write_on(self) -> None:
        while not self._done.wait(self._interval):
            self._write()

    def _write(self) -> None:
        done, total = self._newest
        text = canonical({"done": done, "total": total}).ljust(NOTE_BYTES)
        notes = {
            card.signing: seal(
                Secret(text),
                card.receiving,
                progress_context(job=self._job, recipient=card.signing),
            )
            for card in self._cards
        }
        # Progress is a courtesy: a full disk or a lost bucket must not end the job.
        with contextlib.suppress(Exception):
            _replace(self._url, canonical({"job": self._job, "notes": notes}))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self._write()


def _replace(url: str, data: bytes) -> None:
    """Write an object that readers see whole. Object stores do that by themselves."""
    fs, path = located(url)
    local = isinstance(fs, LocalFileSystem)
    target = path + ".part" if local else path
    with fs.open(target, "wb") as f:
        f.write(data)
    if local:
        fs.mv(target, path)
