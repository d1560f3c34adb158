"""What stakeholders tell a manager: who they are, their keys, documents, policies, jobs, consents.

Everything is idempotent: the same document twice is one entry. Whoever is entitled signs; nobody
else, and no administrator, changes anything here. Who signs for an owner is asked twice: before the
work, and inside the transaction, where what others wrote meanwhile is known.
"""

from __future__ import annotations

from typing import Any, TypeVar

from svetovid.assets.manifest import Manifest
from svetovid.crypto import Card, Envelope, Revocation, Rotation, Secret, digest
from svetovid.crypto.envelope import payload_type
from svetovid.errors import IntegrityError, ParseError, PolicyError, Reason
from svetovid.evidence.documents import ReferenceValues, TrustAnchors
from svetovid.manager.core import Core
from svetovid.policy.documents import Consent, Job, Policy
from svetovid.policy.lint import lint
from svetovid.policy.modes import require_available
from svetovid.policy.speaking import open_owned, owner_keys
from svetovid.policy.succession import check_successor
from svetovid.protocol.contexts import deposit_context
from svetovid.protocol.messages import IdentityRegistration, KeyDeposit

__all__ = ["Registry", "key_label"]

D = TypeVar("D", Policy, Consent)

_ASSET_KEY_BYTES = 32


def key_label(label: str, subject: str, owner: str) -> dict[str, str]:
    """What a key at rest is bound to."""
    return {"label": label, "subject": subject, "owner": owner}


class Registry:
    """The owners' half of a manager."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, envelope: Envelope) -> dict[str, Any]:
        """An :class:`IdentityRegistration`. Raises also LimitError ``store.quota``."""
        core = self._core
        claimed = envelope.peek(IdentityRegistration)
        core.for_me(claimed.manager)
        card = Card.open(claimed.card)
        envelope.open(IdentityRegistration, by=card.signing)
        with core.store.write() as tx:
            if card.signing not in tx.state.pinned:
                core.within(len(tx.state.pinned), core.settings.identities, "identities")
                core.timely(claimed.issued_at)
                body = {
                    "key": card.signing,
                    "name": card.name,
                    "document": envelope.payload_digest(),
                    "by": card.signing,
                }
                tx.append(core.entry("identity", [card.signing], body), envelope)
        return {"key": card.signing}

    def rotate(self, envelope: Envelope) -> dict[str, Any]:
        """A :class:`Rotation`, signed by both keys. What was agreed stays agreed (T5)."""
        rotation = envelope.peek(Rotation)
        with self._core.store.write() as tx:
            taken = tx.state.pinned.get(rotation.new.signing)
            if taken is not None and taken != tx.state.pinned.get(rotation.old):
                raise IntegrityError(
                    "identity.conflict",
                    expected="a key that is nobody's yet",
                    observed=rotation.new.signing,
                    next_step="rotate to a newly made identity",
                )
            self._succeed(tx, "rotation", rotation.old, envelope)
        return {"key": rotation.new.signing}

    def revoke(self, envelope: Envelope) -> dict[str, Any]:
        """A :class:`Revocation`, signed by the key or a later one of its history."""
        revocation = envelope.peek(Revocation)
        with self._core.store.write() as tx:
            self._succeed(tx, "revocation", revocation.key, envelope)
        return {"key": revocation.key}

    def _succeed(self, tx: Any, kind: Any, key: str, envelope: Envelope) -> None:
        core = self._core
        history = tx.state.history(key)
        body = {"key": key, "document": envelope.payload_digest(), "by": key}
        entry = core.entry(kind, history.keys, body)
        grown = history.add(envelope, now=entry.at)
        if grown != history:
            tx.append(entry.model_copy(update={"parties": tuple(sorted(grown.keys))}), envelope)

    def deposit(self, envelope: Envelope) -> dict[str, Any]:
        """A :class:`KeyDeposit`: the key is opened, checked, and sealed under the root key.

        Raises:
            IntegrityError: ``asset.owner``, ``asset.manager`` (T1), ``hpke.open``, ``asset.key``,
                ``asset.conflict``.
        """
        core = self._core
        claimed = envelope.peek(KeyDeposit)
        core.for_me(claimed.manager)
        deposit = core.opened(envelope, KeyDeposit, claimed.owner)
        manifest = Manifest.from_json(deposit.manifest)
        asset = deposit.asset
        if manifest.owner != deposit.owner:
            raise IntegrityError(
                "asset.owner",
                expected=manifest.owner,
                observed=deposit.owner,
                next_step="only the owner in the manifest may deposit its key",
            )
        if manifest.manager != core.me:
            raise IntegrityError(
                "asset.manager",
                expected=manifest.manager,
                observed=core.me,
                next_step="deposit the key with the manager that the manifest names",
            )
        context = deposit_context(asset, deposit.owner, core.me)
        key = core.identity.receiving.open(deposit.sealed, context)
        if len(key) != _ASSET_KEY_BYTES:
            raise IntegrityError(
                "asset.key",
                expected=f"{_ASSET_KEY_BYTES} bytes",
                observed=str(len(key)),
                next_step="seal the asset again, and deposit the key that this gives",
            )
        sealed = core.root.seal(key, key_label("asset", asset, deposit.owner))
        with core.store.write() as tx:
            core.opened(envelope, KeyDeposit, claimed.owner)  # still, whoever else wrote meanwhile
            if asset in tx.state.assets:
                return {"asset": asset}
            core.within(tx.state.kept[deposit.owner], core.settings.documents, "documents")
            body = {
                "asset": asset,
                "owner": deposit.owner,
                "sealed": digest(sealed),
                "document": envelope.payload_digest(),
                "by": deposit.owner,
            }
            tx.put_key("asset", asset, deposit.owner, sealed)
            tx.append(core.entry("asset", [deposit.owner], body), envelope)
        return {"asset": asset}

    def publish(self, envelope: Envelope, caller: frozenset[str]) -> dict[str, Any]:
        """Signed :class:`TrustAnchors` or :class:`ReferenceValues`, by whomever (T2).

        What it is worth is for each owner's policy to say, which pins its digest or its signer. A
        signer that is known here signs with its newest key, or its policies' pins would take what
        a superseded or stolen one says for its newest edition.
        """
        core = self._core
        kinds: dict[str, type[TrustAnchors] | type[ReferenceValues]] = {
            payload_type(TrustAnchors.TYPE): TrustAnchors,
            payload_type(ReferenceValues.TYPE): ReferenceValues,
        }
        kind = kinds.get(envelope.payloadType)
        if kind is None:
            raise ParseError(
                "document.kind",
                expected=" or ".join(sorted(kinds)),
                observed=envelope.payloadType,
                next_step="publish trust anchors or reference values",
            )
        signers = envelope.signed_by()
        if len(signers) != 1:
            raise IntegrityError(
                "signature.missing",
                expected="exactly one signature",
                observed=str(len(signers)),
                next_step="send one envelope for each signer",
            )
        document = envelope.peek(kind)
        name = envelope.digest()  # of the envelope: another's signature is another publication
        by = sorted(caller)[0]
        with core.store.write() as tx:
            if name not in tx.state.documents:
                core.within(tx.state.kept[by], core.settings.documents, "documents")
                body = {
                    "document": name,
                    "payload": document.digest(),
                    "type": kind.TYPE,
                    "signer": next(iter(signers)),
                    "product": document.product,
                    "version": document.version,
                    "by": by,
                }
                tx.append(core.entry("document", [*caller, *signers], body), envelope)
        return {"document": document.digest()}

    def put_policy(self, envelope: Envelope) -> dict[str, Any]:
        """A signed :class:`Policy`: the next of its owner's, without lint errors.

        Raises:
            PolicyError: ``policy.*`` of the succession, or the linter's findings.
        """
        core = self._core
        claimed = envelope.peek(Policy)
        core.for_me(claimed.manager)
        if self._again(envelope, core.state.policies.get((claimed.owner, claimed.name)), claimed):
            return {"policy": claimed.digest()}
        policy = self._spoken(envelope, claimed)
        where = f"policy {policy.name}"
        errors = [
            Reason(f.code, f.message, "", f.next_step, f"{where} {f.where}", policy.owner)
            for f in lint(policy)
            if f.severity == "error"
        ]
        if errors:
            raise PolicyError.from_reasons(errors)
        name = policy.digest()
        with core.store.write() as tx:
            self._spoken(envelope, claimed)
            held = tx.state.policies.get((policy.owner, policy.name))
            check_successor(core.store.document(held, Policy) if held else None, policy)
            if held != name:
                core.within(tx.state.kept[policy.owner], core.settings.documents, "documents")
                body = {
                    "document": name,
                    "owner": policy.owner,
                    "name": policy.name,
                    "sequence": policy.sequence,
                    "by": policy.owner,
                }
                if policy.predecessor is not None:
                    body["predecessor"] = policy.predecessor
                parties = [policy.owner, *(e.to for e in policy.exports)]
                tx.append(core.entry("policy", parties, body), envelope)
        return {"policy": name}

    def put_job(self, envelope: Envelope) -> dict[str, Any]:
        """A signed :class:`Job`. Its checkpoint key is made here and never changes (T11).

        Raises:
            PolicyError: ``mode.unavailable`` (T17), ``job.manager``.
            IntegrityError: ``signature.*``, ``key.*``.
        """
        core = self._core
        job = core.opened(envelope, Job, envelope.peek(Job).proposer)
        require_available(job)
        if core.me not in job.managers:
            raise PolicyError(
                "job.manager",
                expected="a job with an asset of this manager",
                observed=", ".join(sorted(job.managers)),
                next_step="propose it to the managers it names",
            )
        recipients = [Card.open(r.card).signing for r in job.recipients]
        name = job.digest()
        key = Secret.random(_ASSET_KEY_BYTES)
        sealed = core.root.seal(key, key_label("checkpoint", name, job.proposer))
        with core.store.write() as tx:
            core.opened(envelope, Job, job.proposer)
            if name not in tx.state.jobs:
                core.within(tx.state.kept[job.proposer], core.settings.documents, "documents")
                body = {"document": name, "sealed": digest(sealed), "by": job.proposer}
                tx.put_key("checkpoint", name, job.proposer, sealed)
                parties = [job.proposer, *job.owners, *recipients]
                tx.append(core.entry("job", parties, body), envelope)
        return {"job": name}

    def _again(self, envelope: Envelope, held: str | None, claimed: Policy | Consent) -> bool:
        """Whether this very envelope is in force: it changes nothing, by whatever key it was signed.

        Raises:
            IntegrityError: ``key.revoked``: an owner that was ended is told so.
        """
        if claimed.owner in self._core.state.pinned:
            self._core.state.signer(claimed.owner)
        return held == claimed.digest() and self._core.store.envelope(held) == envelope

    def _spoken(self, envelope: Envelope, claimed: D) -> D:
        """A document by whoever speaks for its owner: as it shows itself, and as is known here.

        Raises:
            IntegrityError: ``signature.*``, ``key.*``, ``identity.unknown`` for a policy.
        """
        document = open_owned(envelope, type(claimed))
        pinned = self._core.state.pinned
        for key in owner_keys(document):
            if key in pinned or isinstance(document, Policy):
                self._core.opened(envelope, type(claimed), key)
        return document

    def _imports(self, consent: Consent) -> bool:
        """Whether a policy of the consenting owner imports an asset of the job.

        Anybody else's consent would bring anybody else's clauses into the decision: a veto for
        strangers.
        """
        store, state = self._core.store, self._core.state
        assets = {a.manifest for a in store.document(consent.job, Job).assets.values()}
        mine = [d for (owner, _), d in state.policies.items() if owner == consent.owner]
        return any(i.asset in assets for d in mine for i in store.document(d, Policy).imports)

    def consent(self, envelope: Envelope) -> dict[str, Any]:
        """A signed :class:`Consent`, by its owner's own key (T5).

        An owner whose assets another manager holds need not be known here: its signature counts,
        or that of the key its rotations lead to.
        """
        core = self._core
        claimed = envelope.peek(Consent)
        known = core.state.jobs.get(claimed.job)
        if known and self._again(envelope, known.consents.get(claimed.owner), claimed):
            return {"job": claimed.job}
        consent = self._spoken(envelope, claimed)
        name = envelope.payload_digest()
        with core.store.write() as tx:
            self._spoken(envelope, claimed)
            job = tx.state.jobs.get(consent.job)
            if job is None:
                raise PolicyError(
                    "job.unknown",
                    expected="a job this manager holds",
                    observed=consent.job,
                    next_step="propose the job first",
                )
            if consent.owner not in job.parties and not self._imports(consent):
                raise PolicyError(
                    "consent.owner",
                    expected="an owner of an asset in this job, or an importer of one",
                    observed=consent.owner,
                    next_step="nobody else's consent is needed",
                )
            held = job.consents.get(consent.owner)
            if held is None or not _says(core.store.document(held, Consent), consent):
                core.within(tx.state.kept[consent.owner], core.settings.documents, "documents")
                body = {
                    "job": consent.job,
                    "owner": consent.owner,
                    "policy": consent.policy,
                    "document": name,
                    "by": consent.owner,
                }
                parties = [*job.parties, consent.owner]
                tx.append(core.entry("consent", parties, body), envelope)
        return {"job": consent.job}


def _says(held: Consent, again: Consent) -> bool:
    """Whether ``held`` says all that ``again`` does, and said it before: it stays as it is."""
    return held.issued_at <= again.issued_at and held == again.model_copy(
        update={"issued_at": held.issued_at}
    )
