"""The newest checkpoint that a stakeholder saw of its manager, kept so that no older one passes.

:class:`Seen` is the seam; :class:`SeenFile` keeps it in a home folder, :class:`SeenMemory` for as
long as the process lives (T15).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from svetovid.crypto import Envelope
from svetovid.crypto.private import write_private
from svetovid.errors import InputError

__all__ = ["Seen", "SeenFile", "SeenMemory"]

_MAX_FILE = 64 << 10


class Seen(Protocol):
    """Where the newest checkpoint is kept. ``lock`` is held over one request."""

    def lock(self) -> object:
        """A context in which nobody else reads or writes it."""
        ...

    def load(self) -> Envelope | None:
        """The newest checkpoint; None where none was seen."""
        ...

    def save(self, checkpoint: Envelope) -> None:
        """Keep ``checkpoint`` in place of the last."""
        ...


class SeenMemory:
    """Forgets with the process: what comes first is believed."""

    def __init__(self) -> None:
        self._newest: Envelope | None = None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Nothing: it is one client's own."""
        yield

    def load(self) -> Envelope | None:
        """The newest checkpoint of this process; None at first."""
        return self._newest

    def save(self, checkpoint: Envelope) -> None:
        """Keep ``checkpoint`` in place of the last."""
        self._newest = checkpoint


class SeenFile:
    """One file; several processes may share it.

    Raises:
        InputError: ``seen.file`` where it cannot be read, ``file.write``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold a lock file beside it, against other processes of this user."""
        try:
            fd = os.open(self._path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as e:
            raise self._failed(e) from e
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def load(self) -> Envelope | None:
        """The newest checkpoint; None where there is no file yet."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as e:
            raise self._failed(e) from e
        return Envelope.parse(data, max_bytes=_MAX_FILE)

    def save(self, checkpoint: Envelope) -> None:
        """Keep ``checkpoint`` in place of the last; as a whole or not at all."""
        write_private(self._path, checkpoint.canonical())

    def _failed(self, e: OSError) -> InputError:
        return InputError(
            "seen.file",
            expected=f"the newest checkpoint at {self._path}",
            observed=e.strerror or "unreadable",
            next_step="check the folder's rights and space",
        )
