"""What stakeholders give a manager: their assets' keys, documents, policies, jobs.

Everything is idempotent: the same document twice is one entry. Whoever is entitled signs; nobody
else, and no administrator, changes anything here. Who signs for an owner is asked twice: before the
work, and inside the transaction, where what others wrote meanwhile is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from svetovid.assets.manifest import Manifest
from svetovid.crypto import Card, Envelope, Secret, digest
from svetovid.crypto.envelope import payload_type
from svetovid.errors import IntegrityError, ParseError, PolicyError, Reason
from svetovid.evidence.documents import ReferenceValues, TrustAnchors
from svetovid.manager.admission import Admission
from svetovid.manager.consenting import held_already, spoken
from svetovid.manager.core import Core
from svetovid.manager.state import State
from svetovid.policy.documents import Job, Policy
from svetovid.policy.lint import lint
from svetovid.policy.modes import require_available
from svetovid.policy.succession import check_successor
from svetovid.protocol.contexts import deposit_context
from svetovid.protocol.messages import KeyDeposit

__all__ = ["Registry", "key_label"]

_ASSET_KEY_BYTES = 32


def key_label(label: str, subject: str, owner: str) -> dict[str, str]:
    """What a key at rest is bound to."""
    return {"label": label, "subject": subject, "owner": owner}


class Registry:
    """The owners' half of a manager."""

    def __init__(self, core: Core, admission: Admission) -> None:
        self._core = core
        self._admission = admission

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
            body = {
                "asset": asset,
                "owner": deposit.owner,
                "sealed": digest(sealed),
                "document": envelope.payload_digest(),
                "by": deposit.owner,
                "bytes": self._admission.room(tx.state, deposit.owner, envelope),
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
        (signer,) = signers
        with core.store.write() as tx:
            by = sorted(tx.state.root(key) for key in caller)[0]
            tx.state.history(by)  # the agent of a host publishes nothing
            if (document.digest(), signer) not in tx.state.published:
                if signer in tx.state.pinned:
                    core.opened(envelope, kind, signer)
                body = {
                    "document": envelope.digest(),  # another's signature is another publication
                    "payload": document.digest(),
                    "type": kind.TYPE,
                    "signer": signer,
                    "product": document.product,
                    "version": document.version,
                    "by": by,
                    "bytes": self._admission.room(tx.state, by, envelope),
                }
                tx.append(core.entry("document", [*caller, signer], body), envelope)
        return {"document": document.digest()}

    def put_policy(self, envelope: Envelope) -> dict[str, Any]:
        """A signed :class:`Policy`: the next of its owner's, without lint errors.

        Raises:
            PolicyError: ``policy.*`` of the succession, or the linter's findings.
        """
        core = self._core
        claimed = envelope.peek(Policy)
        core.for_me(claimed.manager)
        if held_already(core, envelope, claimed, core.state.policies.get(key_of(claimed))):
            return {"policy": claimed.digest()}
        policy = spoken(core, envelope, claimed)
        where = f"policy {policy.name}"
        errors = [
            Reason(f.code, f.message, "", f.next_step, f"{where} {f.where}", policy.owner)
            for f in lint(policy, warnings=False)
            if f.severity == "error"
        ]
        if errors:
            raise PolicyError.from_reasons(errors)
        name = policy.digest()
        with core.store.write() as tx:
            spoken(core, envelope, claimed)
            held = tx.state.policies.get(key_of(policy))
            check_successor(core.store.document(held, Policy) if held else None, policy)
            if held != name:
                body = {
                    "document": name,
                    "owner": policy.owner,
                    "name": policy.name,
                    "sequence": policy.sequence,
                    "by": policy.owner,
                    "bytes": self._admission.room(tx.state, policy.owner, envelope),
                }
                if policy.predecessor is not None:
                    body["predecessor"] = policy.predecessor
                parties = [policy.owner, *(e.to for e in policy.exports)]
                tx.append(core.entry("policy", parties, body), envelope)
        return {"policy": name}

    def put_job(self, envelope: Envelope) -> dict[str, Any]:
        """A signed :class:`Job`. Its checkpoint key is made here and never changes (T11).

        Raises:
            PolicyError: ``mode.unavailable`` (T17), ``job.manager``, ``recipient.rotated``.
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
                _current(tx.state, recipients)
                body = {
                    "document": name,
                    "sealed": digest(sealed),
                    "by": job.proposer,
                    "bytes": self._admission.room(tx.state, job.proposer, envelope),
                }
                tx.put_key("checkpoint", name, job.proposer, sealed)
                parties = [job.proposer, *job.owners, *recipients]
                tx.append(core.entry("job", parties, body), envelope)
        return {"job": name}


def _current(state: State, recipients: Iterable[str]) -> None:
    """Refuse a new job for a key that was rotated: a card of it may be whoever stole that key's."""
    for key in recipients:
        if key in state.pinned and state.history(key).current != key:
            raise PolicyError(
                "recipient.rotated",
                expected=f"a card of {state.history(key).current}, to which it was rotated",
                observed=f"one of {key}",
                next_step="propose the job with the recipient's newest card",
            )


def key_of(policy: Policy) -> tuple[str, str]:
    """What a manager keeps a policy under: one of each name in force for each owner."""
    return policy.owner, policy.name
