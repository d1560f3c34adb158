"""The worker's command line."""

from __future__ import annotations

import argparse
import socket
import sys

from svetovid.errors import SvetovidError
from svetovid.offload.links.channel import Channel
from svetovid.offload.wire import Limits

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run a worker until it is left alone: its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m svetovid.offload.worker",
        description="Multiply masked tensors for a trusted side.",
    )
    parser.add_argument("--socket", type=int, metavar="FD", help="a connected Unix socket")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda:N (default: cpu)")
    parser.add_argument("--threads", type=int, default=1, help="of the processor (default: 1)")
    given = parser.parse_args(arguments)
    try:
        return _run(given)
    except SvetovidError as e:
        print(f"svetovid worker: {e}", file=sys.stderr)  # noqa: T201
        return e.exit_code


def _run(given: argparse.Namespace) -> int:
    import torch

    from svetovid.offload.worker.engine import Engine
    from svetovid.offload.worker.session import serve

    torch.set_num_threads(given.threads)
    engine = Engine(given.device, threads=given.threads)
    engine.test()
    channel = Channel(socket.socket(fileno=given.socket), descriptors=True)
    ended = serve(channel, engine, Limits())
    if ended.code != "worker.gone":
        print(f"svetovid worker: {ended}", file=sys.stderr)  # noqa: T201
    return 0
