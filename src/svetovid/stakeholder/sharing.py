"""Sharing: seal, deposit and publish in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from svetovid.assets import Manifest
from svetovid.crypto import Digest
from svetovid.evidence.documents import NO_SUBJECT
from svetovid.policy import require_sound
from svetovid.stakeholder.choosing import choose
from svetovid.stakeholder.editions import Change, changes
from svetovid.stakeholder.identity import Stakeholder
from svetovid.stakeholder.names import read_names, write_public
from svetovid.stakeholder.policies import publish_policy, read_policy
from svetovid.stakeholder.sealing import deposit_key, kind_of, seal_asset
from svetovid.stakeholder.uses import require_uses

__all__ = ["Shared", "share"]


@dataclass(frozen=True, slots=True)
class Shared:
    """What sharing made.

    Attributes:
        manifest: the asset's public manifest.
        policy: digest of the policy in force.
        changes: in what it differs from the edition before; the asset's new version among it.
    """

    manifest: Manifest
    policy: Digest
    changes: Sequence[Change]


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
    ``$asset`` is the asset just sealed; ``$anchors`` and ``$references`` are the documents given
    here, or those of the edition before. The key is deposited last, when the policy that
    guards it stands.

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
    choice = choose(who.home, names, anchors=anchors, references=references)
    chosen = choice.digests | {"asset": NO_SUBJECT}
    draft = read_policy(who.home, policy_file, names, owner=who.key_id, chosen=chosen)
    require_sound(draft)
    require_uses(draft, {NO_SUBJECT: kind_of(source)})
    manifest = seal_asset(who, source, name=name, url=url, folder=public)
    chosen["asset"] = manifest.digest()
    names.digests.pop(manifest.name, None)  # an older version's manifest may lie in the folder
    names.add(manifest.name, manifest.digest())
    policy = read_policy(who.home, policy_file, names, owner=who.key_id, chosen=chosen)
    changed = changes(who.home, policy)
    in_force = publish_policy(who, policy, choice.documents)
    deposit_key(who, manifest)
    write_public(public / f"{manifest.name}.manifest.json", manifest)
    return Shared(manifest, in_force, changed)
