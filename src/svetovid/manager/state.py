"""What follows from the log: the state every decision is made upon.

:class:`State` is replayed from the log at every start and moves forward one entry at a time, after
the entry is on the disk. It holds digests, names and counts; documents stay in the store. Nothing
else in the manager remembers anything that decides.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

from svetovid.crypto import Envelope
from svetovid.crypto.succession import KeyHistory
from svetovid.errors import IntegrityError
from svetovid.evidence.documents import JobKeys
from svetovid.protocol.hosts import StandingName
from svetovid.protocol.messages import Head
from svetovid.protocol.records import LogEntry

__all__ = ["Host", "JobState", "LeaseState", "Publication", "State"]


@dataclass(frozen=True, slots=True)
class Publication:
    """A published set of anchors or reference values: ``envelope`` names it in the store."""

    envelope: str
    digest: str
    type: str
    signer: str
    product: str
    version: int


@dataclass(frozen=True, slots=True)
class Host:
    """An enrolled host: ``record`` is the digest of its signed record."""

    name: str

    record: str
    agent: str
    operator: str
    device: str
    ak: str


@dataclass(slots=True)
class LeaseState:
    """A lease as last granted or renewed.

    Attributes:
        refused: it is not renewed any more.
        since: when it was first granted, by the manager's clock.
        heads: checkpoints that were recorded under it.
    """

    id: str
    job: str
    host: str
    keys: JobKeys
    expires_at: int
    reset_count: int
    restart_count: int
    entry: int
    ended: str = ""
    refused: bool = False
    since: int = 0
    heads: int = 0

    def live(self, now: int) -> bool:
        """Whether an instance may still be running. A refused renewal leaves what was granted."""
        return not self.ended and now < self.expires_at


@dataclass(slots=True)
class JobState:
    """One job: who consented, how often it was released, where it stands."""

    parties: frozenset[str]
    proposer: str
    consents: dict[str, str] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)  # consents that were in force before
    consented: Counter[str] = field(default_factory=Counter)  # how often each owner did
    policies: dict[str, str] = field(default_factory=dict)
    releases: int = 0
    release: int = -1
    lease: str = ""
    head: Head | None = None
    finished: str = ""
    finish: int = -1


class State:
    """The projection of a log. ``apply`` is the only way it changes."""

    def __init__(self) -> None:
        self.histories: dict[str, KeyHistory] = {}
        self.pinned: dict[str, str] = {}
        self.assets: dict[str, str] = {}
        self.deposits: dict[str, str] = {}
        self.sealed: dict[tuple[str, str], str] = {}
        self.publications: list[Publication] = []
        self.policies: dict[tuple[str, str], str] = {}
        self.owned: dict[str, dict[str, str]] = {}
        self.jobs: dict[str, JobState] = {}
        self.hosts: dict[str, Host] = {}
        self.boots: dict[str, tuple[int, int, int]] = {}
        self.leases: dict[str, LeaseState] = {}
        self.agents: dict[str, set[str]] = {}  # agent key to the operators of its hosts
        self.devices: dict[str, str] = {}
        self.lent: dict[str, str] = {}  # device to the newest lease that any host on it was given
        self.revoked: set[str] = set()
        # By policy owner, asset, and importer that it is exported to, if any.
        self.runs: Counter[tuple[str, str, str]] = Counter()
        self.put_out: Counter[tuple[str, str, str]] = Counter()
        self.documents: set[str] = set()
        self.records: set[str] = set()
        self.shown: dict[str, frozenset[str]] = {}
        self.published: set[tuple[str, str]] = set()  # digest and signer of each publication
        self.kept: Counter[str] = Counter()  # documents, by the first key of whoever sent them
        self.kept_bytes: Counter[str] = Counter()
        # What leases came to: releases, renewals, checkpoints, ends; by whoever runs the host.
        self.leased: Counter[str] = Counter()
        self.leased_bytes: Counter[str] = Counter()
        self._parties: dict[frozenset[str], frozenset[str]] = {}
        self.rejected: set[str] = set()  # names of rejections
        # Refused documents and evidence: by the first key of whoever signed, or runs the host.
        self.standings: dict[str, StandingName] = {}
        self.rejections: Counter[str] = Counter()
        self.rejected_bytes: Counter[str] = Counter()
        self.rejected_at: dict[str, int] = {}

    def root(self, key: str) -> str:
        """The first key of the history that ``key`` belongs to; itself where there is none."""
        return self.pinned.get(key, key)

    def history(self, key: str) -> KeyHistory:
        """The key history that ``key`` belongs to.

        Raises:
            IntegrityError: ``identity.unknown``.
        """
        pinned = self.pinned.get(key)
        if pinned is None:
            raise IntegrityError(
                "identity.unknown",
                expected="a registered identity",
                observed=key,
                next_step="register the card first; any svetovid command of this home does",
            )
        return self.histories[pinned]

    def signer(self, key: str) -> str:
        """The key that signs for ``key`` now: itself, or what it was rotated to.

        Raises:
            IntegrityError: ``identity.unknown``, ``key.revoked``.
        """
        return self.history(key).current

    def newest(self, host: str) -> bool:
        """Whether ``host`` is the newest enrolment of its device: no other has a standing."""
        return self.devices[self.hosts[host].device] == host

    def parties(self, entry: LogEntry) -> frozenset[str]:
        """Whom ``entry`` concerns: one set in memory for all entries of a job, of whatever size."""
        found = frozenset(entry.parties)
        return self._parties.setdefault(found, found)

    def apply(self, index: int, entry: LogEntry, document: Envelope | None, size: int) -> None:
        """Move forward by one entry, of ``size`` bytes.

        Args:
            document: what a rotation or revocation rests on.
        """
        body = cast(dict[str, Any], entry.body)
        if "document" in body:
            self.documents.add(body["document"])
            by = self.root(body["by"])
            self.kept[by] += 1
            self.kept_bytes[by] += body.get("bytes", 0)
            self.shown[body["document"]] = self.parties(entry)
        match entry.kind:
            case "identity":
                self.histories[body["key"]] = KeyHistory.start(body["key"])
                self.pinned[body["key"]] = body["key"]
            case "rotation" | "revocation":
                self._succession(body, entry.at, document)
            case "asset":
                self.assets[body["asset"]] = body["owner"]
                self.deposits[body["asset"]] = body["document"]
                self.sealed["asset", body["asset"]] = body["sealed"]
            case "document":
                fields = ("document", "payload", "type", "signer", "product", "version")
                self.publications.append(Publication(*(body[f] for f in fields)))
                self.published.add((body["payload"], body["signer"]))
            case "policy":
                self.policies[body["owner"], body["name"]] = body["document"]
                self.owned.setdefault(body["owner"], {})[body["name"]] = body["document"]
            case "job":
                self.jobs[body["document"]] = JobState(self.parties(entry), body["by"])
                self.sealed["checkpoint", body["document"]] = body["sealed"]
            case "consent":
                job = self.jobs[body["job"]]
                if body["owner"] in job.consents:
                    job.replaced.add(job.consents[body["owner"]])
                job.consents[body["owner"]] = body["document"]
                job.consented[body["owner"]] += 1
                job.policies[body["owner"]] = body["policy"]
            case "host":
                fields = ("name", "document", "agent", "operator", "device", "ak")
                self.hosts[body["host"]] = Host(*(body[f] for f in fields))
                self.agents.setdefault(body["agent"], set()).add(body["operator"])
                self.records.add(body["document"])
                before = self.devices.get(body["device"], body["host"])
                if before != body["host"]:
                    self.standings.pop(before, None)
                self.devices[body["device"]] = body["host"]
            case "release" | "renewal":
                self._lease(index, entry, body)
                self._leased(body["lease"], size + body["bytes"])
            case "lease-end":
                self.leases[body["lease"]].ended = body["why"]
                self._leased(body["lease"], size, count=0)  # each release is counted with its end
            case "head":
                self.jobs[body["head"]["job"]].head = Head.from_json(body["head"])
                self.leases[body["lease"]].heads += 1
                self._leased(body["lease"], size)
            case "finish":
                self.jobs[body["job"]].finished = body["document"]
                self.jobs[body["job"]].finish = index
                self.leases[body["lease"]].ended = "finished"
            case "rejection":
                self.rejected.add(body["name"])
                self._rejected(body["by"], entry.at, size)
            case "standing":
                self.standings[body["host"]] = body["standing"]
                self._rejected(self.hosts[body["host"]].operator, entry.at, size)
            case "refusal":
                if "lease" in body:  # an end of it, counted with its release
                    self.leases[body["lease"]].refused = True
                    self._leased(body["lease"], size + body["bytes"], count=0)
                else:
                    operator = self.hosts[body["host"]].operator
                    self._rejected(operator, entry.at, size + body["bytes"])

    def _leased(self, lease: str, size: int, count: int = 1) -> None:
        root = self.root(self.hosts[self.leases[lease].host].operator)
        self.leased[root] += count
        self.leased_bytes[root] += size

    def _rejected(self, by: str, at: int, size: int) -> None:
        root = self.root(by)
        self.rejections[root] += 1
        self.rejected_bytes[root] += size
        self.rejected_at[root] = at

    def _succession(self, body: dict[str, Any], at: int, document: Envelope | None) -> None:
        if document is None:
            raise AssertionError("the store gives the document of a succession")
        pinned = self.pinned[body["key"]]
        history = self.histories[pinned].add(document, now=at)
        self.histories[pinned] = history
        for key in history.keys:
            self.pinned[key] = pinned
        if history.revoked is not None:
            self.revoked.update(history.keys)

    def _lease(self, index: int, entry: LogEntry, body: dict[str, Any]) -> None:
        job = self.jobs[body["job"]]
        since, heads = entry.at, 0
        if entry.kind == "renewal":
            since, heads = self.leases[body["lease"]].since, self.leases[body["lease"]].heads
        else:
            job.releases += 1
            job.release = index
            if job.lease:
                self.leases[job.lease].ended = self.leases[job.lease].ended or "over"
            for use in {(u["owner"], u["asset"], u["to"]) for u in body["uses"]}:
                self.runs[use] += 1
                self.put_out[use] += body["bytes_out"]
        job.lease = body["lease"]
        self.lent[self.hosts[body["host"]].device] = body["lease"]
        boot = (body["reset_count"], body["restart_count"], body["clock"])
        # Of two quotes under way at once, the older may be recorded last.
        self.boots[body["host"]] = max(boot, self.boots.get(body["host"], (0, 0, 0)))
        self.leases[body["lease"]] = LeaseState(
            id=body["lease"],
            job=body["job"],
            host=body["host"],
            keys=JobKeys.from_json(body["keys"]),
            expires_at=body["expires_at"],
            reset_count=body["reset_count"],
            restart_count=body["restart_count"],
            entry=index,
            since=since,
            heads=heads,
        )
