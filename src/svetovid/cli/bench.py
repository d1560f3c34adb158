"""``svetovid bench``: run one of the checkout's benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from svetovid.cli.output import note, plain


def bench(
    name: Annotated[str, typer.Argument(help="A file of benchmarks/, without its ending.")],
    to: Annotated[
        Path | None, typer.Option("--json", help="File to write the figures to; - prints them.")
    ] = None,
) -> None:
    """Run a benchmark and print its figures; needs a checkout.

    Example: `svetovid bench seal --json seal.json`
    """
    from svetovid.cli.checkout import load_module

    result: dict[str, Any] = load_module("benchmarks", name).run()
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if to is None:
        for key, value in result.items():
            if isinstance(value, int | float | str):
                typer.echo(plain(f"{key}: {value}"))
    elif str(to) == "-":
        typer.echo(text, nl=False)
    else:
        to.write_text(text)
        note(f"written to {to}")
