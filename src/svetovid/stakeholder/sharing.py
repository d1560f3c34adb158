"""Sharing: seal, deposit and publish in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from svetovid.assets import Manifest
from svetovid.crypto import Digest, Envelope
from svetovid.evidence.documents import NO_SUBJECT, ReferenceValues, TrustAnchors
from svetovid.policy import require_sound
from svetovid.stakeholder.identity import Stakeholder
from svetovid.stakeholder.names import Names, read_names, read_signed, write_public
from svetovid.stakeholder.operator import publish
from svetovid.stakeholder.policies import publish_policy, read_policy
from svetovid.stakeholder.sealing import deposit_key, seal_asset

__all__ = ["Shared", "share"]


@dataclass(frozen=True, slots=True)
class Shared:
    """What sharing made: the asset's public manifest and the digest of the policy in force."""

    manifest: Manifest
    policy: Digest


def share(
    who: Stakeholder,
    source: Path,
    policy_file: Path,
    *,
    public: Path,
    name: str | None = None,
    url: str | None = None,
    anchors: Sequence[Path] = (),
    references: Sequence[Path] = (),
) -> Shared:
    """Seal ``source``, put a policy over it in force, and give its key to the manager.

    The policy is read before anything is sealed, so that a mistake in it costs nothing. In it,
    ``$asset`` is the asset just sealed, ``$anchors`` and ``$references`` the documents given here.
    The key is deposited last, when the policy that guards it stands.

    Args:
        who: the owner.
        source, name, url: as :func:`svetovid.stakeholder.seal_asset`.
        policy_file: YAML.
        public: folder of the parties' public files; the manifest is put there, and the sealed
            container where no ``url`` is given.
        anchors, references: documents this owner chooses to believe (T2). Those nobody signed, the
            owner signs; those somebody else signed are passed on as they are.

    Raises:
        SvetovidError: as :func:`seal_asset`, :func:`read_policy`, :func:`publish_policy`.
    """
    public.mkdir(parents=True, exist_ok=True)
    names = read_names(public)
    documents: list[TrustAnchors | ReferenceValues | Envelope] = []
    extra = {"asset": NO_SUBJECT}
    for path in anchors:
        extra["anchors"] = _choose(path, TrustAnchors, names, documents)
    for path in references:
        extra["references"] = _choose(path, ReferenceValues, names, documents)
    require_sound(read_policy(who.home, policy_file, names, owner=who.key_id, extra=extra))
    manifest = seal_asset(who, source, name=name, url=url, folder=public)
    extra["asset"] = manifest.digest()
    names.digests.pop(manifest.name, None)  # an older version's manifest may lie in the folder
    names.add(manifest.name, manifest.digest())
    policy = read_policy(who.home, policy_file, names, owner=who.key_id, extra=extra)
    for document in documents:
        publish(who, document)
    in_force = publish_policy(who, policy)
    deposit_key(who, manifest)
    write_public(public / f"{manifest.name}.manifest.json", manifest)
    return Shared(manifest, in_force)


def _choose(
    path: Path,
    kind: type[TrustAnchors] | type[ReferenceValues],
    names: Names,
    documents: list[TrustAnchors | ReferenceValues | Envelope],
) -> Digest:
    """Read a document to publish; its digest is what the policy pins."""
    document: TrustAnchors | ReferenceValues
    document, envelope = read_signed(path, kind)
    names.add(document.product, document.digest())
    documents.append(envelope or document)
    return document.digest()
