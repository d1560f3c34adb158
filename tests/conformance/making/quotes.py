"""F and TS: the quote, its freshness, its structure."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from conformance.making.forged import Forged
from conformance.making.keys import derived
from conformance.making.real import key_template
from conformance.making.story import NONCE, Story, sha256
from conformance.making.suite import CUT, LIE, SIGNED, UNPROVEN, Case, Files, refused
from conformance.making.worlds import edited, kept, lied, signed, tpm
from tpmbytes import RSAPSS, RSASSA, SHA1, SHA256, SHA384, b2, qualified

OLD = sha256(b"an older nonce")


def _older(world: Files) -> Files:
    """Quoted twice in one boot: the older quote is sent."""
    with tpm().booted(Story()) as on:
        older, _ = on.recorded(nonce=OLD), on.quote(NONCE)
        return kept(world, older, **{"nonce.hex": world["nonce.hex"]})


FRESHNESS = (
    Case(
        "f1-replayed-quote",
        "A quote of the same boot for an older nonce is sent again.",
        _older,
        ("F1", "F4"),
        **SIGNED,
        **refused("challenge.mismatch"),
    ),
    Case(
        "f4-own-nonce",
        "The prover records a nonce of its own choice, and quotes that; the reader asked another.",
        signed(nonce=OLD),
        ("F4",),
        **SIGNED,
        **refused("challenge.mismatch"),
    ),
    Case(
        "f4-recorded-nonce",
        "The reader asks nothing; the nonce written beside the quote is not the one inside.",
        edited(nonce_hex=lambda _: OLD.hex().encode()),
        ("F4",),
        nonce=None,
        **refused("challenge.mismatch"),
    ),
    *(
        Case(
            f"f7-nonce-{name}",
            f"The nonce in the quote is the reader's, {name}.",
            signed(nonce=nonce),
            ("F7",),
            **SIGNED,
            **refused("challenge.mismatch"),
        )
        for name, nonce in (
            ("truncated", NONCE[:-1]),
            ("padded", NONCE + b"\0"),
            ("empty", b""),
        )
    ),
    Case(
        "f7-reader-asked-for-less",
        "The reader's nonce is the beginning of the quote's.",
        dict,
        ("F7",),
        nonce=NONCE[:-1].hex(),
        **refused("challenge.mismatch"),
    ),
    Case(
        "f7-nonce-of-65-bytes",
        "The recorded nonce is longer than qualifyingData can be.",
        edited(nonce_hex=lambda _: b"00" * 65),
        ("F7",),
        reasons=("recorded.nonce",),
        **CUT,
    ),
    Case(
        "f10-log-of-another-boot",
        "A quote of one boot with the measurement log of another.",
        lambda world: {
            **kept(world, tpm().recorded(Story(lines=Story().lines[::-1]))),
            "ima.bin": world["ima.bin"],
        },
        ("F10",),
        **SIGNED,
        reasons=("ima.replay", UNPROVEN),
    ),
)


def _resized(at: int, size: int) -> Any:
    return lambda data: data[:at] + struct.pack(">H", size) + data[at + 2 :]


def _counted(count: int) -> Any:
    """The number of PCR selections in a quote: behind its clock and firmware version."""

    def made(data: bytes) -> bytes:
        at = 6
        for _ in range(2):
            at += 2 + int.from_bytes(data[at : at + 2])
        return data[: at + 25] + struct.pack(">I", count) + data[at + 29 :]

    return made


def _cut(file: str, code: str, name: str, change: Any, what: str) -> Case:
    return Case(f"ts3-{name}", what, edited(**{file: change}), ("TS3",), reasons=(code,), **CUT)


def _numbers(r: int | None, s: int | None) -> Any:
    def made(data: bytes) -> bytes:
        old = (data[6:38], data[40:72])
        new = (o if n is None else n.to_bytes(32) for o, n in zip(old, (r, s), strict=True))
        return data[:4] + b"".join(b2(n) for n in new)

    return made


_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SHORT = lambda data: data[:-1]  # noqa: E731
_LONG = lambda data: data + b"\0"  # noqa: E731

STRUCTURE = (
    Case(
        "ts1-magic",
        "What was signed does not begin as all that a TPM says of itself.",
        lied(magic=0xFF544348),
        ("TS1",),
        **LIE,
        **refused("attest.magic"),
    ),
    Case(
        "ts2-time",
        "TPM2_GetTime by the same key with the right nonce: signed, and no quote.",
        lambda world: _timed(world),
        ("TS2", "TS8"),
        **SIGNED,
        **refused("attest.type"),
    ),
    Case(
        "ts2-certify",
        "A quote under the tag of a certified key.",
        lied(tag=0x8017),
        ("TS2", "TS8"),
        **LIE,
        **refused("attest.type"),
    ),
    _cut("quote_msg", "attest.malformed", "short-quote", _SHORT, "The quote's last byte is gone."),
    _cut("quote_msg", "attest.malformed", "long-quote", _LONG, "A byte behind the quote."),
    _cut("quote_msg", "attest.malformed", "no-quote", lambda _: b"", "The quote is empty."),
    _cut(
        *("quote_msg", "attest.malformed", "signer-size", _resized(6, 0xFFFF)),
        "The signer's size field is 65535.",
    ),
    *(
        _cut(
            *("quote_msg", "attest.malformed", f"selections-{n}", _counted(n)),
            f"The quote says that it has {n} PCR selections.",
        )
        for n in (17, 0xFFFFFFFF)
    ),
    _cut("quote_sig", "tpm.malformed", "short-signature", _SHORT, "A byte of it is gone."),
    _cut("quote_sig", "tpm.malformed", "long-signature", _LONG, "A byte behind the signature."),
    _cut("quote_sig", "tpm.malformed", "r-size", _resized(4, 0xFFFF), "r is of 65535 bytes."),
    _cut("ak_pub", "tpm.malformed", "short-key", _SHORT, "The key's last byte is gone."),
    _cut("ak_pub", "tpm.malformed", "long-key", _LONG, "A byte behind the key."),
    _cut("quote_pcrs", "recorded.pcrs", "short-pcrs", _SHORT, "The PCR file's last byte is gone."),
    Case(
        "ts4-sha1-signature",
        "A TPM's key that signs with RSASSA and SHA-1.",
        signed(template=key_template(RSASSA, SHA1)),
        ("TS4",),
        **SIGNED,
        reasons=("sig.alg", "ak.scheme", UNPROVEN),
    ),
    Case(
        "ts4-hmac",
        "The signature calls itself an HMAC.",
        edited(quote_sig=lambda d: struct.pack(">HH", 5, SHA256) + b2(bytes(32))),
        ("TS4",),
        **refused("sig.alg"),
    ),
    Case(
        "ts5-another-scheme",
        "An RSASSA signature under the name of RSAPSS.",
        lambda world: edited(quote_sig=lambda d: struct.pack(">H", RSAPSS) + d[2:])(
            signed(template=key_template(RSASSA, SHA256))(world)
        ),
        ("TS5",),
        **SIGNED,
        **refused("sig.scheme"),
    ),
    Case(
        "ts5-another-hash",
        "A signature with SHA-256 under the name of SHA-384.",
        edited(quote_sig=lambda d: d[:2] + struct.pack(">H", SHA384) + d[4:]),
        ("TS5",),
        **refused("sig.scheme"),
    ),
    *(
        Case(
            f"ts6-{name}",
            f"The ECDSA signature has {what}.",
            edited(quote_sig=_numbers(*numbers)),
            ("TS6",),
            **refused("sig.invalid"),
        )
        for name, what, numbers in (
            ("r-zero", "r = 0", (0, None)),
            ("s-zero", "s = 0", (None, 0)),
            ("r-order", "r = n", (_ORDER, None)),
            ("s-beyond-order", "s > n", (None, _ORDER + 1)),
        )
    ),
    Case(
        "ts6-another-curve",
        "The key is on P-384, the signature of a key on P-256.",
        lied(
            by=Forged(key=derived("wide ak", ec.SECP384R1()), curve=4, signer=derived("forged ak"))
        ),
        ("TS6",),
        **LIE,
        **refused("sig.invalid"),
    ),
    Case(
        "ts6-flipped-bit",
        "One bit of the signed quote is another: its clock.",
        edited(quote_msg=lambda d: d[:83] + bytes([d[83] ^ 1]) + d[84:]),
        ("TS6",),
        **refused("sig.invalid"),
    ),
    Case(
        "ts7-another-signer",
        "The quote names another key as its signer.",
        lied(signer=qualified(b"another key")),
        ("TS7",),
        **LIE,
        **refused("attest.signer"),
    ),
    Case(
        "ts9-digest-with-another-hash",
        "pcrDigest is the SHA-384 of the values.",
        lied(digest=hashlib.sha384(b"".join(Story().pcrs().values())).digest()),
        ("TS9",),
        **LIE,
        **refused("pcr.digest"),
    ),
)


def _timed(world: Files) -> Files:
    with tpm().booted(Story()) as on:
        quote, signature = on.time()
        return {**world, "quote.msg": quote, "quote.sig": signature}


CASES = (*FRESHNESS, *STRUCTURE)
