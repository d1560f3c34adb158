"""``svetovid host``: set one up, enrol it, run a job on it. The operator's side."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svetovid.cli.host_attest import attest
from svetovid.cli.options import (
    AsJson,
    HomeOption,
    HostHomeOption,
    PinsOption,
    PublicOption,
    passphrase,
    read_pins,
    storage_url,
)
from svetovid.cli.output import emit, note
from svetovid.errors import InputError

if TYPE_CHECKING:
    from svetovid.crypto import Envelope, Secret

group = typer.Typer(
    help="A machine that runs jobs and proves what it is.",
    epilog="Once: `init`, `sign` where the operator's key lives, `enrol`. For each job: `run`. "
    "In between: `status` and `check`; all the time, on a host whose kernel measures it: `attest`.",
    no_args_is_help=True,
)

_MAX_REQUEST = 64 << 10

Operator = Annotated[
    Path | None,
    typer.Option(
        "--operator",
        help="The operator's home, where it is on this machine: sign and enrol at once.",
    ),
]
MachineOwner = Annotated[
    str,
    typer.Option(
        "--machine-owner", help="Who owns the hardware, as the operator's statement says."
    ),
]
Locks = Annotated[
    Path,
    typer.Option(
        "--locks", help="Folder of the accelerators' locks; one for all hosts on a machine."
    ),
]


def _both(host: Path, operator: Path | None) -> str:
    """Whose passphrase is asked for: with an operator at hand, one opens both homes."""
    return f"{host} and {operator}" if operator is not None else str(host)


def _signed(request: Path, operator: Path, secret: Secret, machine_owner: str) -> Envelope:
    """The operator's statement on the host that wrote ``request`` (T3)."""
    from svetovid import stakeholder
    from svetovid.errors import TransportError
    from svetovid.host import StatementRequest
    from svetovid.stakeholder.home import read_bounded

    asked = StatementRequest.parse(
        read_bounded(request, _MAX_REQUEST, what="a host's request"), max_bytes=_MAX_REQUEST
    )
    who = stakeholder.load(operator, secret)
    statement = asked.statement(who.key_id, machine_owner, int(time.time()))
    try:
        stakeholder.connect(who).close()  # managers enrol the hosts of operators they know
    except (InputError, TransportError) as e:
        note(f"the manager was not told of this operator: {e.code}")
    return stakeholder.sign_host_statement(who, statement)


def _half_given(expected: str) -> InputError:
    return InputError(
        "host.enrol",
        expected=expected,
        observed="something is missing, or too much is given",
        next_step="svetovid host enrol --help",
    )


class Kind(StrEnum):
    """Which evidence a host gives."""

    TPM = "tpm"
    SIMULATED_TEE = "simulated-tee"


@group.command()
def init(
    home: HostHomeOption,
    name: Annotated[str, typer.Option("--name", help="The operator's name for this machine.")],
    kind: Annotated[
        Kind,
        typer.Option("--kind", help="Which evidence it gives; a simulated TEE protects nothing."),
    ] = Kind.TPM,
    tpm: Annotated[
        str,
        typer.Option(
            "--tpm",
            help="device:/dev/tpmrm0, or a SOFTWARE TPM: libtpms (in the home), libtpms:STATEFILE, "
            "swtpm:unix:PATH, swtpm:tcp:HOST:PORT.",
        ),
    ] = "libtpms",
    runtime: Annotated[
        Path | None,
        typer.Option(
            "--runtime", help="Tree that jobs run in; built in the home where none is given."
        ),
    ] = None,
    simulated_ca: Annotated[
        Path | None,
        typer.Option(
            "--simulated-ca",
            help="Authority for a SOFTWARE TPM or a simulated TEE, as `tpm simulate` makes one; "
            "made in the home where none is given.",
        ),
    ] = None,
    operator: Operator = None,
    machine_owner: MachineOwner = "unknown",
    manager: PinsOption = None,
    public: PublicOption = Path("public"),
    as_json: AsJson = False,
) -> None:
    """Set up this machine as a host, and publish what owners need to judge it.

    The home appears whole or not at all. With --operator and --manager the host is enrolled at
    once.

    Example: `svetovid host init --home host --name lab1 --operator olga --manager manager.json`
    """
    from svetovid.host import enrol_host, init_host

    if (operator is None) != (not manager):
        raise _half_given("--operator and --manager together, or neither")
    pins = read_pins(manager or [])
    secret = passphrase(_both(home, operator), confirm=True)
    note("building the runtime that jobs will see …")
    made = init_host(
        home,
        name=name,
        passphrase=secret,
        kind="tpm" if kind is Kind.TPM else "simulated-tee",
        tpm=tpm,
        runtime=runtime,
        simulated_ca=simulated_ca,
        public=public,
    )
    enrolled = []
    if operator is not None and pins:
        statement = _signed(home / "request.json", operator, secret, machine_owner)
        enrolled = [r.host_id for r in enrol_host(home, pins, statement, secret)]
    emit(
        {
            "home": str(home),
            "request": str(home / "request.json"),
            "files": [str(p) for p in made.published],
            "simulated": made.simulated,
            "enrolled": enrolled,
        },
        [
            f"host     {name} in {home}",
            *(f"wrote    {p}" for p in made.published),
            *(f"enrolled {host_id}" for host_id in enrolled),
            *(["SIMULATED: this host proves nothing"] if made.simulated else []),
        ],
        as_json,
    )


@group.command()
def sign(
    request: Annotated[Path, typer.Argument(help="What the host wrote: NAME.request.json.")],
    home: HomeOption,
    out: Annotated[Path, typer.Option("--out", help="File to write the signed statement to.")],
    machine_owner: MachineOwner = "unknown",
    as_json: AsJson = False,
) -> None:
    """Sign, as its operator, which machine a host is. Run this where the operator's key lives.

    Example: `svetovid host sign lab1.request.json --home olga --out statement.json`
    """
    from svetovid.stakeholder import write_public

    statement = _signed(request, home, passphrase(home), machine_owner)
    write_public(out, statement)
    emit(
        {"host": statement.payload_digest(), "file": str(out)},
        [f"host  {statement.payload_digest()}", f"file  {out}"],
        as_json,
    )


@group.command()
def enrol(
    home: HostHomeOption,
    manager: PinsOption = None,
    statement: Annotated[
        Path | None, typer.Option("--statement", help="What the operator signed: `host sign`.")
    ] = None,
    operator: Operator = None,
    machine_owner: MachineOwner = "unknown",
    as_json: AsJson = False,
) -> None:
    """Enrol this host with managers, under its operator's statement.

    Example: `svetovid host enrol --home host --statement statement.json --manager manager.json`
    """
    from svetovid.host import enrol_host
    from svetovid.stakeholder.names import read_envelope

    if (operator is None) == (statement is None) or not manager:
        raise _half_given("--manager, and either --statement or --operator")
    pins = read_pins(manager)
    secret = passphrase(_both(home, operator))
    signed = (
        read_envelope(statement)
        if statement is not None
        else _signed(home / "request.json", operator or home, secret, machine_owner)
    )
    enrolled = [r.host_id for r in enrol_host(home, pins, signed, secret)]
    emit({"enrolled": enrolled}, [f"enrolled {host_id}" for host_id in enrolled], as_json)


@group.command()
def run(
    job: Annotated[Path, typer.Argument(help="The signed job: NAME.job.json.")],
    home: HostHomeOption,
    manager: PinsOption = None,
    storage: Annotated[
        list[str] | None,
        typer.Option(
            "--storage",
            help="Folder of sealed assets, or SLOT=URL; may be repeated. Without it: public.",
        ),
    ] = None,
    outputs: Annotated[
        str, typer.Option("--outputs", help="Folder or URL prefix for what comes out.")
    ] = "out",
    locks: Locks = Path("/run/lock"),
    trusted_mib: Annotated[
        int | None,
        typer.Option(
            "--trusted-mib",
            min=1,
            help="Of a masked job: MiB for tensors that wait in memory; the rest lies sealed.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run an agreed job: prove this host, get the keys, train, seal what comes out.

    One job at a time: a host that runs one refuses a second, and so does an accelerator.

    Example: `svetovid host run public/train.job.json --home host --manager manager.json`
    """
    from svetovid.host import Accelerators, Event, find_storage, run_host
    from svetovid.stakeholder import read_job

    def tell(event: Event) -> None:
        note(f"{event.seconds:8.1f} s  {event.stage}")

    started = time.monotonic()
    agreed, _ = read_job(job)
    outcome = run_host(
        home,
        agreed,
        read_pins(manager or []),
        passphrase(home),
        storage=find_storage(agreed, storage or ["public"]),
        outputs=(storage_url(outputs) or outputs).rstrip("/") + "/",
        on_event=tell,
        accelerators=Accelerators(locks=locks),
        trusted_mib=trusted_mib,
    )
    emit(
        {
            "outputs": outcome.outputs,
            "receipts": outcome.bundles,
            "timings": outcome.timings,
            "seconds": round(time.monotonic() - started, 3),
        },
        [
            *(f"output   {name}: {url}" for name, url in outcome.outputs.items()),
            *(f"receipt  {url}" for url in outcome.bundles.values()),
        ],
        as_json,
    )


group.command()(attest)


@group.command()
def status(home: HostHomeOption, as_json: AsJson = False) -> None:
    """Show what a host is, and where it is enrolled. No passphrase is needed.

    Example: `svetovid host status --home host`
    """
    from dataclasses import asdict

    from svetovid.host import host_status

    found = asdict(host_status(home))
    lines = {
        **found,
        "host": found["host"] or "not enrolled",
        "managers": ", ".join(found["managers"]) or "none",
        "simulated": "yes: it proves nothing" if found["simulated"] else "no",
    }
    emit(found, [f"{key:<10}{value}" for key, value in lines.items()], as_json)


@group.command()
def check(
    home: HostHomeOption,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            help="Accelerator's device node to try and clear, as jobs list it; may be repeated.",
        ),
    ] = None,
    locks: Locks = Path("/run/lock"),
    as_json: AsJson = False,
) -> None:
    """Try what a job would need here: TPM, sandbox, memory, accelerators. No manager is asked.

    Exit code 4 where something is amiss.

    Example: `svetovid host check --home host --device /dev/nvidia0`
    """
    from svetovid.host import Accelerators, check_host

    found = check_host(home, device or [], accelerators=Accelerators(locks=locks))
    lines: list[str] = []
    for f in found:
        lines.append(f"{'ok  ' if f.reason is None else 'FAIL'}  {f.what:<9} {f.observed}")
        if f.reason is not None:
            lines.append(f"      {f.reason.code}: {f.reason.next_step}")
    emit(
        {
            "ok": all(f.reason is None for f in found),
            "findings": [
                {
                    "what": f.what,
                    "observed": f.observed,
                    "reason": None if f.reason is None else f.reason.to_dict(),
                }
                for f in found
            ],
        },
        lines,
        as_json,
    )
    if any(f.reason is not None for f in found):
        raise typer.Exit(4)
