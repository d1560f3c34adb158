"""``svetovid appraise``: recorded evidence, judged offline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svetovid.cli.options import moment
from svetovid.cli.output import emit, plain
from svetovid.cli.results import write_result
from svetovid.errors import SvetovidError

if TYPE_CHECKING:
    from svetovid.evidence.recorded import Expectations, Node, RecordedEvidence, Verdict

_MARKS = {True: ("ok", "green"), False: ("NOT ok", "red"), None: ("-", "dim")}


def appraise(
    bundle: Annotated[Path, typer.Argument(help="Recorded evidence: a bundle, or a directory.")],
    reference: Annotated[
        list[Path] | None, typer.Option("--reference", help="Reference values you believe.")
    ] = None,
    nonce: Annotated[
        str | None, typer.Option("--nonce", help="What the quote must carry, in hex.")
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", help="CA certificates of TPM makers, and revocation lists, as PEM."),
    ] = None,
    ak: Annotated[
        str | None, typer.Option("--ak", help="Name of the enrolled attestation key, in hex.")
    ] = None,
    now: Annotated[
        str | None, typer.Option("--now", help="Judge at this time: Unix seconds, or ISO 8601.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--json", help="File to write the verdict to; - prints it.")
    ] = None,
) -> None:
    """Appraise recorded evidence with nothing but files: quote, boot log, measurement log.

    The first line is the verdict. Exit code 3 where it is refused; 2 where it cannot be read.
    Without --reference or --ca nothing is affirmed.

    Example: `svetovid appraise host1/ --reference image.references.json --ca vendors.pem`
    """
    try:
        recorded, wanted = _read(bundle, reference or [], nonce, ca, ak, now)
        from svetovid.evidence.recorded import appraise_recorded

        verdict = appraise_recorded(recorded, wanted)
    except SvetovidError as e:
        reasons = list(dict.fromkeys(r.code for r in e.reasons))
        _write(to, {**e.to_dict(), "verdict": "unreadable", "reasons": reasons, "claims": []})
        if str(to) == "-":
            raise typer.Exit(e.exit_code) from e
        raise
    _write(to, verdict.to_json())
    if str(to) != "-":
        _show(verdict)
    if not verdict.affirmed:
        raise typer.Exit(3)


def _read(
    bundle: Path,
    reference: list[Path],
    nonce: str | None,
    ca: Path | None,
    ak: str | None,
    now: str | None,
) -> tuple[RecordedEvidence, Expectations]:
    from svetovid.evidence.recorded import Expectations, parse_nonce
    from svetovid.stakeholder.recordings import (
        read_authorities_file,
        read_believed,
        read_recording,
    )

    wanted = Expectations(
        now=int(time.time()) if now is None else moment(now, "--now"),
        nonce=None if nonce is None else parse_nonce(nonce),
        ak_name=None if ak is None else parse_nonce(ak),
        references=read_believed(reference),
        authorities=None if ca is None else read_authorities_file(ca),
    )
    return read_recording(bundle), wanted


def _write(to: Path | None, data: dict[str, Any]) -> None:
    if str(to) == "-":
        emit(data, (), True)
    elif to is not None:
        write_result(to, data)


def _first_line(verdict: Verdict) -> str:
    words = [f"measurement: {verdict.measurement}"]
    if verdict.simulated:
        words.append("simulated, or not known to be hardware: it protects nothing")
    what = "affirmed" if verdict.affirmed else f"REFUSED: {', '.join(verdict.reasons())}"
    return f"{what} ({'; '.join(words)})"


def _show(verdict: Verdict) -> None:
    """The verdict in one line, what it rests on, then the tree."""
    import sys

    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    emit({}, [_first_line(verdict), *(f"  rests on: {r}" for r in verdict.rests_on)], False)
    root = Tree("", hide_root=True)

    def grow(tree: Tree, node: Node) -> None:
        word, style = _MARKS[node.ok]
        line = Text.assemble((f"{word:<7}", style), plain(node.name), "  ", plain(node.observed))
        if node.ok is False:
            line.append(f"\nexpected {plain(node.expected)} ({plain(node.source)}) [{node.code}]")
        branch = tree.add(line)
        for claim in node.claims:
            grow(branch, claim)

    for claim in verdict.claims:
        grow(root, claim)
    Console(file=sys.stdout, highlight=False, markup=False).print(root)
