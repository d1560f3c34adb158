"""The store's tables. The log is the truth: all else is named by it, or follows from it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

__all__ = [
    "data_version",
    "documents",
    "entries",
    "keys",
    "metadata",
    "open_engine",
    "privates",
    "tip",
    "used",
]

metadata = sa.MetaData()

entries = sa.Table(
    "entries",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
"""The log: canonical bytes of each entry."""

privates = sa.Table(
    "privates",
    metadata,
    sa.Column("position", sa.ForeignKey("entries.position"), primary_key=True),
    sa.Column("owner", sa.String(80), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
"""What one owner alone may see of an entry."""

documents = sa.Table(
    "documents",
    metadata,
    sa.Column("digest", sa.String(80), primary_key=True),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
)
"""Signed documents, by the digest of their payload."""

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("label", sa.String(32), primary_key=True),
    sa.Column("subject", sa.String(80), primary_key=True),
    sa.Column("owner", sa.String(80), nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
)
"""Asset keys and checkpoint keys, sealed under the root key."""

used = sa.Table(
    "used_challenges",
    metadata,
    sa.Column("digest", sa.String(80), primary_key=True),
    sa.Column("until", sa.BigInteger, nullable=False, index=True),
)
"""Challenges that were answered, until when they need to be known, Unix seconds."""

tip = sa.Table(
    "tip",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("checkpoint", sa.LargeBinary, nullable=False),
)
"""One row: the newest signed checkpoint."""

WRITE = "svetovid_write"


def open_engine(path: Path) -> sa.Engine:
    """SQLite with a write-ahead log that is on the disk before a commit returns."""
    engine = sa.create_engine(f"sqlite:///{path}", pool_size=8, max_overflow=8)

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # BEGIN is ours, below
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "busy_timeout=10000",
            "trusted_schema=OFF",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get(WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _raw(connection: sa.Connection) -> sqlite3.Connection:
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


def data_version(connection: sa.Connection) -> int:
    """Another number where anybody else committed since this connection was asked (SQLite).

    It takes some ten microseconds, and no transaction that SQLAlchemy knows of.
    """
    return int(_raw(connection).execute("PRAGMA data_version").fetchone()[0])


def stored_tip(connection: sa.Connection) -> object:
    """The newest checkpoint's bytes, as cheaply; None where there is no such row."""
    row = _raw(connection).execute("SELECT checkpoint FROM tip").fetchone()
    return None if row is None else row[0]
