"""``svetovid reference``: make reference values, review what hosts propose, publish."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svetovid.cli.documents import DocumentFile, Out, Product, Version, publish_document
from svetovid.cli.options import AsJson, HomeOption, moment
from svetovid.cli.output import emit, note
from svetovid.errors import InputError

if TYPE_CHECKING:
    from svetovid.evidence.references import ReferenceValues, Source
    from svetovid.stakeholder.sources import Proposal

group = typer.Typer(
    help="Digests that measured files may have.",
    epilog="In order: `make`, of what you can check yourself; `propose` for what only a host has, "
    "then review the text and `make --proposal`; `show`; `publish`, or give the file to "
    "`svetovid share`.",
    no_args_is_help=True,
)
_SHOWN = 40

Many = list[Path] | None
Time = str | None


@contextmanager
def _bar(files: Sequence[Path], as_json: bool) -> Iterator[Callable[[int], None]]:
    """Bytes read, of those in the files; a folder's are not known ahead."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    whole = all(path.is_file() for path in files)
    total = sum(path.stat().st_size for path in files) if whole else None
    bar = Progress(
        TextColumn("reading"),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        disable=as_json or not sys.stderr.isatty(),
        transient=True,
    )
    with bar:
        task = bar.add_task("reading", total=total)
        yield lambda count: bar.advance(task, count)


def _placed(given: Path) -> tuple[Path, str]:
    """``DIR=AT`` as a folder and the path it has on the host."""
    folder, sign, at = str(given).rpartition("=")
    return (Path(folder), at) if sign and at.startswith("/") else (given, "/")


def _summary(document: ReferenceValues) -> tuple[dict[str, Any], list[str]]:
    superseded = sum(map(len, document.superseded.values()))
    data = {
        "document": document.digest(),
        "product": document.product,
        "version": document.version,
        "files": len(document.listed),
        "sources": [
            {**s.model_dump(exclude={"files"}, exclude_none=True), "files": len(s.files)}
            for s in document.sources
        ],
        "unchecked": [rule.to_json() for rule in document.unchecked],
        "superseded": superseded,
        "boot": document.boot is not None,
        "valid_from": document.valid_from,
        "valid_until": document.valid_until,
    }
    lines = [f"{document.product} v{document.version}: {len(document.listed)} files"]
    for source in document.sources[:_SHOWN]:
        artifact = f"  {source.artifact}" if source.artifact else ""
        lines.append(f"  {len(source.files):>7}  {source.kind} {source.name}{artifact}")
    if len(document.sources) > _SHOWN:
        lines.append(f"  and {len(document.sources) - _SHOWN} more sources")
    lines += [f"  UNCHECKED {r.kind} {r.path}: {r.why}" for r in document.unchecked]
    if document.boot:
        events = sum(map(len, document.boot.events.values()))
        lines.append(f"  boot: {len(document.boot.kernels)} kernels, {events} events")
        lines += [f"  boot: {line}" for line in document.boot.command_lines]
    if superseded:
        lines.append(f"  {superseded} superseded digests")
    return data, lines


def _approved(files: Sequence[Path]) -> list[Proposal]:
    from svetovid.stakeholder.sources import read_proposal

    return [read_proposal(path) for path in files]


@group.command()
def make(
    product: Product,
    out: Out,
    runtime: Annotated[
        Path | None, typer.Argument(help="A runtime tree that jobs run in, with our own agent.")
    ] = None,
    directory: Annotated[
        Many, typer.Option("--directory", help="A folder; DIR=PATH if the host has it at PATH.")
    ] = None,
    debian: Annotated[Many, typer.Option("--debian", help="A Debian package (.deb).")] = None,
    container: Annotated[
        Many, typer.Option("--container", help="An OCI layout or `docker save`, folder or tar.")
    ] = None,
    platform: Annotated[
        str, typer.Option("--platform", help="Of the container image, as linux/amd64.")
    ] = "",
    proposal: Annotated[
        Many, typer.Option("--proposal", help="A reviewed text of `reference propose`.")
    ] = None,
    signer: Annotated[
        Many, typer.Option("--signer", help="Public key (PEM) whose IMA signatures count.")
    ] = None,
    unchecked: Annotated[
        list[str] | None,
        typer.Option("--unchecked", help="KIND:PATH=WHY; the kind exact, subtree or glob."),
    ] = None,
    after: Annotated[
        Path | None, typer.Option("--after", help="The edition before; see --old-until.")
    ] = None,
    old_until: Annotated[
        Time, typer.Option("--old-until", help="Till then its digests stay good; then refused.")
    ] = None,
    valid_from: Annotated[Time, typer.Option("--valid-from", help="Counts from this time.")] = None,
    valid_until: Annotated[Time, typer.Option("--valid-until", help="Counts to this time.")] = None,
    provenance: Annotated[str, typer.Option("--provenance", help="Who made it, from what.")] = "",
    version: Version = 1,
    as_json: AsJson = False,
) -> None:
    """Make reference values: every file that a host may read as code, with where it comes from.

    Options that name files can be given more than once. Times are Unix seconds or ISO 8601.
    Nothing that is read is run.

    Example: `svetovid reference make --product lab --debian libssl3.deb --container train.tar
    --unchecked 'subtree:/var/cache/fontconfig=no code' --out lab.references.json`
    """
    from svetovid import stakeholder
    from svetovid.host.runtime import reference_values
    from svetovid.stakeholder import sources
    from svetovid.stakeholder.recordings import read_believed

    base = None if runtime is None else reference_values(runtime, product, version)
    reviewed = _approved(proposal or [])
    found: list[Source] = []
    given = [_placed(path) for path in directory or []]
    archives = [*(debian or []), *(container or [])]
    with _bar([*(folder for folder, _ in given), *archives], as_json) as progress:
        found += [sources.from_directory(f, at=at, progress=progress) for f, at in given]
        found += [sources.from_debian(path, progress=progress) for path in debian or []]
        for path in container or []:
            found.append(sources.from_container(path, platform=platform, progress=progress))
    document = sources.make_references(
        product,
        version,
        [*found, *(r.source for r in reviewed)],
        buffers=sources.all_buffers(reviewed),
        boot=sources.merged_boots(r.boot for r in reviewed),
        rules=unchecked or [],
        signers=[sources.read_signer(path) for path in signer or []],
        previous=None if after is None else read_believed([after])[0],
        until=None if old_until is None else moment(old_until, "--old-until"),
        valid_from=None if valid_from is None else moment(valid_from, "--valid-from"),
        valid_until=None if valid_until is None else moment(valid_until, "--valid-until"),
        provenance=provenance,
        base=base,
    )
    if not any((document.listed, document.unchecked, document.file_signers, document.boot)):
        raise InputError(
            "reference.sources",
            expected="something that a host could be held against",
            observed="no file, rule, signer or boot",
            next_step="give a runtime tree, --directory, --debian, --container, --proposal, "
            "--signer or --unchecked",
        )
    stakeholder.write_public(out, document)
    data, lines = _summary(document)
    if len(document.canonical()) > document.MAX_BYTES:
        note("too large to be signed as one document; make one of each part")
    emit({**data, "file": str(out)}, [f"{out}: {data['document']}", *lines], as_json)


@group.command()
def propose(
    logs: Annotated[
        list[Path],
        typer.Argument(help="A measurement log, or a folder with ima.bin, bios.bin, cmdline.txt."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Text to write, for review.")],
    known: Annotated[
        Many, typer.Option("--known", help="Reference values you believe; they are left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Propose what hosts have booted and run that no reference values list, for review.

    Nothing is believed until you have written + before its line; - refuses it.

    Example: `svetovid reference propose host1/ host2/ --known lab.references.json --out review.txt`
    """
    from svetovid.crypto.private import write_private
    from svetovid.stakeholder import sources
    from svetovid.stakeholder.recordings import read_believed

    text, count = sources.propose([sources.read_host(p) for p in logs], read_believed(known or []))
    write_private(out, text.encode(), replace=False)
    emit(
        {"file": str(out), "undecided": count},
        [f"{out}: {count} lines to be decided, then `svetovid reference make --proposal {out}`"],
        as_json,
    )


@group.command()
def show(
    file: Annotated[Path, typer.Argument(help="Reference values, signed or not.")],
    as_json: AsJson = False,
) -> None:
    """Show what reference values say: sources, holes, what is superseded.

    Example: `svetovid reference show lab.references.json`
    """
    from svetovid.stakeholder.recordings import read_believed

    data, lines = _summary(read_believed([file])[0])
    emit(data, [data["document"], *lines], as_json)


@group.command()
def publish(file: DocumentFile, home: HomeOption, as_json: AsJson = False) -> None:
    """Sign reference values, unless somebody has, and give them to the manager.

    Example: `svetovid reference publish runtime.references.json --home alice`
    """
    from svetovid.evidence.documents import ReferenceValues

    publish_document(file, ReferenceValues, home, as_json)
