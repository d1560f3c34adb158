"""``svetovid manager``: serve one, stop it, pin one, have the one that is pinned prove itself."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svetovid.cli.options import AsJson, HomeOption, ManagerHomeOption, passphrase
from svetovid.cli.output import emit, note
from svetovid.errors import InputError

if TYPE_CHECKING:
    from svetovid.protocol import ManagerDemand

group = typer.Typer(
    help="The service that holds keys and decides.",
    epilog="Whoever runs a manager: `serve`, `admit`, `stop`. Whoever trusts one: `pin`, `verify`; "
    "both: `references`.",
    no_args_is_help=True,
)

Background = Annotated[
    bool, typer.Option("--background", help="Return as soon as the manager answers.")
]


Anchors = Annotated[
    Path | None, typer.Option("--anchors", help="Trust anchors you choose to believe.")
]
References = Annotated[
    list[Path] | None, typer.Option("--references", help="Reference values you choose to believe.")
]


@group.command()
def pin(
    file: Annotated[Path, typer.Argument(help="manager.json, got from the manager by hand.")],
    home: HomeOption,
    require_evidence: Annotated[
        bool,
        typer.Option(
            "--require-evidence",
            help="From now on upload no key unless the manager proves what it runs.",
        ),
    ] = False,
    trust_unproven: Annotated[
        bool, typer.Option("--trust-unproven", help="Give up what was required before.")
    ] = False,
    anchors: Anchors = None,
    references: References = None,
    as_json: AsJson = False,
) -> None:
    """Pin the manager that may hold this home's keys. It is never taken from the network.

    With --require-evidence, --anchors and --references say by what its evidence is judged. That
    stays so when the manager is pinned again.

    Example: `svetovid manager pin manager.json --home alice`
    """
    from svetovid import stakeholder

    if (require_evidence and trust_unproven) or (require_evidence != bool(anchors)):
        raise InputError(
            "manager.demand",
            expected="--require-evidence with --anchors and --references, or --trust-unproven",
            observed="something is missing, or both are given",
            next_step="svetovid manager pin --help",
        )
    demand = _demand(anchors, references)
    who = stakeholder.load(home, passphrase(home))
    pinned = stakeholder.pin_manager(who, file, demand=demand, trust_unproven=trust_unproven)
    key, required = pinned.open().signing, pinned.require_evidence is not None
    emit(
        {
            "manager": key,
            "url": pinned.url,
            "verdict": "manager: trusted, unproven",
            "require_evidence": required,
        },
        [
            f"pinned  {key}",
            f"at      {pinned.url}",
            "manager: trusted, unproven",
            *(["it must prove what it runs before it gets a key"] if required else []),
        ],
        as_json,
    )


@group.command()
def verify(
    home: HomeOption,
    anchors: Anchors = None,
    references: References = None,
    as_json: AsJson = False,
) -> None:
    """Check that the pinned manager answers, and have it prove what it runs, before a key is sent.

    With --anchors and --references, or where the pin requires it, the manager's TPM quotes what it
    runs, and that is judged by these documents. Exit code 3 where it does not hold.

    Example: `svetovid manager verify --home alice --anchors vendors.json --references manager.json`
    """
    from svetovid import stakeholder

    demand = _demand(anchors, references)
    claims = stakeholder.verify_manager(stakeholder.load(home, passphrase(home)), demand)
    proof = claims.proof
    rows = [
        ("key", claims.key),
        ("channel", claims.channel),
        ("root key", claims.status.root_key),
        ("store rollback", claims.status.store_rollback),
        ("log entries", str(claims.status.entries)),
        *((c.name, c.observed) for c in (proof.claims if proof is not None else ())),
    ]
    emit(
        {
            "verdict": claims.verdict,
            "proven": proof is not None,
            "why": claims.why,
            "key": claims.key,
            "channel": claims.channel,
            "status": claims.status.to_json(),
            "claims": [] if proof is None else [asdict(c) for c in proof.claims],
        },
        [
            claims.verdict,
            *([f"  {claims.why}"] if claims.why else []),
            *(f"{label:<19}{value}" for label, value in rows),
        ],
        as_json,
    )


def _demand(anchors: Path | None, references: list[Path] | None) -> ManagerDemand | None:
    """Both or neither."""
    from svetovid.stakeholder.pins import read_demand

    if bool(anchors) != bool(references):
        raise InputError(
            "manager.demand",
            expected="both --anchors and --references, or neither",
            observed="one of them",
            next_step="give the trust anchors and the reference values that you choose to believe",
        )
    return None if anchors is None else read_demand(anchors, references or [])


@group.command("references")
def make_references(
    product: Annotated[str, typer.Option("--product", help="What the document is called.")],
    out: Annotated[Path, typer.Option("--out", help="File to write.")],
    version: Annotated[int, typer.Option("--version", help="Its number; it only rises.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Make reference values of a manager: every file it can load, as this installation has them.

    Run it where the manager runs, or on another machine with the same image, whose files you trust.

    Example: `svetovid manager references --product manager --out manager.references.json`
    """
    from svetovid import stakeholder
    from svetovid.host.runtime.own import manager_values

    document = manager_values(product, version)
    stakeholder.write_public(out, document)
    emit(
        {"document": document.digest(), "file": str(out), "files": len(document.files)},
        [f"{out}: {document.digest()}, {len(document.files)} files"],
        as_json,
    )


@group.command()
def serve(
    home: ManagerHomeOption,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port", min=0, max=65535, help="Port; 0 is the one it had last, or a free one."
        ),
    ] = 0,
    tpm: Annotated[
        str | None,
        typer.Option(
            "--tpm",
            help="Keep the root key in this TPM: device:/dev/tpmrm0; or, protecting nothing, "
            "libtpms:STATEFILE, swtpm:unix:PATH, swtpm:tcp:HOST:PORT.",
        ),
    ] = None,
    evidence: Annotated[
        bool,
        typer.Option(help="Let that TPM prove what this manager runs, where it has a certificate."),
    ] = True,
    background: Background = False,
    as_json: AsJson = False,
) -> None:
    """Start a manager; its first start makes its keys, its certificate and manager.json.

    Its root key is sealed under a passphrase, or with --tpm by a TPM, whose counter also shows
    when an older copy of the store is put in place. Such a manager also measures its own files into
    PCR 10 and proves them to whoever asks: one TPM serves one manager or one host.

    Example: `svetovid manager serve --home manager --background`
    """
    from svetovid.cli.service import serve_here, start_in_background

    secret = None if tpm else passphrase(home, confirm=not (home / "manager.json").exists())
    if not background:
        note(f"manager in {home}; give {home / 'manager.json'} to those who will trust it")
        serve_here(home, secret, host, port, tpm, evidence=evidence)
        return
    started = start_in_background(home, secret, host, port, tpm, evidence=evidence)
    emit(
        {"pid": started.pid, "url": started.url, "pin": str(home / "manager.json")},
        [
            f"manager at {started.url}, process {started.pid}",
            f"give {home / 'manager.json'} to those who will trust it, by a way they trust",
        ],
        as_json,
    )


@group.command()
def admit(
    home: ManagerHomeOption,
    cards: Annotated[
        list[Path] | None, typer.Argument(help="Cards of those who may always register.")
    ] = None,
    strangers: Annotated[
        int | None,
        typer.Option("--strangers", min=0, max=10_000, help="Room for others; 0 for nobody."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say who may register with a manager, and show who that is; it takes effect at once.

    Whoever is admitted may always register, and may keep more here. This is about the disk's room
    only: no key, policy or release depends on it.

    Example: `svetovid manager admit public/alice.card.json --strangers 0 --home manager`
    """
    from svetovid import stakeholder
    from svetovid.manager import admit as let_in
    from svetovid.manager import door_of

    door = door_of(home)()
    if cards or strangers is not None:
        door = let_in(home, [stakeholder.read_card(card) for card in cards or []], strangers)
    emit(
        {"admitted": {a.key: a.name for a in door.admitted}, "strangers": door.strangers},
        [
            *(f"admitted   {a.key}  {a.name}" for a in door.admitted),
            f"strangers  room for {door.strangers}",
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
