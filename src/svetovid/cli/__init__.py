"""The command line: one file a command group, all errors shown in one place."""

from svetovid.cli.main import main

__all__ = ["main"]
