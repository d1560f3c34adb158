"""One document of reference values out of several sources, and the edition that follows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from svetovid.crypto.canonical import b64encode
from svetovid.errors import InputError
from svetovid.evidence.ima.signatures import load_signer
from svetovid.evidence.references import BootReferences, ReferenceValues, Source
from svetovid.stakeholder.home import read_bounded

__all__ = ["make_references", "path_rule", "read_signer", "supersede"]

_MAX_KEY = 64 << 10
_KINDS = ("exact", "subtree", "glob")


def path_rule(text: str) -> dict[str, str]:
    """``KIND:PATH=WHY`` as a path rule, to be validated with the document it stands in.

    Raises:
        InputError: ``reference.rule``.
    """
    kind, _, rest = text.partition(":")
    path, sign, why = rest.partition("=")
    if kind not in _KINDS or not sign or not why.strip():
        raise InputError(
            "reference.rule",
            expected="KIND:PATH=WHY, the kind one of exact, subtree, glob",
            observed=text[:200],
            next_step="for example 'subtree:/var/cache/fontconfig=caches, never code'",
        )
    return {"kind": kind, "path": path, "why": why.strip()}


def read_signer(path: Path) -> bytes:
    """DER SubjectPublicKeyInfo of a public key in PEM.

    Raises:
        InputError: ``file.*``, ``reference.signer``.
    """
    data = read_bounded(path, _MAX_KEY, what="a public key")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as e:
        raise InputError(
            "reference.signer",
            expected="a public key in PEM",
            observed=str(path),
            next_step="for example: openssl x509 -in cert.pem -pubkey -noout",
        ) from e
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def supersede(
    previous: ReferenceValues, listed: Mapping[str, tuple[str, ...]], until: int
) -> dict[str, dict[str, int]]:
    """What an edition after ``previous`` says of its digests that are no longer listed.

    Each is good until ``until`` (Unix seconds) and refused from then on. What ``previous`` itself
    superseded stays so, at its own time, unless it is listed again.

    Args:
        previous: the edition before.
        listed: path to digests of the new edition.
        until: Unix seconds.
    """
    found: dict[str, dict[str, int]] = {}
    for path, digests in previous.listed.items():
        for value in set(digests) - set(listed.get(path, ())):
            found.setdefault(path, {})[value] = until
    for path, times in previous.superseded.items():
        for value, time in times.items():
            if value not in listed.get(path, ()):
                found.setdefault(path, {})[value] = time
    return found


def make_references(
    product: str,
    version: int,
    sources: Sequence[Source],
    *,
    buffers: Mapping[str, tuple[str, ...]] | None = None,
    boot: BootReferences | None = None,
    rules: Sequence[str] = (),
    signers: Sequence[bytes] = (),
    previous: ReferenceValues | None = None,
    until: int | None = None,
    valid_from: int | None = None,
    valid_until: int | None = None,
    provenance: str = "",
    base: ReferenceValues | None = None,
) -> ReferenceValues:
    """A document, not yet signed; read it, then publish it (T2).

    Args:
        product, version, valid_from, valid_until, provenance: as :class:`ReferenceValues` says.
        sources: of :func:`from_directory`, :func:`from_debian`, :func:`from_container` and
            :func:`approved`.
        buffers, boot: approved ones.
        rules: path rules as ``KIND:PATH=WHY``.
        signers: DER SubjectPublicKeyInfo of keys that sign files.
        previous: the edition that this one follows, of the same product.
        until: Unix seconds; to then the digests of ``previous`` that are gone stay good, after it
            they are refused. Needed with ``previous``.
        base: a document whose files and enclave measurements are taken over.

    Raises:
        InputError: ``reference.rule``, ``reference.previous``, ``ima.signer``,
            ``document.invalid``.
    """
    for key in signers:
        load_signer(key)
    taken: dict[str, Any] = base.to_json() if base else {}
    document = taken | {
        "product": product,
        "version": version,
        "sources": [source.to_json() for source in sources],
        "unchecked": [path_rule(rule) for rule in rules],
        "buffers": {name: list(values) for name, values in (buffers or {}).items()},
        "file_signers": [b64encode(key) for key in signers],
        "provenance": provenance or taken.get("provenance", ""),
    }
    if boot is not None:
        document["boot"] = boot.to_json()
    window = {"valid_from": valid_from, "valid_until": valid_until}
    document |= {name: time for name, time in window.items() if time is not None}
    made = ReferenceValues.from_json(document)
    if previous is None and until is None:
        return made
    if previous is None or until is None or previous.product != product:
        raise _follows(product, previous)
    if previous.version >= version:
        raise _follows(f"{product} before version {version}", previous)
    old = supersede(previous, made.listed, until)
    return ReferenceValues.from_json({**document, "superseded": old})


def _follows(expected: str, previous: ReferenceValues | None) -> InputError:
    return InputError(
        "reference.previous",
        expected=f"the edition of {expected} before this one, and until when its digests count",
        observed=f"{previous.product} v{previous.version}" if previous else "no edition",
        next_step="give both, and a higher version than the last",
    )
