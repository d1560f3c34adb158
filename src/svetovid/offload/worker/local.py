"""A worker of the process that started it, over a Unix socket that it inherits.

On a network workers are served by ``svetovid worker serve``.
"""

from __future__ import annotations

import argparse
import socket
import sys

from svetovid.errors import SvetovidError
from svetovid.offload.links.channel import Channel
from svetovid.offload.wire import Limits

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run a worker until its socket is closed.

    Returns:
        The exit status.
    """
    given = _parser().parse_args(arguments)
    try:
        _run(given)
    except SvetovidError as e:
        print(f"svetovid worker: {e}", file=sys.stderr)  # noqa: T201
        return e.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m svetovid.offload.worker",
        description="Multiply masked tensors for the process that started this one.",
        epilog="On a network: svetovid worker serve --help",
    )
    parser.add_argument("--socket", type=int, metavar="FD", required=True, help="inherited")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda:N (default: cpu)")
    parser.add_argument("--threads", type=int, default=1, help="of the processor (default: 1)")
    return parser


def _run(given: argparse.Namespace) -> None:
    from svetovid.offload.worker.engine import ready
    from svetovid.offload.worker.session import serve

    engine = ready(given.device, given.threads)
    channel = Channel(socket.socket(fileno=given.socket), descriptors=True)
    why = serve(channel, engine, Limits())
    if why.code != "worker.gone":
        print(f"svetovid worker: a connection ended: {why}", file=sys.stderr)  # noqa: T201
