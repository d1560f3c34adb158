"""``svetovid receipt`` and ``svetovid output``: what came of a job, verified and opened."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svetovid.cli.options import AsJson, HomeOption, PublicOption, passphrase, storage_url
from svetovid.cli.output import emit
from svetovid.errors import SvetovidError

if TYPE_CHECKING:
    from svetovid.stakeholder import Labels
    from svetovid.transparency import Verdict

receipt = typer.Typer(
    help="Signed statements on what was made from what.",
    epilog="`verify` proves it offline, for anybody; `show` reads it and proves nothing.",
    no_args_is_help=True,
)
output = typer.Typer(
    help="What a job put out.",
    epilog="`open` verifies the receipt first. The model is then an ordinary safetensors file.",
    no_args_is_help=True,
)

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
    name: Annotated[
        list[str] | None, typer.Option("--name", help="KEY=NAME: what to call a key you know.")
    ] = None,
    public: PublicOption = Path("public"),
    as_json: AsJson = False,
) -> None:
    """Verify a receipt offline, with nothing but files. Exit code 3 where it does not hold.

    The first line is the verdict. Names beside keys are what you gave with --name, what the pin and
    the public folder say, and else what the parties call themselves: nobody vouches for those.

    Example: `svetovid receipt verify r.json --anchors a.json --references v.json --manager m.json`
    """
    from svetovid import stakeholder
    from svetovid.stakeholder.receipts import read_given, receipt_labels
    from svetovid.transparency import not_verified

    given = read_given(name or [])
    try:
        card = stakeholder.read_pin(manager).open()
        verdict = stakeholder.check_receipt(
            bundle,
            anchors=anchors,
            references=references,
            manager=card.signing,
            now=int(time.time()) if at is None else at,
        )
    except SvetovidError as e:
        line = not_verified(e.reasons[0])
        emit({"verified": False, "verdict": line, **e.to_dict()}, [line], as_json)
        if as_json:
            raise typer.Exit(e.exit_code) from e
        raise
    known = stakeholder.read_labels(None, public)
    labels = receipt_labels(verdict, given, {card.signing: card.name}, known.names)
    emit(verdict.to_dict(), _lines(verdict, labels), as_json)
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
    public: PublicOption = Path("public"),
    as_json: AsJson = False,
) -> None:
    """Verify the receipt, then open an output that was sealed to this home.

    Example: `svetovid output open m.sealed --home rita --receipt r.json --anchors a.json
    --references v.json --to model.safetensors`
    """
    from svetovid import stakeholder
    from svetovid.stakeholder.receipts import receipt_labels

    opened = stakeholder.open_output(
        stakeholder.load(home, passphrase(home)),
        storage_url(container) or container,
        receipt_file,
        to,
        anchors=anchors,
        references=references,
        now=int(time.time()),
    )
    labels = receipt_labels(opened.verdict, stakeholder.read_labels(home, public).names)
    emit(
        {
            "output": opened.output,
            "file": str(opened.path),
            "size": opened.size,
            "verdict": opened.verdict.to_dict(),
        },
        [*_lines(opened.verdict, labels), f"opened   {opened.output} into {opened.path}"],
        as_json,
    )


def _lines(verdict: Verdict, labels: Labels) -> list[str]:
    """The verdict, what weakens it, and then all there is to know."""
    short = labels.short
    because = [f"{r.code}: {r.observed}, expected {r.expected}" for r in verdict.reasons()]
    rows = [
        ("job", short(verdict.job).removeprefix("job ")),
        ("code", short(verdict.code)),
        *(("data", f"{slot}: {short(digest)}") for slot, digest in verdict.data.items()),
        *(("output", f"{name}: {short(digest)}") for name, digest in verdict.outputs.items()),
        *(("for", short(key)) for key in verdict.recipients),
        *(("consent", f"{short(k)}: {', '.join(v)}") for k, v in verdict.consents.items()),
        *(("import", f"{slot}: {short(key)}") for slot, key in verdict.imports.items()),
        ("host", f"{verdict.host_name}, owned by {verdict.machine_owner}"),
        ("operator", short(verdict.operator)),
        ("manager", short(verdict.manager)),
        ("released", _time(verdict.released_at)),
        ("finished", _time(verdict.finished_at)),
        ("resumes", str(verdict.resumes)),
        *(("because", labels.readable(line)) for line in because),
    ]
    return [
        labels.readable(verdict.verdict),
        *(f"  {word}" for word in verdict.words),
        *(f"{label:<9}{value}" for label, value in rows),
    ]


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError):
        return str(seconds)
