"""``svetovid job``: propose, show, consent, status, watch, records."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from svetovid.cli.options import AsJson, HomeOption, PublicOption, passphrase
from svetovid.cli.output import emit, note, plain, table
from svetovid.cli.watch import watch

group = typer.Typer(help="What is to be run, and who agrees to it.", no_args_is_help=True)
group.command()(watch)

JobFile = Annotated[Path, typer.Argument(help="The signed job.")]


@group.command()
def propose(
    file: Annotated[Path, typer.Argument(help="The job, in YAML.")],
    home: HomeOption,
    public: PublicOption = Path("public"),
    as_json: AsJson = False,
) -> None:
    """Sign a job, send it to the manager, and put it into the public folder.

    Example: `svetovid job propose job.yaml --home rita`
    """
    from svetovid import stakeholder

    names = stakeholder.read_names(public)
    job, signed = stakeholder.propose(stakeholder.load(home, passphrase(home)), file, names)
    path = stakeholder.write_job(public, job, signed)
    labels = stakeholder.read_labels(home, public)
    emit(
        {"job": job.digest(), "file": str(path), "owners": sorted(job.owners)},
        [
            f"job   {job.digest()}",
            f"file  {path}",
            "consents are needed from:",
            *(f"  {labels.brief(owner)}" for owner in sorted(job.owners)),
        ],
        as_json,
    )


@group.command()
def show(file: JobFile, public: PublicOption = Path("public"), as_json: AsJson = False) -> None:
    """Show a signed job in plain words.

    Example: `svetovid job show public/train.job.json`
    """
    from svetovid import stakeholder

    job, _ = stakeholder.read_job(file)
    emit(
        {"digest": job.digest(), "job": job.to_json()},
        stakeholder.describe(job, stakeholder.read_labels(None, public)),
        as_json,
    )


@group.command()
def consent(
    file: JobFile,
    home: HomeOption,
    public: PublicOption = Path("public"),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at a job, hold it against the own policy, and agree to it.

    Example: `svetovid job consent public/train.job.json --home alice --yes`
    """
    from svetovid import stakeholder

    job, _ = stakeholder.read_job(file)
    lines = stakeholder.describe(job, stakeholder.read_labels(home, public))
    who = stakeholder.load(home, passphrase(home))
    for line in lines:
        note(line)
    policy, reasons = stakeholder.check_job(who, job, int(time.time()))
    if not reasons and not yes:
        typer.confirm("Do you agree?", abort=True, err=True)
    stakeholder.consent(who, job, int(time.time()))
    emit(
        {"job": job.digest(), "policy": policy.digest(), "owner": policy.owner},
        [f"{who.name} agrees to {job.digest()}", f"under policy {policy.digest()}"],
        as_json,
    )


@group.command()
def status(file: JobFile, home: HomeOption, as_json: AsJson = False) -> None:
    """Show where a job stands.

    Example: `svetovid job status public/train.job.json --home rita`
    """
    from svetovid import stakeholder

    job, _ = stakeholder.read_job(file)
    found = stakeholder.status(stakeholder.load(home, passphrase(home)), job.digest())
    emit(
        {"job": job.digest(), "state": found.state, "status": found.to_json()},
        [
            f"job       {job.digest()}",
            f"state     {found.state}",
            f"consents  {len(found.consents)}",
            *(f"waiting for {owner}" for owner in found.waiting_for),
            f"releases  {found.releases}",
        ],
        as_json,
    )


@group.command()
def records(
    home: HomeOption,
    first: Annotated[int, typer.Option("--first", min=0, help="Log index to start at.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show the manager's decisions about what is one's own, with all reasons.

    Example: `svetovid job records --home alice`
    """
    from svetovid import stakeholder

    found = stakeholder.records(stakeholder.load(home, passphrase(home)), first=first)
    rows = []
    for record in found:
        entry = record.entry
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.at)) if entry else ""
        reasons = record.private.reasons if record.private else ()
        why = "\n".join(f"{r.code} {r.clause}: {r.observed}, not {r.expected}" for r in reasons)
        rows.append((record.index, when, entry.kind if entry else "", plain(why)))
    table(
        ("entry", "UTC", "what", "why"),
        rows,
        {"records": [r.to_json() for r in found]},
        as_json,
    )
