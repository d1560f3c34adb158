"""A host of the world: a soft TPM or a simulated TEE under the real home, link and attester."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from firmware import Firmware
from softtpm import SELECTION, SoftTpm
from svetovid.crypto import Identity, Secret, sign
from svetovid.evidence.documents import HostRecord, HostStatement
from svetovid.host.attester import Attester, TeeAttester, TpmAttester
from svetovid.host.home import HostHome, StatementRequest
from svetovid.host.tee import SimulatedTee
from svetovid.host.tpm.tpm import Quote


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class SoftDevice:
    """A soft TPM with the methods of :class:`svetovid.host.tpm.Tpm` that a host calls."""

    def __init__(self, tpm: SoftTpm) -> None:
        self.soft = tpm

    def __enter__(self) -> SoftDevice:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def ek(self) -> bytes:
        return self.soft.ek_public

    def ak(self) -> bytes:
        return self.soft.ak_public

    def ek_certificate(self) -> bytes | None:
        return self.soft.ek_certificate

    def activate_credential(self, blob: bytes, secret: bytes) -> Secret:
        return Secret(self.soft.activate(blob, secret))

    def quote(self, qualifying: bytes) -> Quote:
        attest, signature = self.soft.quote(qualifying, SELECTION)
        return Quote(attest, signature, {n: self.soft.pcrs[n] for n in SELECTION})

    def close(self) -> None:
        return


class Log:
    """The machine's measurement log. ``append`` is all an attacker needs."""

    def __init__(self, tpm: SoftTpm) -> None:
        self._tpm = tpm

    def append(self, path: str, content: bytes = b"evil") -> None:
        self._tpm.measure(path, sha(content))

    @property
    def count(self) -> int:
        return len(self._tpm.entries)

    def log_since(self, offset: int) -> bytes:
        return self._tpm.log(offset)

    def measure(self) -> None:
        return

    def catch_up(self) -> None:
        return

    def close(self) -> None:
        return


@dataclass(frozen=True, slots=True)
class SoftHome(HostHome):
    """A real home folder whose TPM is the soft one."""

    device: SoftDevice

    def open_tpm(self) -> Any:
        return self.device


class Machine:
    """One host, enrolled where :meth:`enrol` says.

    Args:
        files: path to content that its boot measures.
        tee: folder of a simulated TEE's authority; then it is a TEE host with ``measurement``.
        firmware: what measures the boot, and keeps a log of it.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        ca: Any,
        files: dict[str, bytes],
        *,
        tee: Path | None = None,
        measurement: str = "",
        firmware: Firmware | None = None,
    ) -> None:
        self.firmware = firmware
        self.name = name
        self.files = files
        self.folder = folder / name
        self.folder.mkdir()
        self.agent = Identity.generate(name)
        self.tpm = SoftTpm(ca)
        self.log = Log(self.tpm)
        self.home = SoftHome(self.folder, SoftDevice(self.tpm))
        self._measurement = measurement
        self.tee = None if tee is None else SimulatedTee.create(self.folder / "tee", tee)
        self.kind = "tpm" if tee is None else "simulated-tee"
        if tee is None:
            self.boot()

    def boot(self) -> None:
        """Measure what firmware and launcher measure, from a machine that was just reset."""
        for number, value in (self.firmware.pcrs() if self.firmware else {}).items():
            self.tpm.pcrs[number] = value
        self.kexec()
        for path, content in self.files.items():
            self.tpm.measure(path, sha(content))

    def kexec(self) -> None:
        """Start another kernel from the running one: the log goes on with a first line again."""
        aggregate = hashlib.sha256(b"".join(self.tpm.pcrs[:10])).hexdigest()
        self.tpm.measure("boot_aggregate", "sha256:" + aggregate)

    def reset(self) -> None:
        """Pull the plug, and boot again."""
        self.tpm.reset()
        self.boot()

    @property
    def device(self) -> str:
        if self.tee is None:
            return sha(self.tpm.ek_public)
        return self.tee.device

    def statement(self, operator: Identity, now: int, **changes: Any) -> HostStatement:
        request = StatementRequest.from_json(
            {
                "host": self.name,
                "kind": self.kind,
                "device": self.device,
                "agent": self.agent.key_id,
            }
        )
        (self.folder / "request.json").write_bytes(request.canonical())
        statement = request.statement(operator.key_id, "the operator", now)
        return statement.model_copy(update=changes)

    def enrol(self, client: Any, operator: Identity, now: int) -> HostRecord:
        """The real enrolment, by the home."""
        path = self.folder / "statement.json"
        if path.exists():  # one statement for all managers: one host id everywhere
            return self.home.enrol(client, self.home.statement())
        return self.home.enrol(client, sign(self.statement(operator, now), operator))

    @property
    def host_id(self) -> str:
        return self.home.host_id

    def attester(self) -> Attester:
        if self.tee is not None:
            return TeeAttester(self.tee, self._measurement, self.host_id)
        boot_log = self.firmware.log() if self.firmware else None
        return TpmAttester(cast(Any, self.home.device), cast(Any, self.log), self.host_id, boot_log)

    @contextlib.contextmanager
    def quietly(self) -> Iterator[None]:
        """Undo whatever the block measures: an attacker who resets the log, not the PCR."""
        kept = list(self.tpm.entries)
        yield
        self.tpm.entries[:] = kept
