"""One job at a time, on a host and on each accelerator of its machine (T8).

A lock is flock(2) on a small file that says which process took it; a job's says as well which
managers it got its keys from. The kernel lets go of it when that process ends, however it ends, so
that no lock outlives a crash.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from svetovid.errors import HostError
from svetovid.host.waiting import readable

__all__ = ["end_job", "lone_job", "lone_user"]

_ORDERLY_S = 0.5
"""What a job's process has to end by itself: keys must be gone within a second."""

_LOOKING_S = 1.0
"""For how long a lock is asked for that others only look at, each for a moment."""

_MAX_PID = 20
"""Bytes of a process id that a lock's file may hold."""
_MAX_BYTES = 1 << 16


@contextlib.contextmanager
def lone_job(home: Path) -> Iterator[Callable[[Iterable[str]], None]]:
    """Hold the host in ``home`` for one job.

    Yields:
        What notes the managers that the job is about to ask for keys: :func:`end_job` ends it for
        these alone. Raises HostError ``host.lock`` where that cannot be written.

    Raises:
        HostError: ``host.busy`` while another process runs a job there; ``host.lock``.
    """
    path = home / "job.lock"
    fd = _open(path, 0o600)
    try:
        if not _lock(fd):
            raise HostError(
                "host.busy",
                expected="one job at a time on this host",
                observed=f"{_holder(fd)} runs a job in {home}",
                next_step="wait until that job has ended, or end that process",
            )
        yield lambda managers: _note(fd, path, managers)
    finally:
        os.close(fd)


@contextlib.contextmanager
def lone_user(device: str, name: str, folder: Path) -> Iterator[None]:
    """Hold an accelerator of this machine for one job, whichever home the job runs in.

    Args:
        device: what people call it.
        name: what all homes of this machine call it.
        folder: where all homes of this machine keep these locks.

    Raises:
        HostError: ``device.busy`` while another process holds it; ``host.lock``.
    """
    # Agents of other users lock the same file: each must be able to open it.
    fd = _open(folder / f"svetovid-{name}.lock", 0o666)
    try:
        if not _lock(fd):
            raise HostError(
                "device.busy",
                expected=f"{device} for one job alone",
                observed=f"{_holder(fd)} has it",
                next_step="wait until that job has ended, or run this one on another machine",
            )
        yield
    finally:
        os.close(fd)


def end_job(home: Path, manager: str) -> bool:
    """End the process that runs a job in ``home``: it is told, and killed a second later.

    Told, it clears what it lent and gives its leases back; its keys go with it either way.

    Args:
        home: the host's.
        manager: who says so: a job that has no key of this manager's goes on.

    Returns:
        Whether there was one.

    Raises:
        HostError: ``host.lock``.
    """
    fd = _open(home / "job.lock", 0o600)
    try:
        if not _held(fd):
            return False
        pid, *managers = _said(fd)
        if manager not in managers or not pid.isdigit() or int(pid) == os.getpid():
            return False
        try:
            process = os.pidfd_open(int(pid))
        except OSError:
            return False  # it has just ended by itself
        try:
            return _end(fd, process)
        finally:
            os.close(process)
    finally:
        os.close(fd)


def _end(lock: int, process: int) -> bool:
    # Still locked: the process that the descriptor names is the one that wrote its number there.
    if not _held(lock):
        return False
    try:
        signal.pidfd_send_signal(process, signal.SIGINT)
        if not readable(process, _ORDERLY_S):
            signal.pidfd_send_signal(process, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has just ended by itself
    except PermissionError:
        return False  # another user's: it ends with its lease
    return True


def _open(path: Path, mode: int) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        # Not with O_CREAT at once: in a sticky folder the kernel refuses that for others' files.
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags)
        try:
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:
            return os.open(path, flags)
        os.fchmod(fd, mode)
        return fd
    except OSError as e:
        raise _unusable(path, e) from e


def _unusable(path: Path, error: OSError) -> HostError:
    return HostError(
        "host.lock",
        expected=f"a lock at {path}",
        observed=error.strerror or "an input or output error",
        next_step="check that the folder is there and that the agent may write in it",
    )


def _lock(fd: int) -> bool:
    until = time.monotonic() + _LOOKING_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if _held(fd) or time.monotonic() > until:
                return False
            time.sleep(_LOOKING_S / 100)
    with contextlib.suppress(OSError):  # a full disk: the lock holds, and only its name is lost
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
    return True


def _held(fd: int) -> bool:
    """Whether somebody has the lock. Who looks shares it for a moment with whoever else looks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _note(fd: int, path: Path, managers: Iterable[str]) -> None:
    data = "\n".join([str(os.getpid()), *managers]).encode()
    try:
        if os.pwrite(fd, data, 0) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as e:
        raise _unusable(path, e) from e


def _said(fd: int) -> list[str]:
    return os.pread(fd, _MAX_BYTES, 0).decode("ascii", "replace").split("\n")


def _holder(fd: int) -> str:
    pid = _said(fd)[0]
    return f"process {pid}" if pid.isdigit() and len(pid) <= _MAX_PID else "another process"
