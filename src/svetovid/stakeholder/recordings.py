"""Recorded evidence and what it is held against, read from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from svetovid.crypto import Envelope
from svetovid.crypto.canonical import load_json
from svetovid.evidence.documents import ReferenceValues
from svetovid.evidence.recorded import (
    FILES,
    MAX_AUTHORITIES_BYTES,
    MAX_BUNDLE_BYTES,
    Authorities,
    RecordedEvidence,
    from_files,
    read_authorities,
)
from svetovid.stakeholder.home import read_bounded

__all__ = ["read_authorities_file", "read_believed", "read_recording"]

MAX_REFERENCE_BYTES = 256 << 20


def read_recording(path: Path) -> RecordedEvidence:
    """A bundle, or a directory of the usual files.

    Raises:
        InputError: ``file.*``, ``json.*``, ``document.invalid``, ``recorded.*``.
    """
    if not path.is_dir():
        data = read_bounded(path, MAX_BUNDLE_BYTES, what="recorded evidence")
        return RecordedEvidence.parse(data, max_bytes=MAX_BUNDLE_BYTES)
    return from_files(
        {
            name: read_bounded(path / name, limit, what=f"recorded evidence ({name})")
            for name, limit in FILES.items()
            if (path / name).exists()
        }
    )


def read_believed(paths: Sequence[Path]) -> list[ReferenceValues]:
    """Reference values that a reader chose to believe, signed or not, of up to a million files.

    Raises:
        InputError, IntegrityError: ``file.*``, ``json.*``, ``document.invalid``, ``signature.*``.
    """
    found = []
    for path in paths:
        data = read_bounded(path, MAX_REFERENCE_BYTES, what="reference values")
        value = load_json(data, max_bytes=MAX_REFERENCE_BYTES)
        if isinstance(value, dict) and "payloadType" in value:
            envelope = Envelope.from_json(value)
            found.append(envelope.open(ReferenceValues, by=envelope.signed_by()))
        else:
            found.append(ReferenceValues.from_json(value))
    return found


def read_authorities_file(path: Path) -> Authorities:
    """CA certificates and revocation lists.

    Raises:
        InputError: ``file.*``, ``ek.authorities``, ``ek.certificate``, ``ek.crl``.
    """
    return read_authorities(read_bounded(path, MAX_AUTHORITIES_BYTES, what="CA certificates"))
