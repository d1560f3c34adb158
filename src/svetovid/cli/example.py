"""``svetovid example``: a folder to try the main job in, with real data and ready YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from svetovid.cli.options import AsJson
from svetovid.cli.output import emit


def example(
    name: Annotated[str, typer.Argument(help="Which example: breast-cancer.")],
    folder: Annotated[Path, typer.Argument(help="Where to write it.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Write an example's data, code, policies and job into a folder. Needs scikit-learn.

    Example: `svetovid example breast-cancer .`
    """
    from svetovid.cli.example_files import write_example

    written = write_example(name, folder)
    emit(
        {"example": name, "files": [str(p) for p in written]},
        [f"wrote {p}" for p in written],
        as_json,
    )
