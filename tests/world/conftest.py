from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from world.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def two_managers(tmp_path: Path) -> Iterator[World]:
    """Bob's keys are with a manager of his own choice."""
    world = World(tmp_path, at={"bob": "south"})
    yield world
    world.close()
