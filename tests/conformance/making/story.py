"""What a machine measured: its boot and its files; and how that is recorded.

Packed by hand, apart from the code under test.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import firmware as uefi
from evidence.ima_bytes import raw_entry
from firmware import LINE, Firmware
from tpmbytes import SHA1, SHA256, SHA384, SHA512, b2, name

NONCE = hashlib.sha256(b"the reader's nonce").digest()
FILES = {f"/opt/runtime/lib{i}.so": b"library %d" % i for i in range(4)}
BANKS = {"sha1": SHA1, "sha256": SHA256, "sha384": SHA384, "sha512": SHA512}
QUOTED = tuple(range(15))


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def file_line(path: str, content: bytes, **changes: object) -> bytes:
    """An ``ima-ng`` entry for a file."""
    return raw_entry(path.encode(), sha256(content), **changes)


def violation(path: str) -> bytes:
    """What the kernel logs for a file that was written while it was measured."""
    return raw_entry(path.encode(), bytes(32), sha1=bytes(20))


def extension(line: bytes, bank: str) -> bytes:
    """What one line extends PCR 10 with: its template data's hash, ``ff`` for a violation."""
    if line[4:24] == bytes(20):
        return b"\xff" * hashlib.new(bank).digest_size
    (size,) = struct.unpack_from("<I", line, 24)
    return hashlib.new(bank, line[24 + 4 + size + 4 :]).digest()


@dataclass
class Story:
    """A boot and a measurement log.

    Attributes:
        first: the log's first line; by default this boot's ``boot_aggregate``.
        lines: those after it, extended into PCR 10.
        late: lines read after the quote.
    """

    fw: Firmware = field(default_factory=uefi.linux)
    lines: Sequence[bytes] = tuple(file_line(p, c) for p, c in FILES.items())
    late: Sequence[bytes] = ()
    first: bytes | None = None
    bank: str = "sha256"
    line: str = LINE

    def measured(self) -> list[bytes]:
        aggregate = self.aggregate() if self.first is None else self.first
        return [*([aggregate] if aggregate else []), *self.lines]

    def aggregate(self) -> bytes:
        values = self.fw.pcrs(self.bank)
        joined = hashlib.new(self.bank, b"".join(values[i] for i in range(10))).digest()
        return raw_entry(b"boot_aggregate", joined, algorithm=self.bank.encode() + b":\0")

    def log(self) -> bytes:
        return b"".join([*self.measured(), *self.late])

    def pcrs(self, bank: str | None = None) -> dict[int, bytes]:
        bank = bank or self.bank
        values = self.fw.pcrs(bank)
        values[10] = bytes(len(values[10]))
        for line in self.measured():
            values[10] = hashlib.new(bank, values[10] + extension(line, bank)).digest()
        return values

    def files(self) -> dict[str, bytes]:
        """The logs as they are recorded."""
        return {
            "ima.bin": self.log(),
            "bios.bin": self.fw.log(),
            "cmdline.txt": self.line.encode() + b"\n",
        }


def pcr_file(values: Mapping[str, Mapping[int, bytes]]) -> bytes:
    """What ``tpm2_quote --pcr`` writes: C structures, little endian (tpm2-tools, lib/pcr.c)."""
    out = struct.pack("<I", len(values))
    for bank, pcrs in values.items():
        bits = sum(1 << i for i in pcrs)
        out += struct.pack("<HB4sx", BANKS[bank], 3, bits.to_bytes(4, "little"))
    out += bytes((16 - len(values)) * 8)
    digests = [v for pcrs in values.values() for _, v in sorted(pcrs.items())]
    lists = [digests[i : i + 8] for i in range(0, len(digests), 8)]
    out += struct.pack("<I", len(lists))
    for each in lists:
        out += struct.pack("<I", len(each))
        out += b"".join(struct.pack("<H64s", len(v), v) for v in each)
        out += bytes((8 - len(each)) * 66)
    return out


def recording(
    quote: tuple[bytes, bytes],
    story: Story,
    *,
    ak: bytes,
    ek: bytes,
    certificate: bytes,
    pcrs: Mapping[int, bytes] | None = None,
    nonce: bytes = NONCE,
) -> dict[str, bytes]:
    """Every file of a recording."""
    return {
        "quote.msg": quote[0],
        "quote.sig": quote[1],
        "quote.pcrs": pcr_file({story.bank: story.pcrs() if pcrs is None else pcrs}),
        "ak.pub": b2(ak),
        "ak.name": name(ak),
        "ek.pub": b2(ek),
        "ekcert.der": certificate,
        "nonce.hex": nonce.hex().encode() + b"\n",
        **story.files(),
    }
