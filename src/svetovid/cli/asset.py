"""``svetovid asset``: seal, show, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from svetovid.cli.options import AsJson, HomeOption, PublicOption, passphrase, storage_url
from svetovid.cli.output import emit

group = typer.Typer(
    help="Datasets, code and models, sealed.",
    epilog="`svetovid share` seals an asset and gives its key away; here, `seal` only seals it, "
    "`show` reads a manifest, and `verify` opens what is one's own.",
    no_args_is_help=True,
)

ManifestFile = Annotated[Path, typer.Argument(help="The asset's manifest.")]


@group.command()
def seal(
    source: Annotated[Path, typer.Argument(help="Data file, code folder or .safetensors model.")],
    home: HomeOption,
    name: Annotated[str | None, typer.Option("--name", help="The asset's name.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Path or fsspec URL to write.")] = None,
    public: PublicOption = Path("public"),
    as_json: AsJson = False,
) -> None:
    """Seal an asset at home. Its key stays there; nothing is sent.

    Example: `svetovid asset seal alice.npz --home alice`
    """
    from svetovid import stakeholder

    who = stakeholder.load(home, passphrase(home))
    public.mkdir(parents=True, exist_ok=True)
    manifest = stakeholder.seal_asset(who, source, name=name, url=storage_url(to), folder=public)
    path = public / f"{manifest.name}.manifest.json"
    stakeholder.write_public(path, manifest)
    emit(
        {"asset": manifest.digest(), "manifest": str(path), "size": manifest.size},
        [f"asset     {manifest.digest()}", f"manifest  {path}", f"bytes     {manifest.size}"],
        as_json,
    )


@group.command()
def show(manifest: ManifestFile, as_json: AsJson = False) -> None:
    """Show what a manifest says.

    Example: `svetovid asset show public/alice-records.manifest.json`
    """
    from svetovid import stakeholder

    found = stakeholder.read_manifest(manifest)
    schema = found.record_schema
    fields = [f"{f.name} {f.dtype}{list(f.shape)}" for f in schema.fields] if schema else []
    emit(
        {"asset": found.digest(), "manifest": found.to_json()},
        [
            f"asset    {found.digest()}",
            f"         {found.kind} {found.name}, version {found.version}, {found.size} bytes",
            f"owner    {found.owner}",
            f"manager  {found.manager}",
            *([f"records  {schema.records} of {', '.join(fields)}"] if schema else []),
        ],
        as_json,
    )


@group.command()
def verify(
    manifest: ManifestFile,
    container: Annotated[str, typer.Argument(help="Path or fsspec URL of the sealed asset.")],
    home: HomeOption,
    as_json: AsJson = False,
) -> None:
    """Open an own asset and check every chunk of it.

    Example: `svetovid asset verify public/a.manifest.json public/a.v1.sealed --home alice`
    """
    from svetovid import stakeholder

    who = stakeholder.load(home, passphrase(home))
    found = stakeholder.read_manifest(manifest)
    size = stakeholder.verify_asset(who, found, storage_url(container) or container)
    emit(
        {"asset": found.digest(), "verified_bytes": size},
        [f"{found.digest()}: {size} bytes, every chunk holds"],
        as_json,
    )
