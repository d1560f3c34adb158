"""A manager's own evidence out of a TPM (T1). As with the root key, this is where the manager's
room and the host's meet."""

from __future__ import annotations

import threading
from pathlib import Path

from svetovid.crypto import Envelope, Secret
from svetovid.errors import EvidenceError, HostError
from svetovid.evidence import NO_SUBJECT, JobKeys, TpmEvidence
from svetovid.host.attester import TpmAttester
from svetovid.host.measure import IMA_LOG, KernelLog, Launcher, boot_log, loaded_files
from svetovid.host.tpm import Tpm

__all__ = ["TpmProver", "open_prover"]


class TpmProver:
    """A :class:`svetovid.manager.proving.Prover` on a started TPM, which it does not close.

    Args:
        tpm: with an EK certificate.
        certificate: that one, DER.
        log: what this machine measures; entries are added before every quote.
        firmware_log: the TCG event log, where there is one.
    """

    def __init__(
        self,
        tpm: Tpm,
        certificate: bytes,
        log: Launcher | KernelLog,
        firmware_log: bytes | None = None,
    ) -> None:
        self.certificates = (certificate,)
        self.ek = tpm.ek()
        self.ak = tpm.ak()
        self._tpm = tpm
        self._log = log
        self._firmware_log = firmware_log
        self._lock = threading.Lock()
        log.measure()

    def activate(self, credential: bytes, secret: bytes) -> Secret:
        """Raises EvidenceError ``manager.credential`` where it is for another TPM or another AK."""
        try:
            return self._tpm.activate_credential(credential, secret)
        except HostError as e:
            if e.code != "tpm.rc":
                raise
            raise EvidenceError(
                "manager.credential",
                expected="a credential for this manager's EK and AK",
                observed=e.reason.observed,
                next_step="read the manager's record anew, and make a credential for it",
            ) from e

    def evidence(self, challenge: Envelope, keys: JobKeys, channel: str, host: str) -> TpmEvidence:
        with self._lock:
            self._log.measure()
            attester = TpmAttester(self._tpm, self._log, host, self._firmware_log)
            return attester.evidence(challenge, keys, channel, NO_SUBJECT)


def open_prover(tpm: Tpm, transport: str, home: Path) -> TpmProver | None:
    """What a manager on this TPM can prove; None where nobody certified the TPM.

    Args:
        tpm: started.
        transport: as :func:`svetovid.host.tpm.open_transport` takes it.
        home: the manager's; a launcher's log is kept there.

    Raises:
        HostError: ``launcher.*``, ``measure.kernel_log``, ``tpm.*``.
    """
    certificate = tpm.ek_certificate()
    if certificate is None:
        return None
    if transport.startswith("device:") and IMA_LOG.exists():
        return TpmProver(tpm, certificate, KernelLog(), boot_log())
    log = Launcher(tpm, None, home / "measurements.log", loaded=loaded_files)
    return TpmProver(tpm, certificate, log)
