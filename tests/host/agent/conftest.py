from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentworld import World
from svetovid.errors import HostError

OURS = ("lease", "renewals", "progress", "watch", "feed")


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
