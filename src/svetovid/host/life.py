"""A host's life after it was set up: enrol, run jobs, say how it stands.

::

    made = init_host(home, name="lab1", passphrase=secret, public=public)
    # its operator signs made.request
    enrol_host(home, [pin], statement, secret)
    outcome = run_host(home, job, [pin], secret, storage=find_storage(job, ["public"]), outputs=url)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from svetovid.assets.urls import parse_url
from svetovid.crypto import Envelope, Secret
from svetovid.crypto.private import unwritable
from svetovid.errors import InputError
from svetovid.evidence.documents import HostRecord
from svetovid.host.accelerators import Accelerators
from svetovid.host.agent import Event, JobOutcome, run_job
from svetovid.host.home import HostHome
from svetovid.policy.documents import Job
from svetovid.protocol.client import ManagerClient
from svetovid.protocol.messages import ManagerPin
from svetovid.protocol.seen import SeenFile

__all__ = ["HostStatus", "enrol_host", "host_status", "managers_of", "run_host"]


@contextlib.contextmanager
def managers_of(
    home: Path, pins: Sequence[ManagerPin], passphrase: Secret, what: str = ""
) -> Iterator[list[ManagerClient]]:
    """The pinned managers, spoken to as this host's agent; older logs are refused (T1, T15).

    Args:
        what: names the file of what was seen, where one process should not wait for another's
            requests.
    """
    agent = HostHome(home).agent(passphrase)
    with contextlib.ExitStack() as stack:
        clients = []
        for pin in pins:
            manager = pin.open().signing.removeprefix("ed25519:")
            seen = SeenFile(home / f"seen.{what}{manager[:16]}.json")
            clients.append(stack.enter_context(ManagerClient(pin, agent, seen=seen)))
        yield clients


def enrol_host(
    home: Path, pins: Sequence[ManagerPin], statement: Envelope, passphrase: Secret
) -> list[HostRecord]:
    """Enrol a host with each manager, under its operator's statement (T3).

    Args:
        home: from :func:`svetovid.host.init_host`.
        pins: the managers, given by hand and never fetched (T1).
        statement: the signed :class:`~svetovid.evidence.documents.HostStatement`.
        passphrase: opens the agent's identity.

    Returns:
        What each manager signed; ``record.host_id`` is the same in all of them.

    Raises:
        As :meth:`HostHome.enrol`; TransportError where a manager cannot be reached. What was
        enrolled before that stays enrolled; doing it again changes nothing.
    """
    with managers_of(home, pins, passphrase) as clients:
        return [HostHome(home).enrol(client, statement) for client in clients]


def run_host(
    home: Path,
    job: Job | str,
    pins: Sequence[ManagerPin],
    passphrase: Secret,
    *,
    storage: Mapping[str, str],
    outputs: str,
    on_event: Callable[[Event], None] = lambda _: None,
    accelerators: Accelerators | None = None,
    trusted_mib: float | None = None,
) -> JobOutcome:
    """Run one agreed job on an enrolled host, from challenge to receipt.

    Args:
        home: an enrolled host.
        job: the job, or its digest.
        pins: the pin of every manager that the job names.
        passphrase: opens the agent's identity.
        storage: slot name to the URL of its container (:func:`~svetovid.host.find_storage`).
        outputs: URL prefix for what comes out; a local folder is made where it is missing.
        on_event: hears of each stage; this is all that the operator sees (T9).
        accelerators: how this machine's accelerators are found, lent and cleared (T8).
        trusted_mib: see :func:`svetovid.host.run_job`.

    Raises:
        As :func:`svetovid.host.run_job`; HostError: ``file.write`` where outputs have no place.
    """
    address = parse_url(outputs + "x")
    if address.scheme == "file":
        _make_folder(Path(address.path).parent)
    with managers_of(home, pins, passphrase) as clients:
        return run_job(
            HostHome(home),
            job if isinstance(job, str) else job.digest(),
            clients,
            storage=storage,
            outputs=outputs,
            on_event=on_event,
            accelerators=accelerators,
            trusted_mib=trusted_mib,
        )


def _make_folder(path: Path) -> None:
    """Before anything dear is done: a job whose outputs have no place must not start."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise unwritable(e, f"a folder for outputs at {path}", "choose another --outputs") from e


@dataclass(frozen=True, slots=True)
class HostStatus:
    """What stands in a host's home. No passphrase is needed to read it.

    Attributes:
        name, kind, tpm, runtime: as it was set up.
        host: its id at its managers; None before it is enrolled.
        managers: key ids of those it is enrolled with.
        simulated: its TPM or TEE is software, and protects nothing.
    """

    name: str
    kind: str
    tpm: str
    runtime: str
    host: str | None
    managers: tuple[str, ...]
    simulated: bool


def host_status(home: Path) -> HostStatus:
    """How the host in ``home`` stands.

    Raises:
        InputError: ``host.home`` where there is none, or its files are not as they were written.
    """
    at = HostHome(home)
    config = at.config()
    try:
        host = at.host_id
    except InputError:
        if (home / "statement.json").exists():
            raise
        host = None
    return HostStatus(
        name=config.name,
        kind=config.kind,
        tpm=config.tpm,
        runtime=config.runtime,
        host=host,
        managers=tuple(sorted(f"ed25519:{p.stem}" for p in (home / "records").glob("*.json"))),
        simulated=config.kind != "tpm" or not config.tpm.startswith("device:"),
    )
