"""``svetovid share``: seal, deposit and publish in one command."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from svetovid.cli.options import (
    AnchorsOption,
    AsJson,
    HomeOption,
    PublicOption,
    ReferencesOption,
    passphrase,
    storage_url,
)
from svetovid.cli.output import emit


def share(
    source: Annotated[Path, typer.Argument(help="Data file, code folder or .safetensors model.")],
    home: HomeOption,
    policy: Annotated[Path, typer.Option("--policy", help="Who may use it: YAML.")],
    name: Annotated[str | None, typer.Option("--name", help="The asset's name.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Path or fsspec URL to write.")] = None,
    anchors: AnchorsOption = None,
    references: ReferencesOption = None,
    public: PublicOption = Path("public"),
    as_json: AsJson = False,
) -> None:
    """Seal an asset, put its policy in force, and give its key to the pinned manager.

    Sharing again under the same name makes the asset's next version, with the anchors and
    references of the edition before where none are given.

    Example: `svetovid share alice.npz --home alice --name alice-records --policy alice.yaml
    --anchors public/lab1.anchors.json --references public/lab1.references.json`
    """
    from svetovid import stakeholder

    who = stakeholder.load(home, passphrase(home))
    claims = stakeholder.verify_manager(who)
    shared = stakeholder.share(
        who,
        source,
        policy,
        public=public,
        name=name,
        url=storage_url(to),
        anchors=anchors or (),
        references=references or (),
    )
    asset = shared.manifest.digest()
    emit(
        {
            "asset": asset,
            "name": shared.manifest.name,
            "policy": shared.policy,
            "changes": [asdict(change) for change in shared.changes],
            "manager": claims.key,
            "verdict": claims.verdict,
        },
        [
            claims.verdict,
            f"asset   {asset}  ({shared.manifest.name})",
            f"policy  {shared.policy}",
            *stakeholder.describe_changes(shared.changes, stakeholder.read_labels(home, public)),
        ],
        as_json,
    )
