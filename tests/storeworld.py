"""Stores that are copied, put back and stopped halfway, against a counter that only grows."""

from __future__ import annotations

import shutil
from pathlib import Path

from managerworld import World
from svetovid.crypto import Secret
from svetovid.manager import PassphraseSealer


class CountingSealer(PassphraseSealer):
    """A passphrase, and a counter that no backup turns back."""

    def __init__(self) -> None:
        super().__init__(Secret(b"p"))
        self.value = 0

    def counter(self) -> int | None:
        return self.value

    def increment(self) -> int:
        self.value += 1
        return self.value


class CrashError(Exception):
    pass


def copy_of(world: World, name: str) -> Path:
    """The store of a world that was stopped."""
    copy = world.folder / name
    for old in world.folder.glob("store.db-*"):
        old.unlink()
    shutil.copy(world.folder / "store.db", copy)
    return copy


def put_back(world: World, copy: Path) -> None:
    for old in world.folder.glob("store.db*"):
        old.unlink()
    shutil.copy(copy, world.folder / "store.db")
