"""An owner's policies: read from YAML, linted, signed as the next edition, published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svetovid.crypto import Digest, Envelope, KeyId, canonical, keystore, sign
from svetovid.errors import InputError
from svetovid.evidence.documents import NO_SUBJECT, ReferenceValues, TrustAnchors
from svetovid.policy import Finding, Policy, lint, load_policy, load_yaml, require_sound
from svetovid.stakeholder.choosing import PLACEHOLDERS, as_before, explained
from svetovid.stakeholder.home import Home, read_bounded
from svetovid.stakeholder.identity import Stakeholder, read_card
from svetovid.stakeholder.manager import connect
from svetovid.stakeholder.names import Names, read_envelope
from svetovid.stakeholder.operator import publish
from svetovid.stakeholder.pins import pinned_manager

__all__ = [
    "Checked",
    "check_policy",
    "newest_edition",
    "own_policies",
    "publish_policy",
    "read_policy",
    "withdraw_consents",
]

MAX_POLICY_BYTES = 256 << 10


def read_policy(
    home: Home,
    file: Path,
    names: Names,
    *,
    owner: KeyId | None = None,
    chosen: Mapping[str, str] | None = None,
    unsealed: bool = False,
) -> Policy:
    """A policy from YAML. Owner, manager, sequence and predecessor follow from the home.

    Args:
        home: whose policy; its newest edition of this name is the predecessor.
        file: YAML as ``docs/spec/policy.md`` describes it.
        names: what ``$name`` stands for; ``$manager`` is the pinned manager.
        owner: whose assets it speaks of; without it, the owner of the edition before, or this
            home's key. A policy keeps its owner over a rotation, and new assets have the new one.
        chosen: what ``$anchors``, ``$references`` and ``$asset`` stand for; what is left out is as
            in the edition before.
        unsealed: let ``$asset`` be an asset that is still to be sealed, where nothing says which.

    Raises:
        InputError: ``file.*``, ``policy.yaml``, ``policy.reference``, ``policy.placeholder``,
            ``policy.invalid``, ``limit.*``, ``names.ambiguous``, ``manager.unpinned``.
    """
    data = read_bounded(file, MAX_POLICY_BYTES, what="a policy in YAML")
    manager = pinned_manager(home).open().signing
    value = load_yaml(data)
    name = value.get("name") if isinstance(value, dict) else None
    newest = newest_edition(home, name) if isinstance(name, str) else None
    if newest is not None and owner not in (None, newest.owner):
        newest = None
    owner = owner or (newest.owner if newest else read_card(home.card).signing)
    resolve = {n: v for n, v in names.digests.items() if n not in PLACEHOLDERS}
    resolve |= {"asset": NO_SUBJECT} if unsealed else {}
    resolve |= as_before(newest) | dict(chosen or {}) | {"manager": manager}
    defaults: dict[str, Any] = {"owner": owner, "manager": manager}
    if newest is None:
        with explained(home, names):
            return load_policy(data, resolve=resolve, defaults=defaults | {"sequence": 1})
    edition: dict[str, Any] = {"sequence": newest.sequence}
    if newest.predecessor is not None:
        edition["predecessor"] = newest.predecessor
    with explained(home, names):
        unchanged = load_policy(data, resolve=resolve, defaults=defaults | edition)
    if unchanged == newest:
        return unchanged
    edition = {"sequence": newest.sequence + 1, "predecessor": newest.digest()}
    return load_policy(data, resolve=resolve, defaults=defaults | edition)


@dataclass(frozen=True, slots=True)
class Checked:
    """A policy as it would be signed, and what the linter finds.

    Attributes:
        sealed: whether all its assets are; where one is not, its digest is not known yet.
    """

    policy: Policy
    findings: Sequence[Finding]
    sealed: bool


def check_policy(
    home: Path, file: Path, names: Names, chosen: Mapping[str, str] | None = None
) -> Checked:
    """Read and lint a policy without signing it; no passphrase is needed.

    Raises:
        InputError, IntegrityError: as :func:`read_policy`.
    """
    policy = read_policy(Home(home), file, names, chosen=chosen, unsealed=True)
    assets = {grant.asset for grant in (*policy.grants, *policy.exports)}
    return Checked(policy, lint(policy), NO_SUBJECT not in assets)


def publish_policy(
    who: Stakeholder,
    policy: Policy,
    documents: Sequence[TrustAnchors | ReferenceValues | Envelope] = (),
) -> Digest:
    """Sign a policy and put it in force at its manager; keep the edition in the home.

    Consents name an edition: those given under the one before no longer count (T5).

    Args:
        who: its owner.
        policy: what :func:`read_policy` read.
        documents: anchors and reference values it pins, published before it. Those nobody signed,
            the owner signs; those somebody else signed are passed on as they are.

    Raises:
        PolicyError: ``lint.*`` for each error the linter finds, or the manager's own refusal.
    """
    require_sound(policy)
    for document in documents:
        publish(who, document)
    signed = sign(policy, who.identity)
    with connect(who) as client:
        digest = client.put_policy(signed)
    _keep(who.home, policy, signed)
    return digest


def own_policies(who: Stakeholder) -> list[Policy]:
    """The newest edition of each policy that this home signed."""
    found = []
    for path in sorted(who.home.policies.glob("*.json")):
        envelope = read_envelope(path)
        found.append(envelope.open(Policy, by=envelope.signed_by()))
    return found


def withdraw_consents(who: Stakeholder, name: str) -> Digest:
    """End every consent under policy ``name`` by publishing it, unchanged, as its next edition.

    What a host already holds stays with it until its lease ends; nothing can be unlearned.

    Raises:
        InputError: ``policy.unknown`` where this home signed none of this name.
    """
    policy = newest_edition(who.home, name)
    if policy is None:
        raise InputError(
            "policy.unknown",
            expected=f"a policy {name} in {who.home.policies}",
            observed="none",
            next_step="svetovid policy show --home HOME",
        )
    fields = policy.to_json() | {"sequence": policy.sequence + 1, "predecessor": policy.digest()}
    return publish_policy(who, Policy.from_json(fields))


def newest_edition(home: Home, name: str) -> Policy | None:
    """The newest edition of policy ``name`` that this home signed; its signature holds.

    Raises:
        InputError, IntegrityError: ``file.*``, ``json.*``, ``document.invalid``, ``signature.*``.
    """
    # the name comes from YAML: only a plain one may become a file name
    path = home.policies / f"{name}.json"
    if path.parent != home.policies or not path.is_file():
        return None
    envelope = read_envelope(path)
    return envelope.open(Policy, by=envelope.signed_by())


def _keep(home: Home, policy: Policy, signed: Envelope) -> None:
    keystore.write_private(home.policies / f"{policy.name}.json", canonical(signed.to_json()))
