"""When hosts attested at their interval, as all managers over one store know it.

Nothing is decided by it but who is overdue, so it is in no log, and need not be on the disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from svetovid.manager import tables as t
from svetovid.manager.store_faults import guarded

__all__ = ["Heard"]

_MANY = 500


class Heard:
    """One table of the store.

    Args:
        writer: an engine whose transactions write.
    """

    def __init__(self, writer: sa.Engine) -> None:
        self._writer = writer

    def put(self, heard: Mapping[str, int]) -> None:
        """Note when hosts attested; what another manager noted later stays.

        Raises:
            HostError: ``store.unavailable``.
        """
        rows = [{"host": host, "at": at} for host, at in heard.items()]
        insert = sqlite.insert(t.heard)
        newest = {"at": sa.func.max(t.heard.c.at, insert.excluded.at)}
        upsert = insert.on_conflict_do_update(index_elements=["host"], set_=newest)
        with (
            guarded(),
            self._writer.connect() as connection,
            t.hasty(connection),
            connection.begin(),
        ):
            connection.execute(upsert, rows)

    def of(self, hosts: Sequence[str]) -> dict[str, int]:
        """When each of these last attested, Unix seconds.

        Raises:
            HostError: ``store.unavailable``.
        """
        c = t.heard.c
        found: dict[str, int] = {}
        engine = self._writer.execution_options(**{t.WRITE: False})
        with guarded(), engine.connect() as connection:
            for at in range(0, len(hosts), _MANY):
                some = sa.select(c.host, c.at).where(c.host.in_(hosts[at : at + _MANY]))
                found |= {row.host: row.at for row in connection.execute(some)}
        return found
