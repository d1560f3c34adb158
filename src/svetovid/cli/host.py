"""``svetovid host``: set one up, enrol it, run a job on it. The operator's side."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from svetovid.cli.options import (
    AsJson,
    HomeOption,
    HostHomeOption,
    PublicOption,
    passphrase,
    storage_url,
)
from svetovid.cli.output import emit, note

group = typer.Typer(
    help="A machine that runs jobs and proves what it is.",
    epilog="Once: `init`, `sign` where the operator's key lives, `enrol`. For each job: `run`.",
    no_args_is_help=True,
)

Operator = Annotated[
    Path | None, typer.Option("--operator", help="The operator's home: sign and enrol at once.")
]
Pins = Annotated[
    list[Path] | None, typer.Option("--manager", help="Pin of each manager to enrol with.")
]
MachineOwner = Annotated[str, typer.Option("--machine-owner", help="Who owns the hardware.")]


def _both(host: Path, operator: Path | None) -> str:
    """Whose passphrase is asked for: with an operator at hand, one opens both homes."""
    return f"{host} and {operator}" if operator is not None else str(host)


class Kind(StrEnum):
    """Which evidence a host gives."""

    TPM = "tpm"
    SIMULATED_TEE = "simulated-tee"


@group.command()
def init(
    home: HostHomeOption,
    name: Annotated[str, typer.Option("--name", help="The operator's name for this machine.")],
    kind: Annotated[Kind, typer.Option("--kind", help="Which evidence it gives.")] = Kind.TPM,
    tpm: Annotated[
        str, typer.Option("--tpm", help="device:/dev/tpmrm0, swtpm:…, or libtpms: a SOFTWARE TPM.")
    ] = "libtpms",
    runtime: Annotated[
        Path | None, typer.Option("--runtime", help="Tree that jobs run in; built if not given.")
    ] = None,
    operator: Operator = None,
    machine_owner: MachineOwner = "unknown",
    manager: Pins = None,
    public: PublicOption = Path("public"),
    as_json: AsJson = False,
) -> None:
    """Set up this machine as a host, and publish what owners need to judge it.

    With --operator and --manager it is enrolled at once.

    Example: `svetovid host init --home host --name lab1 --operator olga --manager manager.json`
    """
    from svetovid.cli.hosting import enrol_host, setup_host

    secret = passphrase(_both(home, operator), confirm=True)
    note("building the runtime that jobs will see …")
    made = setup_host(
        home, name=name, kind=kind.value, tpm=tpm, runtime=runtime, secret=secret, public=public
    )
    enrolled = []
    if operator is not None and manager:
        enrolled = enrol_host(home, manager, secret, operator=operator, machine_owner=machine_owner)
    simulated = "SIMULATED: this host proves nothing" if made.simulated else ""
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
            *([simulated] if simulated else []),
        ],
        as_json,
    )


@group.command()
def sign(
    request: Annotated[Path, typer.Argument(help="The host's request.json.")],
    home: HomeOption,
    out: Annotated[Path, typer.Option("--out", help="File to write the statement to.")],
    machine_owner: MachineOwner = "unknown",
    as_json: AsJson = False,
) -> None:
    """Sign, as its operator, which machine a host is. Run this where the operator's key lives.

    Example: `svetovid host sign request.json --home olga --out statement.json`
    """
    from svetovid.cli.hosting import sign_request
    from svetovid.stakeholder import write_public

    statement = sign_request(request, home, passphrase(home), machine_owner)
    write_public(out, statement)
    emit(
        {"host": statement.payload_digest(), "file": str(out)},
        [f"host  {statement.payload_digest()}", f"file  {out}"],
        as_json,
    )


@group.command()
def enrol(
    home: HostHomeOption,
    manager: Pins = None,
    statement: Annotated[
        Path | None, typer.Option("--statement", help="What the operator signed.")
    ] = None,
    operator: Operator = None,
    machine_owner: MachineOwner = "unknown",
    as_json: AsJson = False,
) -> None:
    """Enrol this host with managers, under its operator's statement.

    Example: `svetovid host enrol --home host --statement statement.json --manager manager.json`
    """
    from svetovid.cli.hosting import enrol_host

    enrolled = enrol_host(
        home,
        manager or [],
        passphrase(_both(home, operator)),
        operator=operator,
        statement=statement,
        machine_owner=machine_owner,
    )
    emit({"enrolled": enrolled}, [f"enrolled {host_id}" for host_id in enrolled], as_json)


@group.command()
def run(
    job: Annotated[Path, typer.Argument(help="The signed job.")],
    home: HostHomeOption,
    manager: Pins = None,
    storage: Annotated[
        list[str] | None,
        typer.Option("--storage", help="Folder of sealed assets, or SLOT=URL; may be repeated."),
    ] = None,
    outputs: Annotated[
        str, typer.Option("--outputs", help="Folder or URL prefix for what comes out.")
    ] = "out",
    as_json: AsJson = False,
) -> None:
    """Run an agreed job: prove this host, get the keys, train, seal what comes out.

    Example: `svetovid host run public/train.job.json --home host --manager manager.json`
    """
    from svetovid.cli.hosting import run_here

    started = time.monotonic()
    outcome = run_here(
        job,
        home,
        manager or [],
        passphrase(home),
        storage=storage or ["public"],
        outputs=(storage_url(outputs) or outputs).rstrip("/") + "/",
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


@group.command()
def status(home: HostHomeOption, as_json: AsJson = False) -> None:
    """Show what a host is, and where it is enrolled. No passphrase is needed.

    Example: `svetovid host status --home host`
    """
    from svetovid.cli.hosting import describe_host

    found = describe_host(home)
    emit(found, [f"{key:<9}{value}" for key, value in found.items()], as_json)
