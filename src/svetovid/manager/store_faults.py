"""What can be wrong with a store, each with a code of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from svetovid.errors import HostError, IntegrityError

__all__ = ["as_bytes", "guarded", "older", "tampered", "unavailable"]


def tampered(what: str, observed: str) -> IntegrityError:
    return IntegrityError(
        "store.tamper",
        expected=what,
        observed=observed,
        next_step="somebody changed the store: restore a backup, and find out who",
    )


def older(expected: str, observed: str) -> IntegrityError:
    return IntegrityError(
        "store.rollback",
        expected=expected,
        observed=observed,
        next_step="this is not the newest copy of the store: find that one",
    )


def unavailable(observed: str) -> HostError:
    return HostError(
        "store.unavailable",
        expected="a store that can be read and written",
        observed=observed,
        next_step="check the disk's space and health; nothing was released meanwhile",
    )


def as_bytes(value: object) -> bytes:
    """A blob as read: SQLite keeps whatever type somebody wrote there."""
    if not isinstance(value, bytes):
        raise tampered("bytes", type(value).__name__)
    return value


@contextmanager
def guarded() -> Iterator[None]:
    """Whatever the database says becomes ``store.unavailable``."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as e:
        raise unavailable(type(e).__name__) from e
