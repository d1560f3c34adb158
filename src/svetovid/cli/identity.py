"""``svetovid identity``: make, show, rotate, revoke."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from svetovid.cli.options import AsJson, HomeOption, PublicOption, passphrase
from svetovid.cli.output import emit

group = typer.Typer(
    help="Keys to sign and to receive with.",
    epilog="Once: `create`; `show` reads a card aloud. Now and then: `rotate`. When a key may be "
    "somebody else's as well: `revoke`.",
    no_args_is_help=True,
)

ManagerFile = Annotated[
    Path | None,
    typer.Option("--manager", help="The manager's pin (manager.json), got from it by hand."),
]


@group.command()
def create(
    names: Annotated[list[str], typer.Argument(help="One home a name is made.")],
    parent: Annotated[Path, typer.Option("--in", help="Folder to make the homes in.")] = Path(),
    public: PublicOption = Path("public"),
    manager: ManagerFile = None,
    as_json: AsJson = False,
) -> None:
    """Make an identity and its home, and put its card into the public folder.

    Example: `svetovid identity create alice --manager manager/manager.json`
    """
    from svetovid import stakeholder

    pin = None if manager is None else stakeholder.read_pin(manager)
    stakeholder.check_new(names, parent, public, pin=pin)
    secret = passphrase(", ".join(names), confirm=True)
    made = {}
    for name in names:
        who = stakeholder.create(parent / name, name, secret, pin=pin)
        stakeholder.publish_card(who, public)
        made[name] = {"home": str(who.home.path), "key": who.key_id}
    emit(
        {"identities": made},
        [f"{name}  {m['key']}  in {m['home']}" for name, m in made.items()],
        as_json,
    )


@group.command()
def show(home: HomeOption, as_json: AsJson = False) -> None:
    """Show who lives in a home; no passphrase is needed.

    Example: `svetovid identity show --home alice`
    """
    from svetovid import stakeholder

    card = stakeholder.read_card(home / "card.json")
    emit(
        {"name": card.name, "key": card.signing, "receiving": card.receiving},
        [f"name       {card.name}", f"signs as   {card.signing}"],
        as_json,
    )


@group.command()
def rotate(
    home: HomeOption, public: PublicOption = Path("public"), as_json: AsJson = False
) -> None:
    """Replace the keys; what was agreed with the old ones stays agreed and can be opened.

    Example: `svetovid identity rotate --home alice`
    """
    from svetovid import stakeholder

    before = stakeholder.load(home, passphrase(home))
    stakeholder.publish_card(before, public)  # where that fails, nothing is rotated
    after, sent = stakeholder.hand_over(before, int(time.time()))
    stakeholder.publish_card(after, public)
    emit(
        {"old": before.key_id, "new": after.key_id, "manager_told": sent},
        [
            f"old  {before.key_id}",
            f"new  {after.key_id}",
            "the manager knows"
            if sent
            else "no manager is pinned: tell nobody, or tell it by hand",
        ],
        as_json,
    )


@group.command()
def revoke(
    home: HomeOption,
    why: Annotated[str, typer.Option("--why", help="One line for the record.")],
    key: Annotated[
        str | None, typer.Option("--key", help="A key this identity had before; else its own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """End an identity for good, by revoking one of its keys at the manager.

    Nothing that any of its keys owns is released from then on. Where a key was only replaced in
    time, `rotate` is enough. If somebody else has rotated a stolen key, name that one with --key.

    Example: `svetovid identity revoke --home alice --why "laptop lost"`
    """
    from svetovid import stakeholder

    who = stakeholder.load(home, passphrase(home))
    revoked = stakeholder.revoke_key(who, key or who.key_id, why, int(time.time()))
    emit({"revoked": revoked}, [f"revoked  {revoked}"], as_json)
