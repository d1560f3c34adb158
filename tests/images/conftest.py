"""The image's recipe is no part of the package: its folder is put on the path."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

RECIPE = Path(__file__).resolve().parents[2] / "images" / "attested-host"
if str(RECIPE) not in sys.path:
    sys.path.insert(0, str(RECIPE))


@pytest.fixture(scope="session")
def lacking() -> Callable[[str], NoReturn]:
    """Skip, saying why; but what continuous integration skips, nobody would ever run."""

    def refuse(reason: str) -> NoReturn:
        if os.environ.get("SVETOVID_CI"):
            pytest.fail(f"continuous integration must run this: {reason}", pytrace=False)
        pytest.skip(reason)

    return refuse


@pytest.fixture(scope="session")
def tool(lacking: Callable[[str], NoReturn]) -> Callable[[str], str]:
    """The path of a program of the system's, by its name."""
    from attested_host.machine import tool as find

    return lambda name: find(name) or lacking(f"{name} is not installed")
