"""Evidence as somebody recorded it: one document, or a directory of the usual files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from svetovid.crypto.canonical import Document, b64decode, b64encode
from svetovid.errors import ParseError
from svetovid.evidence.boot import MAX_BOOT_LOG_BYTES
from svetovid.evidence.ima import MAX_LOG_BYTES
from svetovid.evidence.recorded.tpm2tools import parse_pcrs, strip_size

__all__ = ["FILES", "MAX_BUNDLE_BYTES", "RecordedEvidence", "from_files", "parse_nonce"]

MAX_BUNDLE_BYTES = 80 << 20
_SMALL = 1 << 16
FILES: Mapping[str, int] = {
    "quote.msg": _SMALL,
    "quote.sig": _SMALL,
    "quote.pcrs": _SMALL,
    "ak.pub": _SMALL,
    "ak.name": _SMALL,
    "ek.pub": _SMALL,
    "ekcert.der": _SMALL,
    "ima.bin": MAX_LOG_BYTES,
    "bios.bin": MAX_BOOT_LOG_BYTES,
    "nonce.hex": _SMALL,
    "cmdline.txt": _SMALL,
}
"""Files of a directory, and the most bytes that each may have."""
NEEDED = ("quote.msg", "quote.sig", "ak.pub")
"""Without these there is nothing to appraise."""


def _base64(size: int) -> StringConstraints:
    return StringConstraints(max_length=-(-size // 3) * 4)


Small = Annotated[str, _base64(_SMALL)]
Hex = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}){0,64}$")]
Bank = Literal["sha1", "sha256", "sha384", "sha512"]
PcrNumber = Annotated[str, StringConstraints(pattern=r"^(1?[0-9]|2[0-3])$")]


class RecordedEvidence(Document):
    """A quote with what explains it, as it was recorded. Nothing in it is believed.

    Attributes:
        quote, sig: TPMS_ATTEST and TPMT_SIGNATURE.
        ak: TPM2B_PUBLIC or TPMT_PUBLIC of the key that signed.
        ak_name: the name that the key is known by, where that was recorded apart from it.
        pcrs: bank to PCR to value. Without them, those that the logs give are tried.
        ek: public area of the endorsement key, in either form.
        ek_certificates: DER, the EK's own first, each issued by the next.
        bios: TCG event log (``binary_bios_measurements``).
        ima: measurement log (``binary_runtime_measurements``), from its first entry.
        nonce: what qualifyingData was to be, by the word of whoever recorded it.
        cmdline: the kernel's command line, by the same word.
        quote_ms: milliseconds that the TPM took; for people.
    """

    TYPE: ClassVar[str] = "recorded-evidence"
    quote: Small
    sig: Small
    ak: Small
    ak_name: Hex | None = None
    pcrs: dict[Bank, dict[PcrNumber, Hex]] | None = None
    ek: Small | None = None
    ek_certificates: Annotated[tuple[Small, ...], Field(max_length=8)] = ()
    bios: Annotated[str, _base64(MAX_BOOT_LOG_BYTES)] | None = None
    ima: Annotated[str, _base64(MAX_LOG_BYTES)] | None = None
    nonce: Hex | None = None
    cmdline: Annotated[str, StringConstraints(max_length=4096)] | None = None
    quote_ms: Annotated[float, Field(ge=0)] | None = None

    def bank_values(self) -> dict[str, dict[int, bytes]] | None:
        """The PCR values, read; None where none were recorded."""
        if self.pcrs is None:
            return None
        return {
            bank: {int(pcr): bytes.fromhex(value) for pcr, value in values.items()}
            for bank, values in self.pcrs.items()
        }

    def public_areas(self) -> tuple[bytes, bytes | None]:
        """TPMT_PUBLIC of AK and EK."""
        return strip_size(b64decode(self.ak)), strip_size(b64decode(self.ek)) if self.ek else None


def parse_nonce(text: str) -> bytes:
    """Qualifying data in hex.

    Raises:
        ParseError: ``recorded.nonce``.
    """
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b"\0" * 65
    if len(data) > 64:
        raise ParseError(
            "recorded.nonce",
            expected="at most 64 bytes in hex",
            observed=text[:80],
            next_step="give the nonce as the one who asked for the quote wrote it",
        )
    return data


def _text(files: Mapping[str, bytes], name: str) -> str | None:
    if name not in files:
        return None
    try:
        return files[name].decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as e:
        raise ParseError(
            "recorded.text",
            expected=f"UTF-8 text in {name}",
            observed=f"byte {e.start}",
            next_step="record the evidence again",
        ) from e


def _hex(values: Mapping[str, Mapping[int, bytes]]) -> dict[str, dict[str, str]]:
    return {
        bank: {str(pcr): value.hex() for pcr, value in pcrs.items()}
        for bank, pcrs in values.items()
    }


def from_files(files: Mapping[str, bytes]) -> RecordedEvidence:
    """The evidence of a directory, by file name; what is not in :data:`FILES` is passed over.

    Raises:
        ParseError: ``recorded.missing`` for a file that is needed, ``recorded.pcrs``,
            ``recorded.nonce``, ``recorded.text``, ``document.invalid``.
    """
    missing = [name for name in NEEDED if name not in files]
    if missing:
        raise ParseError(
            "recorded.missing",
            expected="at least " + ", ".join(NEEDED),
            observed="without " + ", ".join(missing),
            next_step="record the quote, its signature and the attestation key's public area",
        )
    nonce = _text(files, "nonce.hex")
    values = parse_pcrs(files["quote.pcrs"]) if "quote.pcrs" in files else None

    def encoded(name: str) -> str | None:
        return b64encode(files[name]) if name in files else None

    parts = {
        "quote": encoded("quote.msg"),
        "sig": encoded("quote.sig"),
        "ak": encoded("ak.pub"),
        "ak_name": files["ak.name"].hex() if "ak.name" in files else None,
        "pcrs": None if values is None else _hex(values),
        "ek": encoded("ek.pub"),
        "ek_certificates": [encoded("ekcert.der")] if "ekcert.der" in files else [],
        "ima": encoded("ima.bin"),
        "bios": encoded("bios.bin"),
        "nonce": None if nonce is None else parse_nonce(nonce).hex(),
        "cmdline": _text(files, "cmdline.txt"),
    }
    return RecordedEvidence.from_json({k: v for k, v in parts.items() if v is not None})
