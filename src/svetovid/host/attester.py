"""The two ways a host proves itself, behind one seam: a TPM with a measurement log, or a TEE.

The agent asks for evidence and never looks inside it; which kind it gets follows from how the host
was set up, and what the kind is worth is for each owner's policy to say.
"""

from __future__ import annotations

import threading
from typing import Protocol

from svetovid.crypto import Envelope, b64encode
from svetovid.evidence.documents import (
    Challenge,
    JobKeys,
    TeeEvidence,
    TpmEvidence,
    binding,
    evidence_log,
)
from svetovid.host.measure import KernelLog, Launcher
from svetovid.host.tee import SimulatedTee
from svetovid.host.tpm import Tpm

__all__ = ["Attester", "TeeAttester", "TpmAttester"]


class Attester(Protocol):
    """Gives evidence that binds a challenge, this job's keys and a channel (T6).

    Attributes:
        known: managers that were shown the whole log of this very attester.
    """

    known: set[str]

    def measure(self) -> None:
        """Measure whatever changed since the last time, before it can be loaded."""

    def evidence(
        self, challenge: Envelope, keys: JobKeys, channel: str, subject: str
    ) -> TpmEvidence | TeeEvidence:
        """Fresh evidence for one challenge. Safe to call from several threads."""

    def look_back(self) -> None:
        """Refuse what foreign code has caused to be measured, before anything it made leaves."""

    def log(self) -> bytes:
        """The whole measurement log so far; nothing where this kind keeps none."""

    def close(self) -> None: ...


class TpmAttester:
    """TPM 2.0 quotes with a measurement log: the kernel's where it keeps one.

    Args:
        tpm: started; closed with this attester.
        log: the kernel's log, or the launcher's.
        host_id: this host's id at its managers.
        boot_log: the firmware's event log, where there is one.
    """

    def __init__(
        self, tpm: Tpm, log: Launcher | KernelLog, host_id: str, boot_log: bytes | None = None
    ) -> None:
        self.known: set[str] = set()
        self._tpm = tpm
        self._log = log
        self._host_id = host_id
        self._boot_log = None if boot_log is None else b64encode(boot_log)
        self._lock = threading.Lock()

    def measure(self) -> None:
        with self._lock:
            self._log.measure()

    def evidence(
        self, challenge: Envelope, keys: JobKeys, channel: str, subject: str
    ) -> TpmEvidence:
        asked = challenge.peek(Challenge)
        with self._lock:
            # Quote first, log after: a line that comes in between is then more than the quote
            # covers, which the verifier knows how to read; the reverse would look like a cut log.
            quote = self._tpm.quote(binding(asked, keys, channel, subject))
            self._log.catch_up()
            offset = min(asked.log_offset, self._log.count)
            log = self._log.log_since(offset)
        return TpmEvidence(
            challenge=challenge,
            host=self._host_id,
            keys=keys,
            channel=channel,
            subject=subject,
            quote=b64encode(quote.attest),
            signature=b64encode(quote.signature),
            pcrs={str(i): value.hex() for i, value in sorted(quote.pcrs.items())},
            log=evidence_log(log),
            log_offset=offset,
            boot_log=self._boot_log,
        )

    def look_back(self) -> None:
        with self._lock:
            self._log.catch_up()

    def log(self) -> bytes:
        with self._lock:
            self._log.catch_up()
            return self._log.log_since(0)

    def close(self) -> None:
        with self._lock:  # a renewal that nobody waits for any more may be at work
            self._log.close()
            self._tpm.close()


class TeeAttester:
    """Reports of a SIMULATED TEE, which protects nothing and says so in its certificates."""

    def __init__(self, tee: SimulatedTee, measurement: str, host_id: str) -> None:
        self.known: set[str] = set()
        self._tee = tee
        self._measurement = measurement
        self._host_id = host_id

    def measure(self) -> None:
        """An enclave's measurement is taken once, when it is built."""

    def evidence(
        self, challenge: Envelope, keys: JobKeys, channel: str, subject: str
    ) -> TeeEvidence:
        asked = challenge.peek(Challenge)
        report, signature = self._tee.report(
            binding(asked, keys, channel, subject), self._measurement
        )
        return TeeEvidence(
            challenge=challenge,
            host=self._host_id,
            keys=keys,
            channel=channel,
            subject=subject,
            report=b64encode(report),
            signature=b64encode(signature),
        )

    def look_back(self) -> None:
        """An enclave keeps no log that its code could write to."""

    def log(self) -> bytes:
        return b""

    def close(self) -> None: ...
