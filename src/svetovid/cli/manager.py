"""``svetovid manager``: serve one, stop it, pin one, look at the one that is pinned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from svetovid.cli.options import AsJson, HomeOption, ManagerHomeOption, passphrase
from svetovid.cli.output import emit, note

group = typer.Typer(
    help="The service that holds keys and decides.",
    epilog="Whoever runs a manager: `serve`, `stop`. Whoever trusts one: `pin`, `verify`.",
    no_args_is_help=True,
)

Background = Annotated[
    bool, typer.Option("--background", help="Return as soon as the manager answers.")
]


@group.command()
def pin(
    file: Annotated[Path, typer.Argument(help="manager.json, got from the manager by hand.")],
    home: HomeOption,
    as_json: AsJson = False,
) -> None:
    """Pin the manager that may hold this home's keys. It is never taken from the network.

    Example: `svetovid manager pin manager.json --home alice`
    """
    from svetovid import stakeholder

    who = stakeholder.load(home, passphrase(home))
    pinned = stakeholder.pin_manager(who, file)
    key = pinned.open().signing
    emit(
        {"manager": key, "url": pinned.url, "verdict": "manager: trusted, unproven"},
        [f"pinned  {key}", f"at      {pinned.url}", "manager: trusted, unproven"],
        as_json,
    )


@group.command()
def verify(home: HomeOption, as_json: AsJson = False) -> None:
    """Check that the pinned manager answers, and show what it can prove, before a key is sent.

    Example: `svetovid manager verify --home alice`
    """
    from svetovid import stakeholder

    claims = stakeholder.verify_manager(stakeholder.load(home, passphrase(home)))
    said = claims.status.to_json()
    emit(
        {"verdict": claims.verdict, "key": claims.key, "channel": claims.channel, "status": said},
        [
            claims.verdict,
            f"key             {claims.key}",
            f"channel         {claims.channel}",
            f"root key        {claims.status.root_key}",
            f"store rollback  {claims.status.store_rollback}",
            f"log entries     {claims.status.entries}",
        ],
        as_json,
    )


@group.command()
def serve(
    home: ManagerHomeOption,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port; 0 takes a free one.")] = 0,
    tpm: Annotated[
        str | None,
        typer.Option("--tpm", help="Keep the root key in this TPM: device:/dev/tpmrm0, …"),
    ] = None,
    background: Background = False,
    as_json: AsJson = False,
) -> None:
    """Start a manager; its first start makes its keys, its certificate and manager.json.

    Its root key is sealed under a passphrase, or with --tpm by a TPM, whose counter also shows
    when an older copy of the store is put in place.

    Example: `svetovid manager serve --home manager --background`
    """
    from svetovid.cli.service import serve_here, start_in_background

    secret = None if tpm else passphrase(home, confirm=not (home / "manager.json").exists())
    if not background:
        note(f"manager in {home}; give {home / 'manager.json'} to those who will trust it")
        serve_here(home, secret, host, port, tpm)
        return
    started = start_in_background(home, secret, host, port, tpm)
    emit(
        {"pid": started.pid, "url": started.url, "pin": str(home / "manager.json")},
        [
            f"manager at {started.url}, process {started.pid}",
            f"give {home / 'manager.json'} to those who will trust it, by a way they trust",
        ],
        as_json,
    )


@group.command()
def stop(home: ManagerHomeOption, as_json: AsJson = False) -> None:
    """Stop a manager that was started with --background.

    Example: `svetovid manager stop --home manager`
    """
    from svetovid.cli.service import stop_background

    pid = stop_background(home)
    emit({"stopped": pid}, [f"stopped process {pid}"], as_json)
