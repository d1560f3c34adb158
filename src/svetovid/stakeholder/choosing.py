"""What the placeholders of a policy stand for: ``$anchors``, ``$references`` and ``$asset``.

They are an owner's own choice (T2): given with the command, or else as this policy's edition before
has them. A public folder never decides: whatever lies there, somebody else may have put there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from svetovid.crypto import Digest, Envelope
from svetovid.errors import InputError, ParseError
from svetovid.evidence.documents import ReferenceValues, TrustAnchors
from svetovid.policy import Policy
from svetovid.stakeholder.home import Home
from svetovid.stakeholder.names import Names, public_files, read_signed
from svetovid.stakeholder.sealing import sealed_assets

__all__ = ["PLACEHOLDERS", "Choice", "as_before", "choose", "explained"]

PLACEHOLDERS = ("anchors", "references", "asset")
_SHOWN_NAMES = 16
_CHOOSE = {
    "anchors": "look at them; give those you believe with --anchors",
    "references": "look at them; give those you believe with --references",
    "asset": "give the name of the one this policy is about with --asset",
}
_MAKE = {
    "anchors": "make them out of the maker's certificate with `svetovid anchors make`; for a "
    "simulator, `svetovid host init` leaves them in its --public folder",
    "references": "`svetovid host init` leaves them in its --public folder; "
    "`svetovid reference make` makes them of a runtime",
    "asset": "`svetovid share` seals an asset and puts its policy in force; "
    "`svetovid asset seal` only seals it",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """An owner's choice for one policy.

    Attributes:
        digests: what each placeholder stands for.
        documents: the anchors and reference values among it, to be published with the policy.
    """

    digests: dict[str, str] = field(default_factory=dict)
    documents: tuple[TrustAnchors | ReferenceValues | Envelope, ...] = ()


def choose(
    home: Home,
    names: Names,
    *,
    anchors: Sequence[Path] = (),
    references: Sequence[Path] = (),
    asset: str | None = None,
) -> Choice:
    """What a policy's placeholders stand for.

    Args:
        home: whose policy.
        names: the product of each document given here becomes a name, too.
        anchors, references: files that the owner chose. One file is ``$anchors``
            (``$references``); of several, each goes by the name of its product.
        asset: name of an asset sealed in this home: its newest version is ``$asset``.

    Raises:
        InputError: ``asset.unknown``, ``names.ambiguous``; ``file.*``, ``json.*``,
            ``document.invalid``, ``signature.*`` for a file.
    """
    digests: dict[str, str] = {}
    documents: list[TrustAnchors | ReferenceValues | Envelope] = []
    chosen = {
        "anchors": [_read(path, TrustAnchors, names, documents) for path in anchors],
        "references": [_read(path, ReferenceValues, names, documents) for path in references],
    }
    digests |= {name: found[0] for name, found in chosen.items() if len(found) == 1}
    if asset is not None:
        sealed = sealed_assets(home)
        if asset not in sealed:
            raise InputError(
                "asset.unknown",
                expected=f"an asset sealed in {home.path}: {', '.join(sealed) or 'there is none'}",
                observed=asset,
                next_step=f"svetovid asset seal SOURCE --home {home.path} --name {asset}",
            )
        digests["asset"] = sealed[asset].digest()
    return Choice(digests, tuple(documents))


def _read(
    path: Path,
    kind: type[TrustAnchors] | type[ReferenceValues],
    names: Names,
    documents: list[TrustAnchors | ReferenceValues | Envelope],
) -> Digest:
    document: TrustAnchors | ReferenceValues
    document, envelope = read_signed(path, kind)
    names.add(document.product, document.digest())
    documents.append(envelope or document)
    return document.digest()


def as_before(edition: Policy | None) -> dict[str, str]:
    """What the placeholders stand for in an edition that has exactly one of each."""
    if edition is None:
        return {}
    pins: dict[str, set[str | None]] = {
        "anchors": {edition.anchors.document},
        "references": {pin.document for pin in edition.references},
        "asset": {grant.asset for grant in (*edition.grants, *edition.exports)},
    }
    alone = {name: found.pop() for name, found in pins.items() if len(found) == 1}
    return {name: digest for name, digest in alone.items() if digest is not None}


@contextmanager
def explained(home: Home, names: Names) -> Iterator[None]:
    """Turns a ``$name`` that stands for nothing into what to get, and from where.

    Raises:
        InputError: ``policy.placeholder``.
        ParseError: ``policy.reference``.
    """
    try:
        yield
    except ParseError as e:
        if e.code != "policy.reference":
            raise
        wanted = e.reason.observed
        if wanted.removeprefix("$") in PLACEHOLDERS:
            raise _not_chosen(wanted.removeprefix("$"), home, names) from e
        known = ", ".join(f"${name}" for name in sorted(names.digests)[:_SHOWN_NAMES])
        raise ParseError(
            "policy.reference",
            expected=f"a card, manifest, anchors or reference values in {names.folder} "
            f"that bear the name {wanted}",
            observed=f"none; there are {known or 'no names at all'}",
            next_step="get the file from its owner, or give --public: a card comes of "
            "`svetovid identity create`, a manifest of `svetovid share`",
        ) from e


def _not_chosen(name: str, home: Home, names: Names) -> InputError:
    if name == "asset":
        there = list(sealed_assets(home))
        what = f"the NAME of an asset sealed in {home.path}"
    else:
        there = [str(path) for path, kind in public_files(names.folder) if kind == name]
        what = f"a FILE such as {names.folder}/NAME.{name}.json, which this owner believes"
    return InputError(
        "policy.placeholder",
        expected=f"what ${name} stands for: --{name} with {what}",
        observed=f"none chosen; there are {', '.join(there) or 'none'}",
        next_step=_CHOOSE[name] if there else _MAKE[name],
    )
