"""Files and folders that nobody else may read."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

from svetovid.errors import HostError, InputError

__all__ = ["check_private", "unwritable", "write_private"]


def check_private(folder: Path) -> None:
    """Refuse a folder that is a link, another uid's, or open to others.

    Raises:
        InputError: ``home.folder``, ``home.mode``.
        OSError: where it cannot be looked at.
    """
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise InputError(
            "home.folder",
            expected="a folder of one's own, no link",
            observed=str(folder),
            next_step="choose another --home",
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise InputError(
            "home.mode",
            expected="mode 0700",
            observed=oct(stat.S_IMODE(status.st_mode)),
            next_step=f"chmod 700 {folder}",
        )


def write_private(
    path: Path, data: bytes | Iterable[bytes | memoryview], *, replace: bool = True
) -> None:
    """Write a file with mode 0600 that is there whole or not at all, even after a crash.

    Args:
        path: the file; its folder must exist.
        data: all of its content, in one piece or in many.
        replace: whether a file (or a link) that stands there gives way.

    Raises:
        InputError: ``file.exists`` where one stands and ``replace`` is false.
        HostError: ``file.write`` for a missing folder, a missing right or a full disk.
    """
    tmp = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(fd, "wb") as f:
                f.writelines([data] if isinstance(data, bytes) else data)
                f.flush()
                os.fsync(f.fileno())
            if replace:
                tmp.replace(path)
            else:
                path.hardlink_to(tmp)  # unlike a rename, this never takes an existing name
        finally:
            with contextlib.suppress(FileNotFoundError):
                tmp.unlink()
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError as e:
        raise InputError(
            "file.exists",
            expected="no file yet",
            observed=str(path),
            next_step="choose another name, or move the file away",
        ) from e
    except OSError as e:
        raise unwritable(
            e, f"to write {path}", "check that the folder exists, is yours and has room"
        ) from e


def unwritable(error: Exception, expected: str, next_step: str) -> HostError:
    """``file.write``: what the system said to a file or a folder that was to be made."""
    return HostError(
        "file.write",
        expected=expected,
        observed=getattr(error, "strerror", None) or type(error).__name__,
        next_step=next_step,
    )
