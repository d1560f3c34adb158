"""A host's home folder, and how a machine becomes an enrolled host (T3).

::

    HOME/                  0700
      host.json            0600   name, kind of evidence, TPM, runtime
      agent.json           0600   the agent's identity, sealed under a passphrase
      request.json         0644   what the operator is asked to sign
      statement.json       0600   what the operator signed
      records/             0700   one signed host record for each manager
      tpm.state            0600   the embedded TPM's memory, where it is one
      tee/                 0700   the simulated TEE's keys, where it is one
      measurements.log     0600   what the launcher measured since the TPM was reset
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from svetovid.crypto import (
    Digest,
    Document,
    Envelope,
    Identity,
    KeyId,
    Name,
    Secret,
    Text,
    b64decode,
    keystore,
)
from svetovid.crypto.keystore import write_private
from svetovid.errors import HostError, InputError, IntegrityError
from svetovid.evidence.documents import HostRecord, HostStatement
from svetovid.host.attester import Attester, TeeAttester, TpmAttester
from svetovid.host.measure import IMA_LOG, KernelLog, Launcher, boot_log
from svetovid.host.runtime import environment_digest
from svetovid.host.tee import SimulatedTee
from svetovid.host.tpm import Tpm, open_transport
from svetovid.host.tpm.simulated_ca import issue_ek_certificate
from svetovid.protocol.client import ManagerClient

__all__ = ["HostHome", "StatementRequest", "init_host"]

_MAX_FILE = 1 << 20


class _Config(Document):
    TYPE: ClassVar[str] = "host-config"
    name: Name
    kind: Literal["tpm", "simulated-tee"]
    tpm: Text
    runtime: Text


class StatementRequest(Document):
    """What a new host asks its operator to sign: a :class:`HostStatement` without the operator."""

    TYPE: ClassVar[str] = "host-statement-request"
    host: Name
    kind: Literal["tpm", "simulated-tee"]
    device: Digest
    agent: KeyId

    def statement(self, operator: str, machine_owner: str, now: int) -> HostStatement:
        return HostStatement(
            host=self.host,
            operator=operator,
            machine_owner=machine_owner,
            kind=self.kind,
            device=self.device,
            agent=self.agent,
            issued_at=now,
        )


def _read(path: Path, next_step: str) -> bytes:
    try:
        with path.open("rb") as f:
            return f.read(_MAX_FILE + 1)
    except OSError as e:
        raise InputError(
            "host.home",
            expected=str(path),
            observed=e.strerror or "unreadable",
            next_step=next_step,
        ) from e


def _spki_digest(certificate: bytes) -> str:
    key = x509.load_der_x509_certificate(certificate).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256:" + hashlib.sha256(spki).hexdigest()


def init_host(
    path: Path,
    *,
    name: str,
    runtime: Path,
    passphrase: Secret,
    kind: Literal["tpm", "simulated-tee"] = "tpm",
    tpm: str = "libtpms",
    simulated_ca: Path | None = None,
) -> StatementRequest:
    """Set up a host's home and write the request for its operator to sign.

    Args:
        path: the new home.
        name: the operator's name for this host.
        runtime: the tree that jobs run in (:func:`svetovid.host.runtime.build_runtime`).
        passphrase: seals the agent's identity.
        kind: which evidence the host will give.
        tpm: transport, as :func:`svetovid.host.tpm.open_transport` takes it; ``libtpms`` alone
            means an embedded software TPM inside this home, which protects nothing.
        simulated_ca: folder of the simulated authority that certifies a software TPM or TEE.

    Raises:
        InputError: ``key.exists`` where a host lives here already.
        HostError: ``host.ek_certificate`` for a TPM without one, ``tpm.*``.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    agent = Identity.generate(name)
    keystore.save(agent, path / "agent.json", passphrase)
    if tpm == "libtpms":
        tpm = f"libtpms:{path.resolve() / 'tpm.state'}"
    config = _Config(name=name, kind=kind, tpm=tpm, runtime=str(runtime.resolve()))
    write_private(path / "host.json", config.canonical())
    home = HostHome(path)
    if kind == "simulated-tee":
        if simulated_ca is None:
            raise InputError("host.simulated_ca", expected="the simulated TEE authority's folder")
        device = _spki_digest(SimulatedTee.create(path / "tee", simulated_ca).certificates()[0])
    else:
        with home.open_tpm() as device_tpm:
            ek = device_tpm.ek()
            if device_tpm.ek_certificate() is None:
                if simulated_ca is None:
                    raise HostError(
                        "host.ek_certificate",
                        expected="an EK certificate in the TPM",
                        observed="none",
                        next_step="use a TPM whose vendor certified it, or give --simulated-ca",
                    )
                device_tpm.store_ek_certificate(issue_ek_certificate(simulated_ca, ek))
        device = "sha256:" + hashlib.sha256(ek).hexdigest()
    request = StatementRequest(host=name, kind=kind, device=device, agent=agent.key_id)
    (path / "request.json").write_bytes(request.canonical())
    return request


@dataclass(frozen=True, slots=True)
class HostHome:
    """Reads a host's home. Nothing is cached: the folder is the truth."""

    path: Path

    def config(self) -> _Config:
        return _Config.parse(_read(self.path / "host.json", "svetovid host init"))

    def agent(self, passphrase: Secret) -> Identity:
        return keystore.load(self.path / "agent.json", passphrase)

    def statement(self) -> Envelope:
        return Envelope.parse(_read(self.path / "statement.json", "svetovid host enrol"))

    @property
    def host_id(self) -> str:
        return self.statement().payload_digest()

    def record(self, manager: str) -> HostRecord:
        """What ``manager`` signed when it enrolled this host; verified."""
        return self.signed_record(manager).open(HostRecord, by=manager)

    def signed_record(self, manager: str) -> Envelope:
        file = self.path / "records" / f"{manager.removeprefix('ed25519:')}.json"
        return Envelope.parse(_read(file, "svetovid host enrol"))

    @property
    def runtime(self) -> Path:
        return Path(self.config().runtime)

    def open_tpm(self) -> Tpm:
        tpm = Tpm(open_transport(self.config().tpm))
        try:
            tpm.startup()
        except BaseException:
            tpm.close()
            raise
        return tpm

    def attester(self) -> Attester:
        """The attester of this host's kind. The TPM stays open until it is closed."""
        config = self.config()
        if config.kind == "simulated-tee":
            tee = SimulatedTee(self.path / "tee")
            return TeeAttester(tee, environment_digest(self.runtime), self.host_id)
        tpm = self.open_tpm()
        try:
            if config.tpm.startswith("device:") and IMA_LOG.exists():
                return TpmAttester(tpm, KernelLog(), self.host_id, boot_log())
            launcher = Launcher(tpm, self.runtime, self.path / "measurements.log")
            return TpmAttester(tpm, launcher, self.host_id)
        except BaseException:
            tpm.close()
            raise

    def enrol(self, client: ManagerClient, statement: Envelope) -> HostRecord:
        """Enrol with one manager: the statement, the device's certificates, credential activation.

        Args:
            client: a client that signs as this host's agent.
            statement: the operator's signed :class:`HostStatement` for this host.

        Raises:
            IntegrityError: ``host.statement`` for a statement about another host.
            RefusalError: whatever the manager refused with (``enrol.*``, ``ek.*``, ``ak.*``).
        """
        request = StatementRequest.parse(_read(self.path / "request.json", "svetovid host init"))
        said = statement.peek(HostStatement)
        statement.open(HostStatement, by=said.operator)
        if (said.host, said.kind, said.device, said.agent) != (
            request.host,
            request.kind,
            request.device,
            request.agent,
        ):
            raise IntegrityError(
                "host.statement",
                expected=f"a statement about host {request.host} and its device",
                observed=f"one about {said.host}",
                next_step="have the operator sign this host's request.json",
            )
        record = self._enrol_tpm(client, statement) if said.kind == "tpm" else None
        if record is None:
            certificates: Sequence[bytes] = SimulatedTee(self.path / "tee").certificates()
            record = client.enrol(statement, certificates).record
        if record is None:
            raise IntegrityError("host.statement", expected="a signed host record")
        opened = record.open(HostRecord, by=client.manager)
        write_private(self.path / "statement.json", statement.canonical())
        (self.path / "records").mkdir(mode=0o700, exist_ok=True)
        name = f"{client.manager.removeprefix('ed25519:')}.json"
        write_private(self.path / "records" / name, record.canonical())
        return opened

    def _enrol_tpm(self, client: ManagerClient, statement: Envelope) -> Envelope:
        with self.open_tpm() as tpm:
            certificate = tpm.ek_certificate()
            if certificate is None:
                raise HostError("host.ek_certificate", expected="an EK certificate in the TPM")
            answer = client.enrol(statement, [certificate], tpm.ek(), tpm.ak())
            if answer.challenge is None:
                raise IntegrityError(
                    "host.activation", expected="a credential to activate", observed="none"
                )
            secret = tpm.activate_credential(
                b64decode(answer.challenge.credential), b64decode(answer.challenge.secret)
            )
            return client.activate(answer.challenge.id, secret.reveal())
