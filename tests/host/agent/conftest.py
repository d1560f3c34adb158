from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentworld import World
from svetovid.crypto import keystore
from svetovid.errors import HostError

OURS = ("lease", "renewals", "progress", "watch", "feed")


@pytest.fixture(autouse=True)
def _quick_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2id with the least memory a key file may name: these tests are about other things."""
    real = keystore._Header

    class Cheap:
        def __call__(self, **fields: Any) -> Any:
            return real(**(fields | {"memory_kib": 19 << 10, "passes": 1}))

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    monkeypatch.setattr(keystore, "_Header", Cheap())


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes worlds; afterwards, whatever happened in them, no thread of a job is left."""
    made: list[World] = []

    def world(**fields: Any) -> World:
        folder = tmp_path / f"world{len(made)}"
        folder.mkdir()
        try:
            made.append(World(folder, **fields))
        except HostError as e:
            if e.code == "tpm.absent":
                pytest.skip("libtpms.so.0 is not installed")
            raise
        return made[-1]

    yield world
    for each in made:
        each.close()
    assert [t.name for t in threading.enumerate() if t.name in OURS] == []
