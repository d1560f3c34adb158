"""A host's home folder, and how a host enrols (T3). How a home is made: :mod:`.setup`.

::

    HOME/                  0700
      host.json            0600   name, kind of evidence, TPM, runtime
      agent.json           0600   the agent's identity, sealed under a passphrase
      request.json         0644   what the operator is asked to sign
      statement.json       0600   what the operator signed
      link.pem, link.crt   0600   key and certificate that workers know this host by
      records/             0700   one signed host record for each manager
      runtime/             0755   the tree that jobs run in, unless it was given
      tpm.state            0600   the embedded TPM's memory, where it is one
      tee/                 0700   the simulated TEE's keys, where it is one
      simulated-ca/        0700   the authority behind a simulator, unless it was given
      measurements.log     0600   what the launcher measured since the TPM was reset
      job.lock             0600   held while a job runs
      seen.*.json          0600   the newest checkpoint of each manager's log; older are refused
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

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
from svetovid.crypto.private import write_private
from svetovid.errors import HostError, InputError, IntegrityError, ParseError, SvetovidError
from svetovid.evidence.documents import NO_SUBJECT, HostRecord, HostStatement
from svetovid.evidence.enrolment import enrolment_binding
from svetovid.host.attester import Attester, TeeAttester, TpmAttester
from svetovid.host.measure import IMA_LOG, KernelLog, Launcher, boot_log
from svetovid.host.runtime import environment_digest
from svetovid.host.tee import SimulatedTee
from svetovid.host.tpm import Tpm, open_transport
from svetovid.protocol.client import ManagerClient

__all__ = ["LINK", "HostConfig", "HostHome", "StatementRequest", "open_tpm", "writing"]

LINK = "link.pem"

D = TypeVar("D", bound=Document)
_MAX_FILE = 1 << 20


class HostConfig(Document):
    """What a host is made of, as :func:`svetovid.host.init_host` wrote it."""

    TYPE: ClassVar[str] = "host-config"
    name: Name
    kind: Literal["tpm", "simulated-tee"]
    tpm: Text
    runtime: Text


class StatementRequest(Document):
    """What a new host asks its operator to sign: a :class:`HostStatement` without the operator.

    Attributes:
        host: the name it goes by.
        kind: which evidence it gives.
        device: as in :class:`HostStatement`.
        agent: key that the host's agent signs its requests with.
    """

    TYPE: ClassVar[str] = "host-statement-request"
    host: Name
    kind: Literal["tpm", "simulated-tee"]
    device: Digest
    agent: KeyId

    def statement(self, operator: str, machine_owner: str, now: int) -> HostStatement:
        """What the operator signs.

        Args:
            operator: the operator's key id.
            machine_owner: who owns the hardware.
            now: Unix seconds.
        """
        return HostStatement(
            host=self.host,
            operator=operator,
            machine_owner=machine_owner,
            kind=self.kind,
            device=self.device,
            agent=self.agent,
            issued_at=now,
        )


def _read(path: Path, kind: type[D], next_step: str) -> D:
    """A document of this home.

    Raises:
        InputError: ``host.home`` where it is not there, or not as it was written.
    """
    try:
        with path.open("rb") as f:
            data = f.read(_MAX_FILE + 1)
    except OSError as e:
        raise InputError(
            "host.home",
            expected=str(path),
            observed=e.strerror or "unreadable",
            next_step=next_step,
        ) from e
    try:
        return kind.parse(data, max_bytes=_MAX_FILE)
    except SvetovidError as e:
        raise ParseError(
            "host.home", expected=f"{path} as it was written", observed=e, next_step=next_step
        ) from e


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever goes wrong with files below ``path`` is a HostError: ``host.home``."""
    try:
        yield
    except OSError as e:
        raise HostError(
            "host.home",
            expected=f"to write {path}",
            observed=e.strerror or "an input or output error",
            next_step="check that the folder is yours and has room",
        ) from e


def open_tpm(spec: str) -> Tpm:
    """The TPM that ``spec`` names, started.

    Raises:
        InputError, HostError: ``tpm.*``, as :func:`svetovid.host.tpm.open_transport`.
    """
    tpm = Tpm(open_transport(spec))
    try:
        tpm.startup()
    except BaseException:
        tpm.close()
        raise
    return tpm


@dataclass(frozen=True, slots=True)
class HostHome:
    """Reads a host's home. Nothing is cached: the folder is the truth."""

    path: Path

    def config(self) -> HostConfig:
        """What the host is made of.

        Raises:
            InputError: where there is none yet; the next step says how to make one.
        """
        return _read(self.path / "host.json", HostConfig, "svetovid host init")

    def agent(self, passphrase: Secret) -> Identity:
        """The agent's identity.

        Raises:
            InputError: ``key.file`` where there is none.
            IntegrityError: ``key.passphrase``.
        """
        return keystore.load(self.path / "agent.json", passphrase)

    def statement(self) -> Envelope:
        """The operator's signed :class:`HostStatement` on this machine (T3).

        Raises:
            InputError: where the operator has not signed it yet.
        """
        return _read(self.path / "statement.json", Envelope, "svetovid host enrol")

    @property
    def host_id(self) -> str:
        """Digest of the operator's statement: the host's name everywhere."""
        return self.statement().payload_digest()

    def record(self, manager: str) -> HostRecord:
        """What ``manager`` signed when it enrolled this host; verified."""
        return self.signed_record(manager).open(HostRecord, by=manager)

    def signed_record(self, manager: str) -> Envelope:
        """The :class:`HostRecord` that ``manager``, a key id, signed when the host enrolled
        there.

        Raises:
            InputError: where it did not.
        """
        return _read(self._record_file(manager), Envelope, "svetovid host enrol")

    @property
    def runtime(self) -> Path:
        """The tree that jobs see as their root."""
        return Path(self.config().runtime)

    @property
    def kernel_log(self) -> bool:
        """Whether the kernel measures this host, with a log that any process may read."""
        config = self.config()
        real = config.kind == "tpm" and config.tpm.startswith("device:")
        return real and IMA_LOG.exists()

    def open_tpm(self) -> Tpm:
        """This host's TPM, started; the caller closes it."""
        return open_tpm(self.config().tpm)

    def attester(self) -> Attester:
        """The attester of this host's kind. The TPM stays open until it is closed."""
        config = self.config()
        if config.kind == "simulated-tee":
            tee = SimulatedTee(self.path / "tee")
            return TeeAttester(tee, environment_digest(self.runtime), self.host_id)
        tpm = self.open_tpm()
        try:
            if self.kernel_log:
                log = KernelLog(runtime=self.runtime)
                return TpmAttester(tpm, log, self.host_id, boot_log())
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
            IntegrityError: ``host.statement`` for a statement about another host;
                ``host.activation``, ``host.record`` for a manager's answer that makes no sense.
            InputError: ``host.enrolled`` where other managers know this host by another statement.
            RefusalError: whatever the manager refused with (``enrol.*``, ``ek.*``, ``ak.*``).
        """
        request = _read(self.path / "request.json", StatementRequest, "svetovid host init")
        said = statement.peek(HostStatement)
        statement.open(HostStatement, by=said.operator)
        asked = request.statement(said.operator, said.machine_owner, said.issued_at)
        if said != asked:
            raise IntegrityError(
                "host.statement",
                expected=f"a statement about host {request.host} and its device",
                observed=f"one about {said.host}",
                next_step="have the operator sign this host's request.json",
            )
        self._one_statement(client.manager, statement)
        signed = (
            self._enrol_tpm(client, statement)
            if said.kind == "tpm"
            else self._enrol_tee(client, statement)
        )
        record = signed.open(HostRecord, by=client.manager)
        if record.host_id != statement.payload_digest():
            raise _odd("host.record", "a record of the statement that was handed in")
        with writing(self.path):
            write_private(self.path / "statement.json", statement.canonical())
            (self.path / "records").mkdir(mode=0o700, exist_ok=True)
            write_private(self._record_file(client.manager), signed.canonical())
        return record

    def _record_file(self, manager: str) -> Path:
        return self.path / "records" / f"{manager.removeprefix('ed25519:')}.json"

    def _one_statement(self, manager: str, statement: Envelope) -> None:
        """A host has one id everywhere; a second statement would orphan it at other managers."""
        others = set((self.path / "records").glob("*.json")) - {self._record_file(manager)}
        if others and self.host_id != statement.payload_digest():
            raise InputError(
                "host.enrolled",
                expected="the statement that other managers already know this host by",
                observed="another",
                next_step=f"enrol with --statement {self.path / 'statement.json'}",
            )

    def _enrol_tee(self, client: ManagerClient, statement: Envelope) -> Envelope:
        tee = SimulatedTee(self.path / "tee")
        asked = client.enrol(statement, tee.certificates()).possession
        if asked is None:
            raise _odd("host.activation", "a nonce to report over")
        said = enrolment_binding(client.manager, statement.payload_digest(), asked.nonce)
        # Nothing runs in it yet: what does is said, and judged, with each job's evidence.
        report, signature = tee.report(said, measurement=NO_SUBJECT)
        return client.possess(asked.id, report, signature)

    def _enrol_tpm(self, client: ManagerClient, statement: Envelope) -> Envelope:
        with self.open_tpm() as tpm:
            certificate = tpm.ek_certificate()
            if certificate is None:
                raise HostError(
                    "host.ek_certificate",
                    expected="an EK certificate in the TPM",
                    observed="none",
                    next_step="set this host up anew; its TPM was exchanged or cleared",
                )
            answer = client.enrol(statement, [certificate], tpm.ek(), tpm.ak())
            if answer.challenge is None:
                raise _odd("host.activation", "a credential to activate")
            secret = tpm.activate_credential(
                b64decode(answer.challenge.credential), b64decode(answer.challenge.secret)
            )
            return client.activate(answer.challenge.id, secret.reveal())


def _odd(code: str, expected: str) -> IntegrityError:
    return IntegrityError(
        code,
        expected=expected,
        observed="another answer",
        next_step="report this manager to its stakeholders",
    )
