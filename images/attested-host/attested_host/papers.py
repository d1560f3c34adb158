"""What a built image says of itself, told to whoever built it, and signed by whoever vouches."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from attested_host.corim import signed_corim
from attested_host.lock import BuildError
from attested_host.references import values_in
from svetovid.crypto import Secret, sign
from svetovid.crypto.envelope import Signer
from svetovid.evidence.documents import ReferenceValues
from svetovid.stakeholder import load

__all__ = ["identity_in", "sign_papers", "tell_values"]

_PASSPHRASE = "SVETOVID_PASSPHRASE_FILE"  # noqa: S105 - the name of a variable


def tell_values(folder: Path) -> Iterator[str]:
    """The predicted PCRs, and of how many files the reference values speak."""
    known = json.loads((folder / "manifest.json").read_bytes())
    for name, value in known["pcrs"].items():
        yield f"PCR {name}: {value}"
    yield f"reference values of {len(known['files'])} files: {', '.join(known['references'])}"


def identity_in(home: Path) -> Signer:
    """The identity in a party's home.

    Raises:
        BuildError: without a file that holds its passphrase.
        SvetovidError: as :func:`svetovid.stakeholder.load`.
    """
    file = os.environ.get(_PASSPHRASE)
    if not file:
        raise BuildError(f"signing needs a passphrase, in a file that {_PASSPHRASE} names")
    return load(home, Secret(Path(file).read_bytes().rstrip(b"\r\n"))).identity


def sign_papers(folder: Path, signer: Signer) -> None:
    """Sign the reference values that lie in ``folder``, in both of their forms."""
    for path in values_in(folder):
        values = ReferenceValues.parse(path.read_bytes())
        path.with_suffix(".signed.json").write_bytes(sign(values, signer).canonical())
    unsigned = (folder / "references.corim").read_bytes()
    (folder / "references.signed.corim").write_bytes(signed_corim(unsigned, signer))
