"""``svetovid host attest``: prove a host all the time."""

from __future__ import annotations

from typing import Annotated

import typer

from svetovid.cli.options import AsJson, HostHomeOption, PinsOption, passphrase, read_pins
from svetovid.cli.output import emit


def attest(
    home: HostHomeOption,
    manager: PinsOption = None,
    once: Annotated[
        bool, typer.Option("--once", help="Push once to each manager, and end.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Prove this host to its managers at their interval, until it is told to stop (Ctrl-C).

    A host that goes bad loses its leases at its next push, and the process that runs the job here
    is ended. With --json each push is a line of its own. With --once, exit code 3 where one is
    refused or costs a lease, and 5 where a manager cannot be reached.

    Example: `svetovid host attest --home host --manager manager.json`
    """
    import signal
    import threading
    from dataclasses import asdict

    from svetovid.host import Push, attest_host

    pins = read_pins(manager or [])
    stop = threading.Event()
    heard: dict[str, Push] = {}

    def tell(push: Push) -> None:
        changed = heard.get(push.manager) != push
        heard[push.manager] = push
        if as_json or changed:
            why = f"  {', '.join(push.codes)}" if push.codes else ""
            lines = [f"{push.standing:<8} {push.manager}{why}"]
            lines += [f"lost     {lease}" for lease in push.lost]
            emit(asdict(push), lines, as_json)
        if once and len(heard) == len(pins):
            stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    attest_host(home, pins, passphrase(home), stop=stop, on_push=tell)
    if once and any(p.standing == "refused" or p.lost for p in heard.values()):
        raise typer.Exit(3)
    if once and any(p.standing == "unheard" for p in heard.values()):
        raise typer.Exit(5)
