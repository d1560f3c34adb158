"""``svetovid worker``: multiply masked numbers for others, without proving anything to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svetovid.cli.options import AsJson
from svetovid.cli.output import emit, note
from svetovid.errors import InputError

if TYPE_CHECKING:
    from svetovid.offload.worker.listener import Listener

group = typer.Typer(
    help="A machine that multiplies masked numbers for a job, and learns nothing of them.",
    epilog="Once: `create`, whose digest goes into jobs, with the machine's operator and address. "
    "Then `serve`.",
    no_args_is_help=True,
)

_IDLE_S = 3600.0
"""How long a host may say nothing before its connection is given up."""


@group.command()
def create(
    certificate: Annotated[Path, typer.Argument(help="File to write key and certificate to.")],
    as_json: AsJson = False,
) -> None:
    """Make a worker's key and certificate. A job names the digest: by it its host knows the worker.

    The file stays on this machine. Beside it stands the certificate alone, with the suffix .crt.

    Example: `svetovid worker create worker.pem`
    """
    from svetovid.offload.links import make_certificate

    shown = certificate.with_suffix(".crt")
    for path in (certificate, shown):
        if path.exists() or path.is_symlink() or shown == certificate:
            raise InputError(
                "worker.exists",
                expected="a new file, not named .crt, and none beside it that is",
                observed=path,
                next_step="name another: jobs know a worker by its certificate",
            )
    digest = make_certificate(certificate)
    emit(
        {"certificate": digest, "files": [str(certificate), str(shown)]},
        [f"certificate  {digest}", f"wrote        {certificate}", f"wrote        {shown}"],
        as_json,
    )


@group.command()
def serve(
    certificate: Annotated[Path, typer.Argument(help="What `worker create` wrote.")],
    host: Annotated[
        Path,
        typer.Option("--host", help="Certificate of the host that is served: NAME.link.crt."),
    ],
    listen: Annotated[str, typer.Option("--listen", help="HOST:PORT.")] = "127.0.0.1:7401",
    device: Annotated[str, typer.Option("--device", help="cpu, or cuda:N.")] = "cpu",
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="Of the processor, that it may use.")
    ] = 1,
    numbers: Annotated[
        int, typer.Option("--numbers", min=1, help="That it holds at once, of 4 bytes each.")
    ] = 1 << 30,
    as_json: AsJson = False,
) -> None:
    """Serve one host, one connection at a time, until it is interrupted.

    Nobody else gets a word in. What a connection brought is forgotten with it, and nothing is ever
    written to a disk.

    Example: `svetovid worker serve worker.pem --host lab1.link.crt --listen 0.0.0.0:7401
    --device cuda:0`
    """
    from svetovid.offload.links import fingerprint
    from svetovid.offload.worker.listener import Listener

    address, port = _address(listen)
    identity, shown = fingerprint(host), fingerprint(certificate)
    listener = Listener(address, port, own=certificate, peer=host, identity=identity)
    try:
        _serve(listener, device, threads, numbers, shown, as_json)
    finally:
        listener.close()


def _serve(
    listener: Listener, device: str, threads: int, numbers: int, shown: str, as_json: bool
) -> None:
    from svetovid.offload.recorder import Recorder
    from svetovid.offload.wire import Limits
    from svetovid.offload.worker.engine import ready
    from svetovid.offload.worker.session import serve as served

    engine = ready(device, threads)
    emit(
        {"certificate": shown, "device": device, "port": listener.port},
        [f"certificate  {shown}", f"listening    on port {listener.port}, on {device}"],
        as_json,
    )
    while True:
        seen = Recorder(keep=False)
        channel = listener.accept()
        why = served(channel, engine, Limits(numbers=numbers), idle_s=_IDLE_S, observer=seen)
        if why.code != "worker.gone":
            note(f"a connection ended: {why}")
        told = {
            "operands": seen.frames["operand"] + seen.frames["seed"],
            "products": seen.frames["work"],
            "received_bytes": sum(seen.sent_bytes.values()),
            "sent_bytes": sum(seen.received_bytes.values()),
        }
        lines = [f"{name.replace('_', ' '):<16}{count:,}" for name, count in told.items()]
        emit({"ended": why.code, **told}, lines, as_json)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (host and port.isdecimal() and port.isascii()):
        raise InputError(
            "worker.address",
            expected="HOST:PORT",
            observed=text,
            next_step="give --listen an address of this machine, and a port",
        )
    return host.strip("[]"), int(port)
