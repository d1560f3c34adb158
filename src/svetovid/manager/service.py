"""The manager without its wire: every endpoint a method, JSON in and JSON out.

What crosses the wire is verified in the parts; here they are put together, and answers are signed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from svetovid.crypto import Document, Envelope, Identity
from svetovid.errors import IntegrityError, RefusalError
from svetovid.manager.access import Access
from svetovid.manager.admission import Admission
from svetovid.manager.consenting import Consenting
from svetovid.manager.core import Core, Settings
from svetovid.manager.deciding import Deciding
from svetovid.manager.door import Door
from svetovid.manager.enrolment import Enrolment
from svetovid.manager.examining import Examiner
from svetovid.manager.finishing import Finishing
from svetovid.manager.freshness import Freshness
from svetovid.manager.identities import Identities
from svetovid.manager.leasing import Leasing
from svetovid.manager.proving import OwnEvidence, Prover
from svetovid.manager.reading import Reading
from svetovid.manager.registry import Registry
from svetovid.manager.rejecting import Rejecting
from svetovid.manager.rootkey import RootKey, RootSealer
from svetovid.manager.standings import Standings
from svetovid.manager.store import Fault, Store
from svetovid.manager.watching import Watching
from svetovid.protocol.managers import ProofRequest
from svetovid.protocol.messages import (
    Answer,
    EvidenceRequest,
    FinishRequest,
    JsonObject,
)

__all__ = ["Manager"]

D = TypeVar("D", bound=Document)


def _no_fault(_point: str) -> None:
    return


class Manager:
    """A policy manager: holds keys, and releases them to whom every owner agreed.

    Args:
        path: the store's file.
        identity: signs every answer and checkpoint, and receives the owners' keys.
        root: seals keys at rest.
        sealer: what protects the root key; its counter anchors the store (T15).
        channel: digest of the TLS certificate that hosts see (T6).
        clock: Unix seconds.
        settings: bounds.
        door: whom the administrator lets in, whenever asked.
        fault: for tests that end the process between two steps.
        prover: what this machine can prove, where it has a TPM with a certificate.
        begun: whether it had a store before; see :class:`Store`.
    """

    def __init__(
        self,
        path: Path,
        identity: Identity,
        root: RootKey,
        sealer: RootSealer,
        *,
        channel: str,
        clock: Callable[[], int],
        settings: Settings | None = None,
        door: Callable[[], Door] = Door,
        fault: Fault = _no_fault,
        prover: Prover | None = None,
        begun: bool = False,
    ) -> None:
        self._store = Store(path, identity, clock, sealer=sealer, begun=begun, fault=fault)
        core = Core(self._store, identity, root, clock, settings or Settings())
        self._core = core
        deciding = Deciding(core)
        admission = Admission(core, door)
        freshness = Freshness(core, channel, admission)
        self._rejecting = rejecting = Rejecting(core, admission)
        examiner = Examiner(core, freshness, deciding, rejecting)
        self._access = Access(core)
        self._identities = Identities(core, admission)
        self._registry = Registry(core, admission)
        enrolment = Enrolment(core, admission, rejecting)
        consenting = Consenting(core, admission)
        known = rejecting.signed
        self._freshness = freshness
        self._leasing = Leasing(core, examiner, deciding, admission)
        self._finishing = Finishing(core, examiner, admission)
        standings = Standings(core, rejecting)
        self.watching = Watching(core, freshness, deciding, examiner, admission, standings)
        self.own = OwnEvidence(core, channel, prover)
        self._reading = Reading(core, deciding, self.watching, sealer, proves=prover is not None)
        self.changes: dict[str, Callable[[bytes], JsonObject]] = {
            "/v1/rotations": self._envelope(known("rotation", self._identities.rotate)),
            "/v1/revocations": self._envelope(known("revocation", self._identities.revoke)),
            "/v1/assets": self._envelope(known("asset", self._registry.deposit)),
            "/v1/policies": self._envelope(known("policy", self._registry.put_policy)),
            "/v1/jobs": self._envelope(known("job", self._registry.put_job)),
            "/v1/consents": self._envelope(known("consent", consenting.consent)),
            "/v1/hosts": self._envelope(enrolment.enrol),
            "/v1/activations": self._envelope(enrolment.activate),
            "/v1/challenges": self._envelope(self._freshness.challenge),
            "/v1/heads": self._envelope(self._finishing.head),
            "/v1/lease-ends": self._envelope(self._finishing.end),
            "/v1/releases": self._parsed(EvidenceRequest, self._leasing.release),
            "/v1/renewals": self._parsed(EvidenceRequest, self._leasing.renew),
            "/v1/attestations": self._parsed(EvidenceRequest, self.watching.attest),
            "/v1/finishes": self._parsed(FinishRequest, self._finishing.finish),
            "/v1/evidence": self._parsed(ProofRequest, self.own.prove),
        }
        """Path to what it does with a body. A method of its own for each document that may come.
        Registrations and publications also depend on who sends them: :meth:`register`,
        :meth:`publish`."""

    @staticmethod
    def _envelope(handle: Callable[[Envelope], JsonObject]) -> Callable[[bytes], JsonObject]:
        return lambda body: handle(Envelope.parse(body, max_bytes=MAX_BODY_BYTES))

    @staticmethod
    def _parsed(kind: type[D], handle: Callable[[D], JsonObject]) -> Callable[[bytes], JsonObject]:
        return lambda body: handle(kind.parse(body, max_bytes=MAX_BODY_BYTES))

    @property
    def key_id(self) -> str:
        """Its key, which is also its name and its log's."""
        return self._core.me

    def close(self) -> None:
        """Close the store; nothing is answered any more."""
        self._store.close()

    def caller(self, header: str, method: str, path: str, body: bytes) -> frozenset[str]:
        """The keys behind a request token; see :class:`Access`.

        Args:
            header: the Authorization header.
            method: of the request.
            path: with its query, as sent.
            body: as sent.
        """
        return self._access.caller(header, method, path, body)

    @property
    def epoch(self) -> str:
        """Names this process; see :class:`Access`."""
        return self._access.epoch

    def refresh(self) -> None:
        """Take in what another manager over the same store added: before every request."""
        self._store.refresh()

    def register(self, body: bytes, source: str) -> JsonObject:
        """A registration that came from the network address ``source``."""
        return self._identities.register(Envelope.parse(body, max_bytes=MAX_BODY_BYTES), source)

    def publish(self, caller: frozenset[str], body: bytes) -> JsonObject:
        """Anchors or reference values, sent by whoever holds the keys of ``caller``."""
        envelope = Envelope.parse(body, max_bytes=MAX_BODY_BYTES)
        try:
            return self._registry.publish(envelope, caller)
        except RefusalError as e:
            self._rejecting.note("document", envelope.payload_digest(), caller, e)
            raise

    @property
    def reading(self) -> Reading:
        """What it tells, and changes nothing by."""
        return self._reading

    def answer(self, request: str, seen: int, body: JsonObject) -> Envelope:
        """Sign an answer, with proof that the log grew from what the caller saw.

        Args:
            request: :func:`request_digest` of what is answered.
            seen: size of the log that the caller saw.
            body: the answer itself.

        Raises:
            IntegrityError: ``store.rollback`` where the caller saw more than this store has.
        """
        if seen > self._store.size:
            self._store.refresh()
        checkpoint, tree = self._store.tip
        if seen > tree.size:
            raise IntegrityError(
                "store.rollback",
                expected=f"a log of at least {seen} entries, which the caller saw",
                observed=f"{tree.size} entries",
                next_step="this manager runs on an older copy of its store",
            )
        answer: dict[str, Any] = {
            "request": request,
            "issued_at": self._core.now(),
            "body": body,
            "checkpoint": checkpoint.to_json(),
            "seen": seen,
            "consistency": list(tree.consistency(seen)),
        }
        return self._core.sign(Answer.from_json(answer))


MAX_BODY_BYTES = 16 << 20
"""The largest request body."""
