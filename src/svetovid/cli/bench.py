"""``svetovid bench``: run one of the checkout's benchmarks."""

from __future__ import annotations

import contextlib
import importlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from svetovid.cli.output import note, plain
from svetovid.cli.results import try_place


def bench(
    name: Annotated[str, typer.Argument(help="A file of benchmarks/, without its ending.")],
    to: Annotated[
        Path | None, typer.Option("--json", help="File to write the figures to; - prints them.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only see that it works; the figures mean nothing.")
    ] = False,
) -> None:
    """Run a benchmark and print its figures; needs a checkout.

    Example: `svetovid bench seal --json seal.json`
    """
    from svetovid.cli.checkout import load_module

    if to is not None and str(to) != "-":
        # An hour of figures without a place to put them would be lost.
        with contextlib.suppress(OSError):
            to.parent.mkdir(parents=True, exist_ok=True)
        try_place(to, "--json")
    module = load_module("benchmarks", name)
    harness = importlib.import_module("benchmarks._harness")
    stamp = importlib.import_module("benchmarks._stamp")
    before = stamp.code(name)
    measured: dict[str, Any] = module.run(quick)
    result: dict[str, Any] = stamp.stamped(name, measured, quick=quick, before=before)
    if result["dirty"]:
        note("not to be committed: the tree differs from its commit, or did while this ran")
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if to is None:
        for key, value in result.items():
            if isinstance(value, int | float | str):
                typer.echo(plain(f"{key}: {value}"))
    elif str(to) == "-":
        typer.echo(text, nl=False)
    else:
        harness.write_json(to, result)
        note(f"written to {to}")
