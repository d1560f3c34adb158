"""What the host commands do: join the operator's identity, the host's home and its managers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from svetovid import stakeholder
from svetovid.assets import Manifest
from svetovid.assets.urls import parse_url
from svetovid.cli.options import storage_url
from svetovid.cli.output import note
from svetovid.crypto import Envelope, Secret
from svetovid.errors import HostError, InputError, SvetovidError, TransportError
from svetovid.host.agent import Event, JobOutcome, run_job
from svetovid.host.home import HostHome, StatementRequest, init_host
from svetovid.host.runtime import build_runtime, reference_values
from svetovid.host.tpm.simulated_ca import create_ca
from svetovid.policy import Job
from svetovid.protocol.client import ManagerClient
from svetovid.protocol.seen import SeenFile
from svetovid.stakeholder.home import make_private, read_bounded
from svetovid.stakeholder.names import read_envelope

__all__ = ["HostMade", "describe_host", "enrol_host", "run_here", "setup_host", "sign_request"]

_MAX_REQUEST = 64 << 10


@dataclass(frozen=True, slots=True)
class HostMade:
    """What setting up a host left for the owners to judge it by."""

    published: tuple[Path, ...]
    simulated: bool


def setup_host(
    home: Path,
    *,
    name: str,
    kind: str,
    tpm: str,
    runtime: Path | None,
    secret: Secret,
    public: Path,
) -> HostMade:
    """Build the runtime, make the host's home, and publish reference values and, for a simulator,
    the authority behind it."""
    make_private(home)
    tree = build_runtime(home / "runtime") if runtime is None else runtime
    simulated = kind == "simulated-tee" or not tpm.startswith("device:")
    authority = home / "simulated-ca" if simulated else None
    device: Literal["tpm", "tee"] = "tpm" if kind == "tpm" else "tee"
    if authority is not None:
        make_private(authority)
        create_ca(authority, device)
    init_host(
        home,
        name=name,
        runtime=tree,
        passphrase=secret,
        kind=cast(Literal["tpm", "simulated-tee"], kind),
        tpm=tpm,
        simulated_ca=authority,
    )
    values = reference_values(
        tree, f"{name}-runtime", 1, provenance=f"made on {name} from its own files"
    )
    published = [public / f"{name}.references.json"]
    stakeholder.write_public(published[0], values)
    if authority is not None:
        anchors = stakeholder.make_anchors(
            [authority / f"{device}-ca.pem"],
            kind="tpm-ek" if device == "tpm" else "tee",
            product=f"{name}-anchors",
            version=1,
            simulated=True,
        )
        published.append(public / f"{name}.anchors.json")
        stakeholder.write_public(published[1], anchors)
    return HostMade(tuple(published), simulated)


def sign_request(request: Path, operator: Path, secret: Secret, machine_owner: str) -> Envelope:
    """The operator's statement on the host that wrote ``request`` (T3)."""
    asked = StatementRequest.parse(
        read_bounded(request, _MAX_REQUEST, what="a host's request"), max_bytes=_MAX_REQUEST
    )
    who = stakeholder.load(operator, secret)
    statement = asked.statement(who.key_id, machine_owner, int(time.time()))
    _make_known(who)
    return stakeholder.sign_host_statement(who, statement)


def enrol_host(
    home: Path,
    pins: Sequence[Path],
    secret: Secret,
    *,
    operator: Path | None = None,
    statement: Path | None = None,
    machine_owner: str = "unknown",
) -> list[str]:
    """Enrol with each manager; the host's id for each."""
    if (operator is None) == (statement is None) or not pins:
        raise InputError(
            "host.enrol",
            expected="--manager, and either --statement or --operator",
            observed="something is missing, or both are given",
            next_step="svetovid host enrol --help",
        )
    if operator is not None:
        signed = sign_request(home / "request.json", operator, secret, machine_owner)
    else:
        assert statement is not None
        signed = read_envelope(statement)
    with ExitStack() as stack:
        clients = _clients(home, pins, secret, stack)
        host = HostHome(home)
        return [host.enrol(client, signed).host_id for client in clients]


def run_here(
    job_file: Path,
    home: Path,
    pins: Sequence[Path],
    secret: Secret,
    *,
    storage: Sequence[str],
    outputs: str,
) -> JobOutcome:
    """Run a job; stages are told on standard error, and that is all an operator sees (T9)."""
    job, _ = stakeholder.read_job(job_file)
    if (address := parse_url(outputs + "x")).scheme == "file":
        _make_folder(Path(address.path).parent)

    def tell(event: Event) -> None:
        note(f"{event.seconds:8.1f} s  {event.stage}")

    with ExitStack() as stack:
        clients = _clients(home, pins, secret, stack)
        return run_job(
            HostHome(home),
            job.digest(),
            clients,
            storage=find_storage(job, storage),
            outputs=outputs,
            on_event=tell,
        )


def _make_folder(path: Path) -> None:
    """Before anything dear is done: a job whose outputs have no place must not start."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise HostError(
            "file.write",
            expected=f"a folder for outputs at {path}",
            observed=e.strerror or type(e).__name__,
            next_step="choose another --outputs",
        ) from e


def find_storage(job: Job, places: Sequence[str]) -> dict[str, str]:
    """Slot to container URL, from ``SLOT=URL`` and folders of sealed assets.

    In a folder, sealing left ``X.manifest.json`` beside each container ``X``; the one whose digest
    the job names is meant. What is found there is checked when it is opened, not here.
    """
    found: dict[str, str] = {}
    for place in places:
        slot, separator, url = place.partition("=")
        if separator and slot in job.assets:
            found[slot] = storage_url(url) or url
            continue
        wanted = {asset.manifest: slot for slot, asset in job.assets.items()}
        for path in sorted(Path(place).glob("*.sealed.manifest.json")):
            try:
                manifest = stakeholder.read_document(path, Manifest)
            except SvetovidError:
                continue
            container = path.with_name(path.name.removesuffix(".manifest.json"))
            if (name := wanted.get(manifest.digest())) is not None:
                found.setdefault(name, container.absolute().as_uri())
    return found


def describe_host(home: Path) -> dict[str, Any]:
    """What stands in a host's home, for people and machines."""
    host = HostHome(home)
    config = host.config()
    found: dict[str, Any] = {"name": config.name, "kind": config.kind, "tpm": config.tpm}
    try:
        found["host"] = host.host_id
    except InputError:
        found["host"] = "not enrolled"
    records = home / "records"
    found["managers"] = sorted(p.stem for p in records.glob("*.json")) if records.is_dir() else []
    return found


def _clients(
    home: Path, pins: Sequence[Path], secret: Secret, stack: ExitStack
) -> list[ManagerClient]:
    agent = HostHome(home).agent(secret)
    clients = []
    for path in pins:
        pin = stakeholder.read_pin(path)
        manager = pin.open().signing.removeprefix("ed25519:")
        seen = SeenFile(home / f"seen.{manager[:16]}.json")
        clients.append(stack.enter_context(ManagerClient(pin, agent, seen=seen)))
    return clients


def _make_known(operator: stakeholder.Stakeholder) -> None:
    """Managers enrol the hosts of operators they know; offline, an operator does this later."""
    try:
        stakeholder.connect(operator).close()
    except (InputError, TransportError) as e:
        note(f"the manager was not told of this operator: {e.code}")
