"""``svetovid job``: propose, show, consent, status, watch, records."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from svetovid.cli.options import AsJson, HomeOption, PublicOption, passphrase
from svetovid.cli.output import ask, emit, note, table
from svetovid.cli.watch import watch
from svetovid.errors import InputError

group = typer.Typer(
    help="What is to be run, and who agrees to it.",
    epilog="In order: whoever wants it run, `propose`; each owner, `show` and `consent`; then "
    "`svetovid host run`; meanwhile `status`, `watch`, and afterwards `records`.",
    no_args_is_help=True,
)

JobFile = Annotated[Path, typer.Argument(help="The signed job.")]


@group.command()
def propose(
    file: Annotated[Path, typer.Argument(help="The job, in YAML.")],
    home: HomeOption,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of another job of its name.")
    ] = False,
    public: PublicOption = Path("public"),
    as_json: AsJson = False,
) -> None:
    """Sign a job, send it to the manager, and put it into the public folder.

    A job that stands there already is sent again as it is; another one of its name is kept, unless
    --replace says that it is done with.

    Example: `svetovid job propose job.yaml --home rita`
    """
    from svetovid import stakeholder

    names = stakeholder.read_names(public)
    who = stakeholder.load(home, passphrase(home))
    job, signed = stakeholder.propose(who, file, names, replace=replace)
    if not replace and (public / f"{job.name}.job.json").exists():
        note("this very job was proposed before: sent again; --replace would make a new one")
    path = stakeholder.write_job(public, job, signed)
    labels = stakeholder.read_labels(home, public)
    emit(
        {"job": job.digest(), "file": str(path), "owners": sorted(job.owners)},
        [
            f"job   {job.digest()}",
            f"file  {path}",
            "consents are needed from:",
            *(f"  {owner}" for owner in sorted(map(labels.brief, job.owners))),
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
    card = stakeholder.promised(job)
    emit(
        {
            "digest": job.digest(),
            "job": job.to_json(),
            "guarantees": card and card.to_dict(),
        },
        stakeholder.describe(job, stakeholder.read_labels(None, public)),
        as_json,
    )


@group.command()
def consent(
    file: JobFile,
    home: HomeOption,
    yes: Annotated[bool, typer.Option("--yes", help="Agree without being asked.")] = False,
    public: PublicOption = Path("public"),
    as_json: AsJson = False,
) -> None:
    """Look at a job, hold it against the own policy, and agree to it.

    The job is shown in plain words, then the question is asked; without a terminal to ask at,
    --yes is the answer of somebody who has read it.

    Example: `svetovid job consent public/train.job.json --home alice --yes`
    """
    from svetovid import stakeholder

    job, _ = stakeholder.read_job(file)
    who = stakeholder.load(home, passphrase(home))
    for line in stakeholder.describe(job, stakeholder.read_labels(home, public)):
        note(line)
    policies, reasons = stakeholder.check_job(who, job, int(time.time()))
    if not reasons and not yes and not _agreed(file):
        raise typer.Abort
    stakeholder.consent(who, job, int(time.time()))
    emit(
        {
            "job": job.digest(),
            "consents": [{"policy": p.digest(), "owner": p.owner} for p in policies],
        },
        [
            f"{who.name} agrees to {job.digest()}",
            *(f"under policy {p.name}: {p.digest()}" for p in policies),
        ],
        as_json,
    )


def _agreed(file: Path) -> bool:
    if not sys.stdin.isatty():
        raise InputError(
            "consent.question",
            expected="an answer to: do you agree to this job?",
            observed="no terminal to ask at",
            next_step=f"read the job (svetovid job show {file}), then add --yes",
        )
    return ask("Do you agree?")


@group.command()
def status(
    file: JobFile,
    home: HomeOption,
    public: PublicOption = Path("public"),
    as_json: AsJson = False,
) -> None:
    """Show where a job stands, and whose consent it is waiting for.

    Example: `svetovid job status public/train.job.json --home rita`
    """
    from svetovid import stakeholder
    from svetovid.policy import Consent

    job, _ = stakeholder.read_job(file)
    found = stakeholder.status(stakeholder.load(home, passphrase(home)), job.digest())
    labels = stakeholder.read_labels(home, public)
    agreed = sorted({e.peek(Consent).owner for e in found.consents}, key=labels.brief)
    emit(
        {"job": job.digest(), "state": found.state, "status": found.to_json()},
        [
            f"job       {job.name}  {job.digest()}",
            f"state     {found.state}",
            *(f"agreed    {labels.brief(owner)}" for owner in agreed),
            *(f"waiting   for {owner}" for owner in sorted(map(labels.brief, found.waiting_for))),
            *([f"host      {labels.brief(found.host)}"] if found.host else []),
            f"releases  {found.releases}",
        ],
        as_json,
    )


group.command()(watch)


@group.command()
def records(
    home: HomeOption,
    first: Annotated[int, typer.Option("--first", min=0, help="Log index to start at.")] = 0,
    public: PublicOption = Path("public"),
    as_json: AsJson = False,
) -> None:
    """Show the manager's decisions about what is one's own, with all reasons.

    Example: `svetovid job records --home alice`
    """
    from svetovid import stakeholder

    found = stakeholder.records(stakeholder.load(home, passphrase(home)), first=first)
    labels = stakeholder.read_labels(home, public)
    rows = []
    for record in found:
        entry, told = record.entry, stakeholder.tell(record, labels)
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.at)) if entry else ""
        rows.append((record.index, when, entry.kind if entry else "", told.about, told.why))
    table(
        ("entry", "UTC", "what", "about", "why"),
        rows,
        {"records": [r.to_json() for r in found]},
        as_json,
    )
