"""The committed genuine evidence (tests/vectors/evidence), read into plain values."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1] / "vectors" / "evidence"
BOOTS = ("ovmf-tpm-crb", "direct1")


@dataclass(frozen=True)
class Boot:
    quote: bytes
    signature: bytes
    ak: bytes
    ak_name: bytes
    ek: bytes
    ek_certificate: bytes
    ima: bytes
    nonce: bytes
    pcrs: dict[int, bytes]


def _pcrs(raw: bytes) -> dict[int, bytes]:
    """tpm2-tools: TPML_PCR_SELECTION as C lays it out, then TPML_DIGESTs of 8."""
    at = 4 + 16 * 8
    (lists,) = struct.unpack_from("<I", raw, at)
    at += 4
    out: list[bytes] = []
    for _ in range(lists):
        (count,) = struct.unpack_from("<I", raw, at)
        for i in range(count):
            start = at + 4 + i * 66
            (size,) = struct.unpack_from("<H", raw, start)
            out.append(raw[start + 2 : start + 2 + size])
        at += 4 + 8 * 66
    return dict(enumerate(out))


def boot(name: str) -> Boot:
    def read(file: str) -> bytes:
        return (ROOT / name / file).read_bytes()

    return Boot(
        quote=read("quote.msg"),
        signature=read("quote.sig"),
        ak=read("ak.pub")[2:],
        ak_name=read("ak.name"),
        ek=read("ek.pub")[2:],
        ek_certificate=read("ekcert.der"),
        ima=read("ima.bin"),
        nonce=bytes.fromhex(read("nonce.hex").decode()),
        pcrs=_pcrs(read("quote.pcrs")),
    )


def violated() -> dict[str, bytes]:
    raw = json.loads((ROOT / "live_after_violation.json").read_text())
    return {k: base64.b64decode(raw[k]) for k in ("quote", "sig", "ak", "ima", "bios")} | {
        "nonce": bytes.fromhex(raw["nonce"])
    }


def event_log_pcrs(log: bytes) -> dict[int, bytes]:
    """SHA-256 PCR 0-9 from a crypto-agile TCG event log with that one bank; for tests only."""
    import hashlib

    pcrs = {i: bytes(32) for i in range(10)}
    (size,) = struct.unpack_from("<I", log, 28)
    at = 32 + size
    while at + 8 < len(log):
        pcr, kind, count = struct.unpack_from("<III", log, at)
        assert count == 1
        at += 12
        assert struct.unpack_from("<H", log, at) == (0x000B,)
        digest = log[at + 2 : at + 34]
        at += 34
        (size,) = struct.unpack_from("<I", log, at)
        at += 4 + size
        if kind != 3 and pcr in pcrs:
            pcrs[pcr] = hashlib.sha256(pcrs[pcr] + digest).digest()
    return pcrs
