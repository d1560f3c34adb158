"""Who can obtain what: grants and exports of a set of policies, spelled out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from svetovid.policy.documents import Policy

__all__ = ["Access", "who_can"]


@dataclass(frozen=True, slots=True)
class Access:
    """One way to use an asset.

    Attributes:
        asset, use: what, and as what.
        owner: whose asset it is.
        consenter: who must consent: the owner, or the importer it exports to.
        code: code bundles that may read it (for code that grants itself: its own digest).
        recipients: who may receive what comes out.
        effective: the consenter may use it now; an export counts only once it is imported.
    """

    asset: str
    use: str
    owner: str
    consenter: str
    code: tuple[str, ...]
    recipients: tuple[str, ...]
    effective: bool


def who_can(policies: Iterable[Policy]) -> list[Access]:
    """Every way to use an asset under ``policies``, sorted.

    An import pins one policy by hash and names no further one, so a chain has one link (T5).
    """
    held = list(policies)
    imports = {(p.owner, i.policy, i.asset) for p in held for i in p.imports}
    out: list[Access] = []
    for p in held:
        digest = p.digest()
        for g in p.grants:
            if g.asset in {i.asset for i in p.imports}:
                continue  # narrows an import; not this owner's asset
            code = g.code or ((g.asset,) if g.use == "code" else ())
            out.append(Access(g.asset, g.use, p.owner, p.owner, code, g.recipients, True))
        for e in p.exports:
            live = (e.to, digest, e.asset) in imports
            code = e.code or ((e.asset,) if e.use == "code" else ())
            out.append(Access(e.asset, e.use, p.owner, e.to, code, e.recipients, live))
    return sorted(out, key=lambda a: (a.asset, a.consenter, a.use))
