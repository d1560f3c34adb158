"""P: the PCRs that a quote is of; and the banks and schemes that are good."""

from __future__ import annotations

import struct
from typing import Any

import firmware as uefi
from conformance.making.real import key_template
from conformance.making.references import banked, edition
from conformance.making.story import QUOTED, Story, pcr_file
from conformance.making.suite import CUT, GOOD, LIE, SIGNED, UNPROVEN, Case, Files, refused
from conformance.making.worlds import kept, lied, signed, tpm
from tpmbytes import ECDSA, RSAPSS, RSASSA, SHA1, SHA256, SHA384, SHA512, bitmap


def _values(change: Any) -> Any:
    """The PCR file of the good boot, changed."""
    return lambda world: {**world, "quote.pcrs": pcr_file(change(Story().pcrs()))}


def _few(pcrs: Any, bank: int = SHA256) -> dict[str, Any]:
    values = {i: v for i, v in Story().pcrs().items() if i in set(pcrs)}
    return {"selections": (bitmap(pcrs, bank),), "pcrs": values}


def _reset(world: Files) -> Files:
    """Power lost, nothing measured since; the logs are those from before."""
    empty = Story(fw=uefi.Firmware(), lines=[], first=b"")
    return {**kept(world, tpm().recorded(empty)), **Story().files()}


PCRS = (
    Case(
        "p1-nothing-selected",
        "The quote selects no PCR.",
        signed(selections=(bitmap(()),)),
        ("P1",),
        **SIGNED,
        **refused("pcr.missing"),
    ),
    Case(
        "p1-without-pcr-10",
        "The quote leaves out the PCR of the measurement log.",
        signed(**_few(range(10))),
        ("P1",),
        **SIGNED,
        **refused("pcr.missing"),
    ),
    Case(
        "p1-without-pcr-4",
        "The quote leaves out the PCR of the boot loader.",
        signed(**_few(set(QUOTED) - {4})),
        ("P1",),
        **SIGNED,
        **refused("pcr.missing"),
    ),
    Case(
        "p2-sha1-bank",
        "The quote is of the SHA-1 bank.",
        signed(selections=(bitmap(QUOTED, SHA1),)),
        ("P2",),
        **SIGNED,
        **refused("pcr.bank"),
    ),
    Case(
        "p3-two-banks",
        "The quote is of two banks, of which nothing extended one.",
        signed(selections=(bitmap(QUOTED), bitmap(QUOTED, SHA384))),
        ("P3", "P4"),
        **SIGNED,
        **refused("pcr.bank"),
    ),
    Case(
        "p3-values-of-two-banks",
        "The PCR file has values of a second bank, which was not quoted.",
        lambda world: {
            **world,
            "quote.pcrs": pcr_file({"sha256": Story().pcrs(), "sha384": {0: bytes(48)}}),
        },
        ("P3",),
        **refused("pcr.selection"),
    ),
    Case(
        "p4-unused-bank",
        "A bank that the firmware never extended: its log has no event at all.",
        signed(Story(fw=uefi.Firmware())),
        ("P4",),
        **SIGNED,
        reasons=("boot.separator",),
    ),
    Case(
        "p5-selected-twice",
        "The quote selects the same PCRs twice.",
        lied(selections=(bitmap(QUOTED), bitmap(QUOTED))),
        ("P5",),
        **LIE,
        **refused("pcr.selection"),
    ),
    Case(
        "p5-listed-twice",
        "The PCR file selects the same PCRs twice.",
        lambda world: {**world, "quote.pcrs": _twice(world["quote.pcrs"])},
        ("P5",),
        reasons=("recorded.pcrs",),
        **CUT,
    ),
    Case(
        "p5-one-more-value",
        "The PCR file has a value that was not quoted.",
        _values(lambda pcrs: {"sha256": {**pcrs, 15: bytes(32)}}),
        ("P5",),
        **refused("pcr.selection"),
    ),
    Case(
        "p5-reordered",
        "Two values in the PCR file changed places.",
        _values(lambda pcrs: {"sha256": {**pcrs, 0: pcrs[1], 1: pcrs[0]}}),
        ("P5", "P6"),
        **refused("pcr.digest"),
    ),
    Case(
        "p6-another-value",
        "A value in the PCR file is not the one that was signed.",
        _values(lambda pcrs: {"sha256": {**pcrs, 10: bytes(32)}}),
        ("P6",),
        **refused("pcr.digest"),
    ),
    Case(
        "p7-a-resettable-pcr-listed",
        "The reader lists a value for PCR 16, which any program may reset.",
        lambda world: {
            **world,
            "references.json": edition(boot={"pcrs": {"16": ["sha256:" + "00" * 32]}}),
        },
        ("P7",),
        reasons=("document.invalid",),
        **CUT,
    ),
    Case(
        "p7-a-resettable-pcr-quoted",
        "The quote covers PCR 16 too: it counts for nothing, and does no harm.",
        signed(selections=(bitmap((*QUOTED, 16)),), pcrs={**Story().pcrs(), 16: bytes(32)}),
        ("P7",),
        **SIGNED,
        **GOOD,
    ),
    Case(
        "p9-reset-and-nothing-measured",
        "The TPM was reset and nothing measured since; the logs are from before.",
        _reset,
        ("P9",),
        **SIGNED,
        reasons=("boot.replay", "ima.boot_aggregate", UNPROVEN),
    ),
)


def _twice(data: bytes) -> bytes:
    selection = data[4:12]
    return struct.pack("<I", 2) + selection * 2 + data[20:]


def _bank(bank: str) -> Case:
    fw = uefi.linux(banks=(bank,))
    return Case(
        f"good-bank-{bank}",
        f"All that the good world has, in the {bank.upper()} bank.",
        lambda world: {
            **kept(world, tpm().recorded(Story(fw=fw, bank=bank))),
            "references.json": banked(bank, fw),
        },
        recorded=True,
        **GOOD,
    )


def _scheme(name: str, template: bytes, what: str) -> Case:
    return Case(
        f"good-{name}", f"Signed with {what}.", signed(template=template), recorded=True, **GOOD
    )


GOOD_QUOTES = (
    _bank("sha384"),
    _bank("sha512"),
    _scheme("rsassa", key_template(RSASSA, SHA256), "RSASSA and SHA-256"),
    _scheme("rsassa-sha512", key_template(RSASSA, SHA512), "RSASSA and SHA-512"),
    _scheme("rsapss", key_template(RSAPSS, SHA256), "RSAPSS and SHA-256"),
    _scheme("p384", key_template(ECDSA, SHA384, curve=4), "ECDSA on P-384 and SHA-384"),
)
CASES = (*GOOD_QUOTES, *PCRS)
