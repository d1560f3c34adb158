"""Links to workers on this machine: headers over a Unix socket, numbers in shared memory."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable

from svetovid.offload.links.channel import Channel
from svetovid.offload.links.framed import FramedLink, Observer
from svetovid.offload.links.store import SharedStore

__all__ = ["linked", "started"]

_KEPT = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "PYTHONPATH", "TMPDIR")
"""Of the environment, what a worker gets: the rest may say what is trained."""
_LEAVES_S = 5.0


def linked(
    sock: socket.socket,
    *,
    identity: str,
    operator: str,
    timeout_s: float = 300.0,
    rest: int = 8 << 30,
    closed: Callable[[], None] = lambda: None,
    observer: Observer | None = None,
) -> FramedLink:
    """A link over a Unix socket that leads to a worker.

    Args:
        sock: connected; the link closes it.
        identity, operator: of the worker.
        timeout_s: for one message, the worker's computing included.
        rest: bytes of shared memory that are kept from one step to the next.
        closed: called once, after everything is closed.
        observer: is shown every frame.
    """
    return FramedLink(
        Channel(sock),
        SharedStore(rest),
        identity=identity,
        operator=operator,
        timeout_s=timeout_s,
        closed=closed,
        observer=observer,
    )


def started(
    *,
    identity: str,
    operator: str,
    device: str = "cpu",
    threads: int = 1,
    timeout_s: float = 300.0,
    start_s: float = 120.0,
    rest: int = 8 << 30,
    observer: Observer | None = None,
) -> FramedLink:
    """Start a worker in a process of its own, which ends with the link.

    Args:
        identity, operator, timeout_s, rest, observer: as of :func:`linked`.
        device: ``cpu``, or ``cuda:N``.
        threads: of the processor that it may use.
        start_s: until it answers, its test of itself included.

    Raises:
        TransportError: ``worker.silent``, ``worker.gone``: it did not come up; it says why itself.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "svetovid.offload.worker", f"--socket={theirs.fileno()}"]
        process = subprocess.Popen(
            [*command, f"--device={device}", f"--threads={threads}"],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
        )
    link = linked(
        ours,
        identity=identity,
        operator=operator,
        timeout_s=timeout_s,
        rest=rest,
        closed=lambda: _ended(process),
        observer=observer,
    )
    link.ping(start_s)
    return link


def _ended(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_LEAVES_S)
        return
    process.kill()
    process.wait()
