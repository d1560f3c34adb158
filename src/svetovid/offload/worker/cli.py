"""The worker's command line."""

from __future__ import annotations

import argparse
import socket
import sys
from pathlib import Path

from svetovid.errors import InputError, SvetovidError
from svetovid.offload.links.certificate import make_certificate
from svetovid.offload.links.channel import Channel
from svetovid.offload.wire import Limits
from svetovid.offload.worker.listener import Listener

__all__ = ["main"]

_EXAMPLE = """\
example:
  python -m svetovid.offload.worker --make-certificate worker.pem
  python -m svetovid.offload.worker --device cuda:0 --listen 0.0.0.0:7401 \\
    --certificate worker.pem --peer trusted.crt --pin sha256:5f1c...

The first writes worker.pem, which stays here, and worker.crt, which the trusted side needs, and
prints its pin. The second serves whoever shows the pinned certificate, one connection at a time.
"""
_IDLE_S = 3600.0


def main(arguments: list[str] | None = None) -> int:
    """Run a worker: until its socket is closed, or for as long as nobody stops it.

    Returns:
        The exit status.
    """
    given = _parser().parse_args(arguments)
    try:
        if given.make_certificate is not None:
            _say(make_certificate(given.make_certificate))
        else:
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
        description="Multiply masked tensors for a trusted side, and remember nothing of them.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument(
        "--make-certificate", type=Path, metavar="FILE", help="make one, print its pin"
    )
    way.add_argument("--socket", type=int, metavar="FD", help="serve a connected Unix socket")
    way.add_argument("--listen", metavar="HOST:PORT", help="serve connections of --peer, over TLS")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="own key and certificate")
    parser.add_argument("--peer", type=Path, metavar="FILE", help="the trusted side's certificate")
    parser.add_argument("--pin", metavar="sha256:...", help="its SHA-256")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda:N (default: cpu)")
    parser.add_argument("--threads", type=int, default=1, help="of the processor (default: 1)")
    parser.add_argument(
        "--numbers", type=int, default=Limits.numbers, help="that it holds (default: %(default)s)"
    )
    return parser


def _run(given: argparse.Namespace) -> None:
    host, port = _address(given)

    import torch

    from svetovid.offload.worker.engine import Engine
    from svetovid.offload.worker.session import serve

    torch.set_num_threads(given.threads)
    engine = Engine(given.device, threads=given.threads)
    engine.test()
    limits = Limits(numbers=given.numbers)
    if given.socket is not None:
        channel = Channel(socket.socket(fileno=given.socket), descriptors=True)
        _ended(serve(channel, engine, limits))
        return
    listener = Listener(host, port, own=given.certificate, peer=given.peer, identity=given.pin)
    _say(f"listening on port {listener.port}, on {given.device}")
    while True:
        _ended(serve(listener.accept(), engine, limits, idle_s=_IDLE_S))


def _address(given: argparse.Namespace) -> tuple[str, int]:
    if given.socket is not None:
        return "", 0
    host, _, port = given.listen.rpartition(":")
    if not (given.certificate and given.peer and given.pin and host and port.isdecimal()):
        raise InputError(
            "worker.arguments",
            expected="HOST:PORT with --listen, and --certificate, --peer and --pin",
            observed=f"--listen {given.listen}",
            next_step="see python -m svetovid.offload.worker --help",
        )
    return host.strip("[]"), int(port)


def _ended(why: SvetovidError) -> None:
    if why.code != "worker.gone":
        print(f"svetovid worker: a connection ended: {why}", file=sys.stderr)  # noqa: T201


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
