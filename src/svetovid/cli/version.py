"""``svetovid version``, and ``svetovid --version``."""

from __future__ import annotations

import typer

from svetovid.cli.options import AsJson
from svetovid.cli.output import emit


def version(as_json: AsJson = False) -> None:
    """Print the version.

    Example: `svetovid version --json`
    """
    from importlib.metadata import version as installed

    number = installed("svetovid")
    emit({"svetovid": number}, [f"svetovid {number}"], as_json)


def print_version(asked: bool) -> None:
    """Callback of ``--version``: prints it, and ends the command."""
    if asked:
        version()
        raise typer.Exit
