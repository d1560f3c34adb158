"""What a manager shows, and to whom: everybody the log's hashes, the parties what concerns them."""

from __future__ import annotations

from typing import Any

import svetovid
from svetovid.errors import InputError, IntegrityError
from svetovid.manager.core import Core
from svetovid.manager.deciding import Deciding
from svetovid.manager.rootkey import RootSealer
from svetovid.manager.watching import Watching
from svetovid.policy.documents import Job, Policy
from svetovid.protocol.managers import ManagerStatus
from svetovid.protocol.messages import JobStatus, JsonObject
from svetovid.protocol.records import LogProof, Record, RecordsPage

__all__ = ["Reading"]

MAX_PAGE = 1000
MAX_PAGE_BYTES = 4 << 20
Caller = frozenset[str]


def _hidden(what: str) -> IntegrityError:
    """One refusal for what is not there and for what the caller may not see."""
    return IntegrityError(
        "read.denied",
        expected="something the caller is a party to",
        observed=what,
        next_step="ask whoever is a party to it, or check the name",
    )


class Reading:
    """The reading half of a manager. ``proves``: whether it has evidence of its own (T1)."""

    def __init__(
        self,
        core: Core,
        deciding: Deciding,
        watching: Watching,
        sealer: RootSealer,
        *,
        proves: bool,
    ) -> None:
        self._core = core
        self._deciding = deciding
        self._watching = watching
        self._sealer = sealer
        self._proves = proves

    def status(self) -> JsonObject:
        core = self._core
        counted = core.store.anchored
        return ManagerStatus(
            manager=core.me,
            name=core.identity.name,
            version=svetovid.__version__,
            evidence="tpm" if self._proves else "none",
            root_key=self._sealer.kind,
            store_rollback="detected" if counted else "not detected",
            entries=core.store.size,
        ).to_json()

    def policy(self, caller: Caller, owner: str, name: str) -> JsonObject:
        """For its owner, and those it exports to. Raises IntegrityError ``read.denied``."""
        held = self._core.state.policies.get((owner, name))
        if held is not None:
            policy = self._core.store.document(held, Policy)
            if caller & {owner, *(e.to for e in policy.exports)}:
                return self._core.store.envelope(held).to_json()
        raise _hidden(f"policy {name} of {owner}")

    def document(self, caller: Caller, digest: str) -> JsonObject:
        """A publication or host record for anybody registered; a job's papers for its parties."""
        state, store = self._core.state, self._core.store
        for publication in state.publications:
            if publication.digest == digest:
                return store.envelope(publication.envelope).to_json()
        if digest in state.records:
            return store.envelope(digest).to_json()
        if digest in state.shown and caller & state.shown[digest]:
            return store.envelope(digest).to_json()
        raise _hidden(digest)

    def host(self, digest: str) -> JsonObject:
        """The signed record of an enrolled host, by its host id."""
        host = self._core.state.hosts.get(digest)
        if host is None:
            raise _hidden(digest)
        return self._core.store.envelope(host.record).to_json()

    def standing(self, digest: str) -> JsonObject:
        """Whether an enrolled host that attests at an interval still does."""
        if digest not in self._core.state.hosts:
            raise _hidden(digest)
        return self._watching.standing(digest).to_json()

    def job(self, caller: Caller, digest: str) -> JsonObject:
        """For its parties and for enrolled hosts."""
        state, store = self._core.state, self._core.store
        held = state.jobs.get(digest)
        if held is None or not (caller & held.parties or caller & state.agents.keys()):
            raise _hidden(digest)
        job = store.document(digest, Job)
        lease = state.leases.get(held.lease)
        running = lease is not None and lease.live(self._core.now())
        waiting = self._deciding.waiting_for(job, held)
        status = "finished" if held.finished else "running" if running else "ready"
        return JobStatus(
            job=store.envelope(digest),
            consents=self._deciding.consents(held, held.consents),
            waiting_for=waiting,
            state="waiting" if waiting and status == "ready" else status,  # type: ignore[arg-type]
            releases=held.releases,
            host=lease.host if lease is not None and running else None,
            head=held.head,
        ).to_json()

    def records(self, caller: Caller, first: int, limit: int) -> JsonObject:
        """Every leaf's hash; entries and private parts as far as they concern the caller.

        A page ends early, after its first record, where others' documents would make it too long.
        """
        core = self._core
        _, tree = core.store.tip
        if not 1 <= limit <= MAX_PAGE:
            raise InputError(
                "record.limit",
                expected=f"1 to {MAX_PAGE}",
                observed=str(limit),
                next_step="ask for fewer records at once",
            )
        stop = min(tree.size, first + limit)
        records: list[Record] = []
        room = MAX_PAGE_BYTES
        for index in range(first, stop):
            records.append(self._record(caller, index))
            room -= len(records[-1].canonical())
            if room < 0:
                break
        return RecordsPage(first=first, size=tree.size, records=tuple(records)).to_json()

    def _record(self, caller: Caller, index: int) -> Record:
        store = self._core.store
        leaf = "sha256:" + store.leaves[index].hex()
        if not caller & store.parties[index]:
            return Record(index=index, leaf=leaf)
        entry = store.entry(index)
        mine: Any = None
        for owner in sorted(caller & set(entry.private)):
            mine = store.private(index, owner)
        return Record(index=index, leaf=leaf, entry=entry, private=mine)

    def proof(self, caller: Caller, index: int) -> JsonObject:
        """That an entry stands in the log. Raises IntegrityError ``read.denied``."""
        store = self._core.store
        checkpoint, tree = store.tip
        if not 0 <= index < tree.size or not caller & store.parties[index]:
            raise _hidden(f"entry {index}")
        return LogProof(
            index=index,
            entry=store.entry(index),
            path=tree.inclusion(index),
            checkpoint=checkpoint,
        ).to_json()
