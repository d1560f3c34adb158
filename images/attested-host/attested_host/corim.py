"""The image's reference values as a CoRIM, for verifiers that are not ours.

Concise Reference Integrity Manifest, draft-ietf-rats-corim: a tag (CoMID) with two environments of
one class. In layer 0 the final PCRs that the image alone decides, once for a firmware without
secure boot and once for one with it; in layer 1 every file by its path as the kernel's log names
it, with its digests and the package that it is from. Signed, it is a COSE_Sign1 (RFC 9052) by an
Ed25519 key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attested_host.cbor import Item, Tagged, encode
from attested_host.references import SECURE_BOOT, File
from svetovid.crypto.envelope import Signer

__all__ = ["corim", "signed_corim"]

_CORIM, _COMID, _SIGN1 = 501, 506, 18
_ID, _TAGS = 0, 1
_TAG_IDENTITY, _TRIPLES = 1, 4
_TAG_ID, _TAG_VERSION = 0, 1
_REFERENCE_TRIPLES = 0
_CLASS, _VENDOR, _MODEL, _LAYER = 0, 1, 2, 3
_MKEY, _MVAL = 0, 1
_DIGESTS, _NAME, _REGISTERS = 2, 11, 14
_SHA256 = 1  # in IANA's registry of named information hashes
_ALG, _CONTENT_TYPE, _META = 1, 3, 8
_EDDSA = -8
_SIGNER, _SIGNER_NAME = 0, 0


def _digest(named: str) -> Item:
    return [_SHA256, bytes.fromhex(named.removeprefix("sha256:"))]


def _environment(product: str, layer: int) -> Item:
    return {_CLASS: {_VENDOR: "Svetovid", _MODEL: product, _LAYER: layer}}


def _registers(name: str, pcrs: Mapping[int, str]) -> Item:
    values = {number: [_digest(value)] for number, value in pcrs.items()}
    return {_MKEY: name, _MVAL: {_REGISTERS: values}}


def _boots(predicted: Mapping[str, str]) -> list[Item]:
    plain = {int(name): value for name, value in predicted.items() if name.isdigit()}
    return [
        _registers("PCRs", plain),
        _registers("PCRs under secure boot", {**plain, 4: predicted[SECURE_BOOT]}),
    ]


def _files(files: Sequence[File]) -> list[Item]:
    found: dict[str, list[File]] = {}
    for file in files:
        found.setdefault(file.path, []).append(file)
    return [
        {
            _MKEY: path,
            _MVAL: {
                _DIGESTS: [_digest(d) for d in sorted({f.digest for f in same})],
                _NAME: "; ".join(sorted({f.origin for f in same})),
            },
        }
        for path, same in sorted(found.items())
    ]


def corim(
    files: Sequence[File], predicted: Mapping[str, str], *, product: str, version: int
) -> bytes:
    """The tagged, unsigned CoRIM.

    Args:
        files: every file that a host with this image measures.
        predicted: final PCR values, as :func:`attested_host.references.predicted_pcrs` gives them.
    """
    triples = {
        _REFERENCE_TRIPLES: [
            [_environment(product, 0), _boots(predicted)],
            [_environment(product, 1), _files(files)],
        ]
    }
    tag = encode(
        {_TAG_IDENTITY: {_TAG_ID: product, _TAG_VERSION: version}, _TRIPLES: triples},
    )
    whole = {_ID: f"{product} {version}", _TAGS: [Tagged(_COMID, tag)]}
    return encode(Tagged(_CORIM, whole))


def signed_corim(unsigned: bytes, signer: Signer) -> bytes:
    """``unsigned`` inside a COSE_Sign1; the signer's name is the id of its key."""
    meta = encode({_SIGNER: {_SIGNER_NAME: signer.key_id}})
    protected = encode({_ALG: _EDDSA, _CONTENT_TYPE: "application/rim+cbor", _META: meta})
    signature = signer.sign_bytes(encode(["Signature1", protected, b"", unsigned]))
    return encode(Tagged(_SIGN1, [protected, {}, unsigned, signature]))
