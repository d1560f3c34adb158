"""Files as tpm2-tools write them."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from svetovid.errors import ParseError
from svetovid.evidence.tpm.constants import PCR_COUNT, Alg

__all__ = ["BANKS", "parse_pcrs", "strip_size"]

BANKS: Mapping[int, str] = {
    Alg.SHA1: "sha1",
    Alg.SHA256: "sha256",
    Alg.SHA384: "sha384",
    Alg.SHA512: "sha512",
}
_SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
_COUNT = struct.Struct("<I")
_SELECTION = struct.Struct("<HB4sx")
_SELECTIONS = 16
_DIGEST = struct.Struct("<H64s")
_PER_LIST = 8
_MAX_LISTS = 16


def _refused(expected: str, observed: object) -> ParseError:
    return ParseError(
        "recorded.pcrs",
        expected=expected,
        observed=observed,
        next_step="record the PCR values as tpm2_quote --pcr writes them",
    )


def _selected(data: bytes) -> list[tuple[str, int]]:
    (count,) = _COUNT.unpack_from(data)
    if count > _SELECTIONS:
        raise _refused(f"at most {_SELECTIONS} selections", count)
    found: list[tuple[str, int]] = []
    for i in range(count):
        algorithm, size, bits = _SELECTION.unpack_from(data, _COUNT.size + i * _SELECTION.size)
        if algorithm not in BANKS or size > len(bits):
            raise _refused("a bank of SHA-1, SHA-256, SHA-384 or SHA-512", f"{algorithm:#06x}")
        mask = int.from_bytes(bits[:size], "little")
        if mask >> PCR_COUNT:
            raise _refused(f"PCRs below {PCR_COUNT}", f"{mask:#x}")
        found += [(BANKS[algorithm], pcr) for pcr in range(PCR_COUNT) if mask >> pcr & 1]
    if len(set(found)) != len(found):
        raise _refused("each PCR of a bank once", "one twice")
    return found


def parse_pcrs(data: bytes) -> dict[str, dict[int, bytes]]:
    """Bank to PCR to value, of the file that ``tpm2_quote --pcr`` writes.

    It is TPML_PCR_SELECTION and TPML_DIGEST structures as C lays them out in memory, little
    endian (tpm2-tools ``lib/pcr.c``): no digest covers it, the quote's own must.

    Raises:
        ParseError: ``recorded.pcrs``.
    """
    at = _COUNT.size + _SELECTIONS * _SELECTION.size
    if len(data) < at + _COUNT.size:
        raise _refused("selections and a number of lists", f"{len(data)} bytes")
    selected = _selected(data)
    (lists,) = _COUNT.unpack_from(data, at)
    at += _COUNT.size
    each = _COUNT.size + _PER_LIST * _DIGEST.size
    if lists > _MAX_LISTS or len(data) != at + lists * each:
        raise _refused(f"{lists} lists of {each} bytes, at most {_MAX_LISTS}", f"{len(data)} bytes")
    values: list[bytes] = []
    for start in range(at, len(data), each):
        (count,) = _COUNT.unpack_from(data, start)
        if count > _PER_LIST:
            raise _refused(f"at most {_PER_LIST} digests a list", count)
        for i in range(count):
            size, value = _DIGEST.unpack_from(data, start + _COUNT.size + i * _DIGEST.size)
            values.append(value[:size])
    if len(values) != len(selected):
        raise _refused(f"{len(selected)} values, as selected", len(values))
    found: dict[str, dict[int, bytes]] = {}
    for (bank, pcr), value in zip(selected, values, strict=True):
        if len(value) != _SIZES[bank]:
            raise _refused(f"{_SIZES[bank]} bytes for {bank}", len(value))
        found.setdefault(bank, {})[pcr] = value
    return found


def strip_size(data: bytes) -> bytes:
    """TPMT_PUBLIC out of TPM2B_PUBLIC; as it is where it has no size in front.

    A TPMT_PUBLIC begins with its type, 1 or 35, which no whole structure is long.
    """
    sized = len(data) > 2 and int.from_bytes(data[:2], "big") == len(data) - 2
    return data[2:] if sized else data
