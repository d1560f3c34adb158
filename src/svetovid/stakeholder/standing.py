"""Why somebody cannot consent to a job: what it has to do with the job, and what to do instead."""

from __future__ import annotations

from collections.abc import Sequence

from svetovid.errors import PolicyError
from svetovid.policy import Job, Policy
from svetovid.stakeholder.identity import Stakeholder
from svetovid.stakeholder.keys import sealed_version
from svetovid.stakeholder.sealing import newest_manifest

__all__ = ["no_one_policy"]


def no_one_policy(who: Stakeholder, job: Job, speaking: Sequence[Policy]) -> PolicyError:
    """What to tell somebody of whose policies not exactly one speaks of an asset in ``job``.

    Codes: ``consent.policy`` where several do, or none does about an own asset; ``consent.version``
    where the job names another version of an own asset than the newest; ``consent.owner`` where
    nothing in the job is one's own.
    """
    if speaking:
        return PolicyError(
            "consent.policy",
            clause=f"job {job.name}",
            owner=who.key_id,
            expected="exactly one own policy that speaks of the assets in this job",
            observed=", ".join(policy.name for policy in speaking),
            next_step="publish the others again without a grant for them: svetovid policy publish",
        )
    for slot, asset in sorted(job.assets.items()):
        if not who.has_been(asset.owner):
            continue
        clause = f"job {job.name} assets {slot}"
        sealed = sealed_version(who, asset.manifest)
        newest = newest_manifest(who, sealed.name) if sealed else None
        if sealed and newest and newest.digest() != asset.manifest:
            return PolicyError(
                "consent.version",
                clause=clause,
                owner=who.key_id,
                expected=f"version {newest.version}, the newest that {who.name} owns: "
                f"{newest.digest()}",
                observed=f"version {sealed.version}: {asset.manifest}",
                next_step="have the job proposed again with the newest manifest in the public "
                "folder: svetovid job propose",
            )
        name = sealed.name if sealed else asset.manifest
        return PolicyError(
            "consent.policy",
            clause=clause,
            owner=who.key_id,
            expected=f"a policy in {who.home.policies} with a grant for {name}",
            observed="none",
            next_step="put one in force: svetovid policy publish --asset NAME, in the home that "
            "sealed it",
        )
    return PolicyError(
        "consent.owner",
        clause=f"job {job.name}",
        expected=f"an owner of an asset in this job: {', '.join(sorted(job.owners))}",
        observed=f"{who.key_id}, who owns none of them and imports none",
        next_step="nobody else's consent is needed: use the --home of one of these owners",
    )
