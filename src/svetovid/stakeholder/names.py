"""What ``$name`` stands for in an owner's YAML: the small public files that the parties exchange.

A public folder holds ``NAME.card.json``, ``NAME.manifest.json``, ``NAME.anchors.json`` and
``NAME.references.json``. A name is a convenience of whoever writes the YAML: what is signed are the
digests and keys it stood for, and :func:`svetovid.stakeholder.describe` shows those.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from svetovid.assets import Manifest
from svetovid.crypto import Card, Document, Envelope, canonical, load_json
from svetovid.crypto.private import write_private
from svetovid.errors import InputError, LimitError, SvetovidError
from svetovid.evidence.documents import ReferenceValues, TrustAnchors
from svetovid.stakeholder.home import make_public, read_bounded

__all__ = [
    "Names",
    "naming",
    "public_files",
    "read_document",
    "read_envelope",
    "read_names",
    "read_signed",
    "write_public",
]

D = TypeVar("D", bound=Document)

MAX_PUBLIC_FILES = 1024
MAX_PUBLIC_BYTES = 4 << 20


@dataclass(slots=True)
class Names:
    """Names known to one reader.

    Attributes:
        folder: the public folder they were read from.
        digests: name to digest or key id; what YAML's ``$name`` becomes.
        cards: name to self-signed card, verified.
        manifests: digest to manifest.
        references: digest to reference values.
    """

    folder: Path | None = None
    digests: dict[str, str] = field(default_factory=dict)
    cards: dict[str, Envelope] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    references: dict[str, ReferenceValues] = field(default_factory=dict)

    def add(self, name: str, value: str) -> None:
        """Let ``name`` stand for ``value``.

        Raises:
            InputError: ``names.ambiguous`` where it stands for something else already.
        """
        if self.digests.setdefault(name, value) != value:
            raise InputError(
                "names.ambiguous",
                expected=f"one meaning of ${name}",
                observed=f"{self.digests[name]} and {value}",
                next_step="keep only one of the two files that say so in the public folder",
            )


def read_names(public: Path | None) -> Names:
    """All names in a public folder; a missing folder holds none.

    Raises:
        InputError, IntegrityError: for any file in it that is not what its ending says.
    """
    names = Names(public)
    for path, kind in public_files(public):
        with naming(path):
            _read(names, path, kind)
    return names


def _read(names: Names, path: Path, kind: str) -> None:
    if kind == "card":
        envelope = read_envelope(path)
        card = Card.open(envelope)
        names.add(card.name, card.signing)
        names.cards[card.name] = envelope
    elif kind == "manifest":
        manifest = read_document(path, Manifest)
        names.add(manifest.name, manifest.digest())
        names.manifests[manifest.digest()] = manifest
    elif kind == "anchors":
        anchors = read_document(path, TrustAnchors)
        names.add(anchors.product, anchors.digest())
    elif kind == "references":
        values = read_document(path, ReferenceValues)
        names.add(values.product, values.digest())
        names.references[values.digest()] = values


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Whatever is wrong in here is wrong with this file: say so."""
    try:
        yield
    except SvetovidError as e:
        reasons = [replace(r, clause=r.clause or str(path)) for r in e.reasons]
        raise type(e).from_reasons(reasons) from e


def public_files(public: Path | None, *, sealed: bool = False) -> Iterator[tuple[Path, str]]:
    """The parties' small files in a public folder, each with its kind; with ``sealed`` also the
    manifests that sealing left beside containers. Where there is no such folder there are none.

    Raises:
        InputError: ``file.unreadable``.
        LimitError: ``names.files``.
    """
    try:
        paths = [] if public is None else sorted(public.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as e:
        raise InputError(
            "file.unreadable",
            expected="a public folder",
            observed=f"{public}: {e.strerror}",
            next_step="check --public",
        ) from e
    found = 0
    for path in paths:
        parts = path.name.split(".")
        # sealing leaves a manifest beside each container, of old versions too
        if len(parts) < 3 or parts[-1] != "json" or ("sealed" in parts[:-2] and not sealed):
            continue
        found += 1
        if found > MAX_PUBLIC_FILES:
            raise LimitError(
                "names.files",
                expected=f"at most {MAX_PUBLIC_FILES} files",
                observed=str(public),
                next_step="give a folder with only this job's files",
            )
        yield path, parts[-2]


def read_envelope(path: Path) -> Envelope:
    """A signed document from a file, not yet verified.

    Raises:
        InputError: ``file.*``, ``json.*``, ``document.invalid``.
    """
    data = read_bounded(path, MAX_PUBLIC_BYTES, what="a signed document")
    with naming(path):
        return Envelope.parse(data)


def read_document(path: Path, kind: type[D]) -> D:
    """A document from a file: bare, or the payload of an envelope whose signatures all hold.

    Raises:
        InputError, IntegrityError: ``file.*``, ``json.*``, ``document.invalid``, ``signature.*``.
    """
    return read_signed(path, kind)[0]


def read_signed(path: Path, kind: type[D]) -> tuple[D, Envelope | None]:
    """As :func:`read_document`, with the envelope where there is one."""
    data = read_bounded(path, MAX_PUBLIC_BYTES, what=f"a document ({kind.TYPE})")
    with naming(path):
        value = load_json(data)
        if isinstance(value, dict) and "payloadType" in value:
            envelope = Envelope.from_json(value)
            return envelope.open(kind, by=envelope.signed_by()), envelope
        return kind.from_json(value), None


def write_public(path: Path, document: Document) -> None:
    """Write a document that everybody may read, whole or not at all.

    Raises:
        HostError: ``file.write``.
    """
    make_public(path.parent)
    write_private(path, canonical(document.to_json()))
    path.chmod(0o644)
