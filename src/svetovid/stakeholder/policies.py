"""An owner's policies: read from YAML, linted, signed as the next edition, published."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svetovid.crypto import Digest, Envelope, KeyId, canonical, sign
from svetovid.crypto.private import write_private
from svetovid.errors import InputError
from svetovid.evidence.documents import NO_SUBJECT, ReferenceValues, TrustAnchors
from svetovid.policy import (
    Finding,
    Policy,
    lint,
    load_policy,
    load_yaml,
    open_owned,
    require_sound,
)
from svetovid.stakeholder.choosing import PLACEHOLDERS, as_before, explained
from svetovid.stakeholder.home import Home, read_bounded
from svetovid.stakeholder.identity import Stakeholder, read_card, rotations
from svetovid.stakeholder.keys import sealed_by
from svetovid.stakeholder.manager import connect
from svetovid.stakeholder.names import Names, read_envelope
from svetovid.stakeholder.operator import publish
from svetovid.stakeholder.pins import pinned_manager
from svetovid.stakeholder.uses import kinds_at_home, misused, require_uses

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
        owner: whose assets it speaks of; without it, the key of this home that the assets in it
            were sealed under. A policy keeps its owner over a rotation; new assets have the new
            key, and policies of their own.
        chosen: what ``$anchors``, ``$references`` and ``$asset`` stand for; what is left out is as
            in the edition before.
        unsealed: let ``$asset`` be an asset that is still to be sealed, where nothing says which.

    Raises:
        InputError: ``file.*``, ``policy.yaml``, ``policy.reference``, ``policy.placeholder``,
            ``policy.invalid``, ``policy.owners``, ``limit.*``, ``names.ambiguous``,
            ``manager.unpinned``.
    """
    data = read_bounded(file, MAX_POLICY_BYTES, what="a policy in YAML")
    manager = pinned_manager(home).open().signing
    value = load_yaml(data)
    name = value.get("name") if isinstance(value, dict) else None
    newest = newest_edition(home, name, owner) if isinstance(name, str) else None
    resolve = {n: v for n, v in names.digests.items() if n not in PLACEHOLDERS}
    resolve |= {"asset": NO_SUBJECT} if unsealed else {}
    resolve |= as_before(newest) | dict(chosen or {}) | {"manager": manager}

    def load(**fields: Any) -> Policy:
        with explained(home, names):
            return load_policy(data, resolve=resolve, defaults={"manager": manager} | fields)

    if owner is None:
        current = newest.owner if newest else read_card(home.card).signing
        owner = _owner_of(home, load(owner=current, sequence=1)) or current
        newest = newest_edition(home, name, owner) if isinstance(name, str) else None
    chain = [r.to_json() for r in rotations(home, owner)]
    if newest is None:
        return load(owner=owner, rotations=chain, sequence=1)
    edition: dict[str, Any] = {"owner": owner, "sequence": newest.sequence}
    if newest.predecessor is not None:
        edition["predecessor"] = newest.predecessor
    signed_then = [r.to_json() for r in newest.rotations]
    if load(**edition, rotations=signed_then) == newest:
        return newest
    edition |= {"sequence": newest.sequence + 1, "predecessor": newest.digest()}
    return load(**edition, rotations=chain)


def _owner_of(home: Home, policy: Policy) -> KeyId | None:
    """The key that the assets in a policy name as their owner, as far as this home sealed them.

    Raises:
        InputError: ``policy.owners`` where they name several: each has a policy of its own.
    """
    assets = {grant.asset for grant in (*policy.grants, *policy.exports)}
    owners = {owner for asset in assets if (owner := sealed_by(home, asset)) is not None}
    if len(owners) > 1:
        raise InputError(
            "policy.owners",
            expected="assets that were all sealed under one key",
            observed=f"assets sealed under {', '.join(sorted(owners))}",
            next_step="write one policy for what was sealed before the key was rotated, "
            "and one for what was sealed since",
        )
    return next(iter(owners), None)


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

    Args:
        home: its folder.
        file: the policy, YAML or JSON.
        names: what names in it stand for.
        chosen: ``$name`` to digest, for this reading.

    Raises:
        InputError, IntegrityError: as :func:`read_policy`.
    """
    policy = read_policy(Home(home), file, names, chosen=chosen, unsealed=True)
    assets = {grant.asset for grant in (*policy.grants, *policy.exports)}
    findings = [*misused(policy, kinds_at_home(Home(home))), *lint(policy)]
    return Checked(policy, findings, NO_SUBJECT not in assets)


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
    require_uses(policy, kinds_at_home(who.home))
    for document in documents:
        publish(who, document)
    signed = _signed(who, policy)
    with connect(who) as client:
        digest = client.put_policy(signed)
    _keep(who.home, policy, signed)
    return digest


def _signed(who: Stakeholder, policy: Policy) -> Envelope:
    """Signed now, unless it is the edition in force: that stays as it was signed then."""
    path = _file(who.home, policy.name, policy.owner)
    held = read_envelope(path) if path.is_file() else None
    if held is not None and held.payload_digest() == policy.digest():
        return held
    return sign(policy, who.identity)


def own_policies(who: Stakeholder) -> list[Policy]:
    """The newest edition of each policy that this home signed."""
    return [open_owned(read_envelope(p), Policy) for p in sorted(who.home.policies.glob("*.json"))]


def withdraw_consents(who: Stakeholder, name: str) -> list[Digest]:
    """End every consent under policy ``name`` by publishing it, unchanged, as its next edition.

    What a host already holds stays with it until its lease ends; nothing can be unlearned.

    Returns:
        The new edition's digest; after a rotation there may be one more for each older key.

    Raises:
        InputError: ``policy.unknown`` where this home signed none of this name.
    """
    held = _editions(who.home, name)
    if not held:
        raise InputError(
            "policy.unknown",
            expected=f"a policy {name} in {who.home.policies}",
            observed="none",
            next_step="svetovid policy show --home HOME",
        )
    changed = []
    for policy in held:
        fields = policy.to_json() | {
            "rotations": [r.to_json() for r in rotations(who.home, policy.owner)],
            "sequence": policy.sequence + 1,
            "predecessor": policy.digest(),
        }
        changed.append(publish_policy(who, Policy.from_json(fields)))
    return changed


def newest_edition(home: Home, name: str, owner: KeyId | None = None) -> Policy | None:
    """The newest edition of policy ``name`` that this home signed; its signature holds.

    Args:
        home: whose.
        name: the policy's.
        owner: whose assets it speaks of; without it, the newest key that has such a policy.

    Raises:
        InputError, IntegrityError: ``file.*``, ``json.*``, ``document.invalid``, ``signature.*``.
    """
    found = [p for p in _editions(home, name) if owner in (None, p.owner)]
    return min(found, key=lambda p: len(rotations(home, p.owner)), default=None)


def _editions(home: Home, name: str) -> list[Policy]:
    """Of each key that this home had, the newest edition of its policy ``name``."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):  # it comes from YAML
        return []
    paths = sorted(home.policies.glob(f"{name}@*.json"))
    return [open_owned(read_envelope(path), Policy) for path in paths]


def _file(home: Home, name: str, owner: KeyId) -> Path:
    """No name has an ``@``: whose policy it is follows it."""
    return home.policies / f"{name}@{owner.removeprefix('ed25519:')}.json"


def _keep(home: Home, policy: Policy, signed: Envelope) -> None:
    path = _file(home, policy.name, policy.owner)
    write_private(path, canonical(signed.to_json()))
