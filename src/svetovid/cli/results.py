"""Files that a command was asked to write its result to: tried before the work, written after it.

What took an hour must not be lost to a folder that was never there.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from svetovid.cli.output import note

__all__ = ["try_place", "write_file", "write_result"]


def try_place(to: Path, option: str) -> None:
    """See that a file can be written at ``to``, which the user named with ``option``.

    Raises:
        HostError: ``file.write``.
    """
    from svetovid.crypto.private import unwritable

    try:
        if to.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not _is_stream(to):
            with TemporaryFile(dir=to.parent):
                pass
    except (OSError, ValueError) as e:
        raise unwritable(e, f"to write {to}", f"choose another file with {option}") from e


def write_result(to: Path, data: Mapping[str, Any], option: str = "--json") -> None:
    """Write ``data`` to ``to`` as JSON, as :func:`write_file` does."""
    write_file(to, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode(), option)


def write_file(to: Path, data: bytes, option: str) -> None:
    """Write ``data`` to ``to``, whole or not at all; devices and pipes are written into.

    Raises:
        HostError: ``file.write``.
    """
    from svetovid.crypto.private import unwritable, write_private

    try:
        if _is_stream(to):
            with to.open("wb") as f:
                f.write(data)
        else:
            write_private(to, data)
    except (OSError, ValueError) as e:
        raise unwritable(e, f"to write {to}", f"choose another file with {option}") from e
    note(f"written to {to}")


def _is_stream(to: Path) -> bool:
    return to.is_char_device() or to.is_fifo()
