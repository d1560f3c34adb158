"""``svetovid receipt`` and ``svetovid output``: what came of a job, verified and opened."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svetovid.cli.options import AsJson, HomeOption, passphrase, storage_url
from svetovid.cli.output import emit

if TYPE_CHECKING:
    from svetovid.transparency import Verdict

receipt = typer.Typer(help="Signed statements on what was made from what.", no_args_is_help=True)
output = typer.Typer(help="What a job put out.", no_args_is_help=True)

Bundle = Annotated[Path, typer.Argument(help="The receipt bundle.")]
Anchors = Annotated[Path, typer.Option("--anchors", help="Trust anchors you choose to believe.")]
References = Annotated[
    list[Path], typer.Option("--references", help="Reference values you choose to believe.")
]


@receipt.command()
def verify(
    bundle: Bundle,
    anchors: Anchors,
    references: References,
    manager: Annotated[Path, typer.Option("--manager", help="The manager's pin, got by hand.")],
    at: Annotated[int | None, typer.Option("--at", help="Judge at this Unix time.")] = None,
    as_json: AsJson = False,
) -> None:
    """Verify a receipt offline, with nothing but files. Exit code 3 where it does not hold.

    Example: `svetovid receipt verify r.json --anchors a.json --references v.json --manager m.json`
    """
    from svetovid import stakeholder

    verdict = stakeholder.check_receipt(
        bundle,
        anchors=anchors,
        references=references,
        manager=stakeholder.read_pin(manager).open().signing,
        now=int(time.time()) if at is None else at,
    )
    emit(verdict.to_dict(), _lines(verdict), as_json)
    if not verdict.affirmed:
        raise typer.Exit(3)


@receipt.command()
def show(bundle: Bundle, as_json: AsJson = False) -> None:
    """Show what a receipt says, unverified.

    Example: `svetovid receipt show out/train.receipt.json`
    """
    from svetovid import stakeholder
    from svetovid.transparency import Receipt

    found = stakeholder.read_receipt(bundle)
    said = found.receipt.peek(Receipt)
    emit(
        {"verified": False, "receipt": said.to_json()},
        [
            "NOT VERIFIED: svetovid receipt verify does that",
            f"job      {said.job}",
            f"manager  {said.manager}",
            f"host     {said.host}",
            *(f"output   {name}: {digest}" for name, digest in said.outputs.items()),
        ],
        as_json,
    )


@output.command("open")
def open_(
    container: Annotated[str, typer.Argument(help="Path or fsspec URL of the sealed output.")],
    home: HomeOption,
    receipt_file: Annotated[Path, typer.Option("--receipt", help="The job's receipt bundle.")],
    anchors: Anchors,
    references: References,
    to: Annotated[Path, typer.Option("--to", help="File to write.")],
    as_json: AsJson = False,
) -> None:
    """Verify the receipt, then open an output that was sealed to this home.

    Example: `svetovid output open m.sealed --home rita --receipt r.json --anchors a.json
    --references v.json --to model.safetensors`
    """
    from svetovid import stakeholder

    opened = stakeholder.open_output(
        stakeholder.load(home, passphrase(home)),
        storage_url(container) or container,
        receipt_file,
        to,
        anchors=anchors,
        references=references,
        now=int(time.time()),
    )
    emit(
        {
            "output": opened.output,
            "file": str(opened.path),
            "size": opened.size,
            "verdict": opened.verdict.to_dict(),
        },
        [*_lines(opened.verdict), f"opened   {opened.output} into {opened.path}"],
        as_json,
    )


def _lines(verdict: Verdict) -> list[str]:
    return [
        *verdict.words,
        f"job      {verdict.job}",
        f"code     {verdict.code}",
        *(f"data     {slot}: {digest}" for slot, digest in verdict.data.items()),
        *(f"output   {name}: {digest}" for name, digest in verdict.outputs.items()),
        *(f"for      {key}" for key in verdict.recipients),
        *(f"consent  {owner}: {', '.join(slots)}" for owner, slots in verdict.consents.items()),
        f"host     {verdict.host_name}, owned by {verdict.machine_owner}",
        f"resumes  {verdict.resumes}",
        *(f"because  {r.code}: {r.observed}, not {r.expected}" for r in verdict.reasons()),
    ]
