"""What every test shares: how hypothesis behaves, and a few identities."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from svetovid.crypto import Identity

# `steady` makes a run repeatable; `make properties` looks for new ones. A shared machine may stall
# for longer than any deadline per example, and pytest-timeout bounds a test as a whole.
_COMMON = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("steady", derandomize=True, **_COMMON)
settings.register_profile("fuzz", max_examples=500, **_COMMON)
settings.load_profile(os.environ.get("SVETOVID_HYPOTHESIS", "steady"))


_LONGEST = ("tests/images/test_guest", "tests/cli/demo/test_playing", "tests/cli/test_guide")
"""Files of minutes: begun last, they would keep one of two workers waiting for the other."""


def pytest_configure() -> None:
    """Tests send signals, which ``nohup`` and a shell's ``&`` have their children ignore."""
    for number, default in (
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, default)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first; :option:`--no-loadscope-reorder` keeps it so."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONGEST))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Tests are named the same in every run and every worker, also where keys are new."""
    return argname if isinstance(val, bytes | bytearray) else None


@pytest.fixture(scope="session")
def alice() -> Identity:
    return Identity.generate("alice")


@pytest.fixture(scope="session")
def bob() -> Identity:
    return Identity.generate("bob")


@pytest.fixture(scope="session")
def mallory() -> Identity:
    return Identity.generate("mallory")
