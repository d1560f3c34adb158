"""Whether a policy grants assets for what they are: a dataset as data, code as code."""

from __future__ import annotations

from collections.abc import Mapping

from svetovid.crypto import Digest
from svetovid.errors import PolicyError, Reason
from svetovid.policy import Finding, Policy
from svetovid.stakeholder.home import Home
from svetovid.stakeholder.sealing import sealed_assets

__all__ = ["USES", "kinds_at_home", "misused", "require_uses"]

USES = {"dataset": "data", "code": "code", "model": "model"}
"""The part that an asset of each kind can play in a job."""


def kinds_at_home(home: Home) -> dict[Digest, str]:
    """Manifest to kind, of the newest version of each asset sealed in a home."""
    return {manifest.digest(): manifest.kind for manifest in sealed_assets(home).values()}


def misused(policy: Policy, kinds: Mapping[Digest, str]) -> list[Finding]:
    """Grants that no job could ever use: ``lint.use`` for each, an error.

    Args:
        policy: its grants and exports.
        kinds: of the assets whose kind is known, by manifest.
    """
    found = []
    for part, grants in (("grants", policy.grants), ("exports", policy.exports)):
        for number, grant in enumerate(grants):
            fit = USES.get(kinds.get(grant.asset, ""), grant.use)
            if grant.use != fit:
                found.append(
                    Finding(
                        "error",
                        "lint.use",
                        f"{part}[{number}].use",
                        f"a {kinds[grant.asset]} cannot be used as {grant.use}: no job matches",
                        f"write use: {fit}, or name another asset",
                    )
                )
    return found


def require_uses(policy: Policy, kinds: Mapping[Digest, str]) -> None:
    """Refuse a policy that :func:`misused` finds fault with.

    Raises:
        PolicyError: ``lint.use``.
    """
    reasons = [
        Reason(f.code, "", f.message, f.next_step, f"policy {policy.name} {f.where}", policy.owner)
        for f in misused(policy, kinds)
    ]
    if reasons:
        raise PolicyError.from_reasons(reasons)
