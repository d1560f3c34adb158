"""Records of what was refused to somebody who is known: policies, jobs, consents, hosts, rotations.

Rules:

1. Only refusals of substance: what cannot be read, or is too much, leaves no record.
2. Only of parties that are registered and signed what was refused: of an enrolment, the operator
   who signed the host's statement, once the agent in it has signed too. Nobody else fills the log.
3. One record for one refused document and its reasons, however often it is sent, by whomever:
   signed documents can be sent again by anybody who saw them.
4. Each party may have as many, and as large, as it may have documents; past that, one a day, so
   that whoever used them up does not go on unseen. What else is refused to it leaves no record. A
   host's refused evidence counts as its operator's; where it ends a lease, with that lease.

A record names the document by its digest, and says by codes why it was refused. Whoever sent it got
the reasons in full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from svetovid.crypto import Envelope, digest
from svetovid.crypto.canonical import canonical
from svetovid.errors import RefusalError
from svetovid.manager.admission import Admission
from svetovid.manager.core import Core
from svetovid.manager.state import LeaseState, State

__all__ = ["Rejecting"]

T = TypeVar("T")

_DAY_S = 86_400
_UNREADABLE = frozenset({"signature.canonical", "signature.type"})


class Rejecting:
    """Stands around whatever takes documents from known parties."""

    def __init__(self, core: Core, admission: Admission) -> None:
        self._core = core
        self._admission = admission

    def signed(self, what: str, handle: Callable[[Envelope], T]) -> Callable[[Envelope], T]:
        """``handle``, with a record of what it refuses to those who signed its envelope."""

        def handled(envelope: Envelope) -> T:
            with self.recorded(what, envelope):
                return handle(envelope)

        return handled

    @contextmanager
    def recorded(self, what: str, envelope: Envelope) -> Iterator[None]:
        """Record what the block refuses to those who signed ``envelope``."""
        try:
            yield
        except RefusalError as e:
            self.note(what, envelope.payload_digest(), _signers(envelope), e)
            raise

    def note(self, what: str, subject: str, signers: Iterable[str], error: RefusalError) -> None:
        """Record that ``subject`` was refused to those of ``signers`` who are registered."""
        if error.code in _UNREADABLE:
            return
        core = self._core
        codes = sorted({r.code for r in error.reasons})
        name = digest(canonical({"what": what, "subject": subject, "codes": codes}))
        known = sorted(k for k in signers if k in core.state.pinned)
        if not known or name in core.state.rejected:
            return
        by = known[0]
        with core.store.write() as tx:
            if name not in tx.state.rejected and self.room(tx.state, by):
                body = {"what": what, "subject": subject, "codes": [*codes], "by": by}
                body["name"] = name
                tx.append(core.entry("rejection", known, body))

    def room(self, state: State, by: str, size: int = 0) -> bool:
        """Whether one more refusal to the party of ``by`` may be recorded, with ``size`` bytes."""
        root, bounds = state.root(by), self._admission.bounds(state, by)
        few = state.rejections[root] < bounds.documents
        if few and state.rejected_bytes[root] + size <= bounds.bytes:
            return True
        return self._core.now() - state.rejected_at.get(root, 0) >= _DAY_S

    def told(self, state: State, lease: LeaseState, size: int) -> bool:
        """Whether ``size`` bytes may be kept of what owners alone are told of a lease's end."""
        return self._admission.lease_fits(state, lease.host, lease.job, size=size)


def _signers(envelope: Envelope) -> frozenset[str]:
    """Who signed; nobody where any signature does not hold."""
    try:
        return envelope.signed_by()
    except RefusalError:
        return frozenset()
