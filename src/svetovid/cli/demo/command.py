"""``svetovid demo``: the main job end to end, with everything it must refuse."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["demo"]


def demo(
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Keep everything here, to look at afterwards.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write the accuracies as SVG or PNG.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--json", help="File to write what was found to; - prints it.")
    ] = None,
) -> None:
    """Watch owners who do not trust each other train a model, and what is refused.

    Example: `svetovid demo --folder out/demo --plot out/demo.svg`
    """
    from dataclasses import asdict

    from svetovid.cli.demo.play import play

    begun = time.monotonic()
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="svetovid-demo-") as place:
            Path(place).chmod(0o755)
            result = play(Path(place) / "demo", plot)
    else:
        result = play(folder, plot)
    data: dict[str, Any] = asdict(result)
    data["total_s"] = round(time.monotonic() - begun, 1)
    data["main_job"] = "ok"
    text = json.dumps(data, indent=2, allow_nan=False) + "\n"
    if to is not None and str(to) != "-":
        to.write_text(text)
    typer.echo(text if str(to) == "-" else f"{data['total_s']} s\nmain job: ok", nl=str(to) != "-")
