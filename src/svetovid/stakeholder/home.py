"""A stakeholder's home folder: what lies where, and who may read it.

::

    HOME/                 0700
      identity.json       0600   the identity, sealed under the passphrase
      retired/            0700   identities it had before a rotation: agreed jobs still name them
      manager.json        0600   the manager's pin, given by the owner, never fetched
      demand.json         0600   by what the manager's own evidence is judged, where it is required
      seen.json           0600   newest checkpoint of each manager's log (T15)
      keys/               0700   one sealed asset key a file
      policies/           0700   the newest edition of each policy it signed
      sealed/             0700   sealed assets, where no other place was named
      card.json           0644   the public half of the identity
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from svetovid.crypto.private import check_private, unwritable
from svetovid.errors import HostError, InputError, LimitError

__all__ = ["Home", "make_private", "make_public", "no_public", "read_bounded"]


@dataclass(frozen=True, slots=True)
class Home:
    """Paths of one home; nothing here touches the disk."""

    path: Path

    @property
    def card(self) -> Path:
        """The signed card, as others get it."""
        return self.path / "card.json"

    @property
    def demand(self) -> Path:
        """What the manager's own evidence must show before a key is uploaded."""
        return self.path / "demand.json"

    @property
    def folders(self) -> tuple[Path, ...]:
        """What a home has besides files."""
        return (self.keys, self.policies, self.retired, self.sealed)

    @property
    def identity(self) -> Path:
        """The identity, sealed under the passphrase."""
        return self.path / "identity.json"

    @property
    def next_identity(self) -> Path:
        """The one that follows, while keys are being rotated."""
        return self.path / "identity.next.json"

    @property
    def keys(self) -> Path:
        """Keys of own assets, one file each."""
        return self.path / "keys"

    @property
    def manager(self) -> Path:
        """The pin of the manager (T1)."""
        return self.path / "manager.json"

    @property
    def policies(self) -> Path:
        """Own policies as they were signed."""
        return self.path / "policies"

    @property
    def retired(self) -> Path:
        """Identities of before a rotation."""
        return self.path / "retired"

    @property
    def sealed(self) -> Path:
        """Manifests of what was sealed here."""
        return self.path / "sealed"

    @property
    def seen(self) -> Path:
        """The newest checkpoint of the manager's log (T15)."""
        return self.path / "seen.json"


def make_private(path: Path) -> None:
    """Make a folder with mode 0700, or check that it is one that only its owner can enter.

    Raises:
        InputError: ``home.folder`` for what is no folder of ours, ``home.mode`` where others
            can look into it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(path)
    except OSError as e:
        raise InputError(
            "home.folder",
            expected=f"a folder at {path}",
            observed=e.strerror or "unusable",
            next_step="choose another --home",
        ) from e


def make_public(public: Path) -> None:
    """Make the public folder where there is none. Raises HostError ``file.write``."""
    try:
        public.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise no_public(e, public) from e


def no_public(error: OSError, public: Path) -> HostError:
    return unwritable(error, f"a folder {public}", "choose another one with --public")


def read_bounded(path: Path, max_bytes: int, *, what: str) -> bytes:
    """Read a regular file of at most ``max_bytes``; devices and pipes are refused unread.

    Raises:
        InputError: ``file.unreadable``.
        LimitError: ``file.size``.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as e:
        raise InputError(
            "file.unreadable",
            expected=what,
            observed=f"{path}: {getattr(e, 'strerror', None) or 'not a path'}",
            next_step="check the path",
        ) from e
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(
                "file.unreadable",
                expected=what,
                observed=f"{path}: no regular file",
                next_step="check the path",
            )
        with os.fdopen(fd, "rb", closefd=False) as f:
            data = f.read(max_bytes + 1)
    finally:
        os.close(fd)
    if len(data) > max_bytes:
        raise LimitError(
            "file.size",
            expected=f"{what} of at most {max_bytes} bytes",
            observed=f"{path}: {status.st_size} bytes",
            next_step="this is not the file that was meant",
        )
    return data
