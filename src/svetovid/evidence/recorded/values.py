"""PCR values of a recording: those recorded, or those that its logs give."""

from __future__ import annotations

import hashlib
import hmac

from svetovid.crypto.canonical import b64decode
from svetovid.errors import EvidenceError
from svetovid.evidence.boot import parse_boot_log
from svetovid.evidence.boot import replay as replay_boot
from svetovid.evidence.boot.replay import BOOT_PCRS
from svetovid.evidence.ima import parse_log
from svetovid.evidence.recorded.bundle import RecordedEvidence
from svetovid.evidence.recorded.tpm2tools import BANKS
from svetovid.evidence.tpm.constants import MEASUREMENT_PCR
from svetovid.evidence.tpm.names import hash_name
from svetovid.evidence.tpm.structures import Attest

__all__ = ["pcr_values", "quoted_bank"]

_QUOTABLE = ("sha256", "sha384", "sha512")


def quoted_bank(said: Attest) -> str:
    """The bank that a quote selects; SHA-256 where it selects none that counts."""
    found = BANKS.get(said.selections[0].bank, "") if said.selections else ""
    return found if found in _QUOTABLE else "sha256"


def pcr_values(evidence: RecordedEvidence, said: Attest, hash_alg: int) -> dict[int, bytes]:
    """PCR to value, of the quoted bank.

    Where none were recorded, the boot log gives PCR 0 to 9 and 11 to 14, and some prefix of the
    measurement log PCR 10: the one with which the values have the digest that was signed.

    Raises:
        EvidenceError: ``pcr.selection`` for values of a bank that is not quoted, ``pcr.underived``
            where the logs do not give them.
        InputError, EvidenceError: those of the logs.
    """
    bank = quoted_bank(said)
    values = evidence.bank_values()
    if values is None:
        return _derived(evidence, said, hash_alg, bank)
    if set(values) != {bank}:
        raise EvidenceError(
            "pcr.selection",
            expected=f"values of the {bank} bank alone, as quoted",
            observed=sorted(values),
            next_step="record exactly the values that were quoted",
        )
    return values[bank]


def _derived(
    evidence: RecordedEvidence, said: Attest, hash_alg: int, bank: str
) -> dict[int, bytes]:
    selected = [pcr for selection in said.selections for pcr in selection.pcrs]
    if evidence.bios is None or evidence.ima is None or not BOOT_PCRS | {10} >= set(selected):
        raise _underived("logs of every quoted PCR, or the values")
    size = hashlib.new(bank).digest_size
    log = parse_boot_log(b64decode(evidence.bios))
    values = dict.fromkeys(BOOT_PCRS, bytes(size))
    if bank in log.banks:
        values |= replay_boot(log, bank)
    values[MEASUREMENT_PCR] = bytes(size)
    signed = hash_name(hash_alg)
    for entry in (None, *parse_log(b64decode(evidence.ima), bank)):
        if entry is not None:
            extended = values[MEASUREMENT_PCR] + entry.extension
            values[MEASUREMENT_PCR] = hashlib.new(bank, extended).digest()
        found = hashlib.new(signed, b"".join(values[pcr] for pcr in selected)).digest()
        if hmac.compare_digest(found, said.pcr_digest):
            return {pcr: values[pcr] for pcr in selected}
    raise _underived(f"logs that give the quoted digest {said.pcr_digest.hex()}")


def _underived(expected: str) -> EvidenceError:
    return EvidenceError(
        "pcr.underived",
        expected=expected,
        observed="no PCR values recorded, and the logs do not give them",
        next_step="record the PCR values with the quote",
    )
