"""Names beside keys and digests, in what people read; never in what is signed.

A name is what the owner of a card or manifest wrote into it. It is shown with the beginning of its
key, so that two parties of one name cannot pass for each other, and where two keys claim one name
in the public folder, neither has it. What the own home says (its card, its pinned manager) goes
before what lies in the public folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from svetovid.assets import Manifest
from svetovid.errors import SvetovidError
from svetovid.evidence.documents import ReferenceValues, TrustAnchors
from svetovid.policy import Job
from svetovid.stakeholder.home import Home
from svetovid.stakeholder.identity import read_card
from svetovid.stakeholder.names import public_files, read_document, read_envelope
from svetovid.stakeholder.pins import read_pin

__all__ = ["Labels", "read_labels"]

_PRODUCTS: dict[str, type[TrustAnchors] | type[ReferenceValues]] = {
    "anchors": TrustAnchors,
    "references": ReferenceValues,
}
_NAMED = re.compile(r"\b(?:ed25519|sha256):[0-9a-f]{64}\b")
_SHOWN = 16
"""Digits of a key beside its name: 64 bits, too many to make another key that fits."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Key ids and digests, each to the one name that a reader knows it by."""

    names: Mapping[str, str] = field(default_factory=dict)

    def full(self, value: str) -> str:
        """``value`` whole, after its name where it has one: for what is about to be signed."""
        return f"{self.names[value]} ({value})" if value in self.names else value

    def brief(self, value: str) -> str:
        """Its name and how it begins; where it has no name, all of it."""
        return f"{self.names[value]} ({_begins(value)})" if value in self.names else value

    def short(self, value: str) -> str:
        """As :meth:`brief`, also without a name: for tables, whose JSON form has all of it."""
        return self.brief(value) if value in self.names else _begins(value)

    def readable(self, text: str) -> str:
        """``text`` with each key and digest in it that has a name as :meth:`brief` shows it."""
        return _NAMED.sub(lambda found: self.brief(found[0]), text)


def _begins(value: str) -> str:
    kind, _, digits = value.partition(":")
    return f"{kind}:{digits[:_SHOWN]}…" if len(digits) > _SHOWN else value


def read_labels(home: Path | None, public: Path | None) -> Labels:
    """What a home and a public folder call keys and digests.

    Nothing is raised: a file that cannot be read gives no name, and a missing folder gives none.
    """
    own = dict(_own(home)) if home is not None else {}
    claims: dict[str, set[str]] = {}
    for value, name in _public(public):
        if name not in own.values():
            claims.setdefault(name, set()).add(value)
    found = {next(iter(values)): name for name, values in claims.items() if len(values) == 1}
    return Labels(found | own)


def _own(path: Path) -> Iterator[tuple[str, str]]:
    home = Home(path)
    with suppress(SvetovidError):
        card = read_card(home.card)
        yield card.signing, card.name
    with suppress(SvetovidError):
        card = read_pin(home.manager).open()
        yield card.signing, card.name


def _public(public: Path | None) -> Iterator[tuple[str, str]]:
    with suppress(SvetovidError, OSError):
        for path, kind in public_files(public, sealed=True):
            with suppress(SvetovidError):
                if kind == "card":
                    card = read_card(path)
                    yield card.signing, card.name
                elif kind == "manifest":
                    manifest = read_document(path, Manifest)
                    yield manifest.digest(), f"{manifest.name} v{manifest.version}"
                elif kind in _PRODUCTS:
                    document = read_document(path, _PRODUCTS[kind])
                    yield document.digest(), f"{document.product} v{document.version}"
                elif kind == "job":
                    envelope = read_envelope(path)
                    job = envelope.open(Job, by=envelope.peek(Job).proposer)
                    yield job.digest(), f"job {job.name}"
