"""``svetovid version``."""

from __future__ import annotations

from svetovid.cli.options import AsJson
from svetovid.cli.output import emit


def version(as_json: AsJson = False) -> None:
    """Print the version.

    Example: `svetovid version --json`
    """
    from importlib.metadata import version as installed

    number = installed("svetovid")
    emit({"svetovid": number}, [f"svetovid {number}"], as_json)
