"""``svetovid policy``: check, publish, show, withdraw."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from svetovid.cli.options import (
    AnchorsOption,
    AsJson,
    HomeOption,
    PublicOption,
    ReferencesOption,
    passphrase,
)
from svetovid.cli.output import emit, note, table

group = typer.Typer(
    help="Who may use an asset, and under which conditions.",
    epilog="In order: `check`, then `svetovid share`, which seals an asset and publishes its "
    "policy; later `show` them, `publish` changed terms, or `withdraw` what was agreed to.",
    no_args_is_help=True,
)

PolicyFile = Annotated[Path, typer.Argument(help="The policy, in YAML.")]
AssetName = Annotated[
    str | None,
    typer.Option("--asset", help="$asset in it: an asset sealed in this home, its newest version."),
]


@group.command()
def check(
    file: PolicyFile,
    home: HomeOption,
    anchors: AnchorsOption = None,
    references: ReferencesOption = None,
    asset: AssetName = None,
    public: PublicOption = Path("public"),
    as_json: AsJson = False,
) -> None:
    """Lint a policy: what can never or always be true, unknown claims, grants that are too wide.

    $anchors and $references in it are the files given here, or those of the edition before; $asset
    may still have to be sealed. Exit code 3 where something found is an error. No passphrase is
    needed.

    Example: `svetovid policy check alice.yaml --home alice --anchors public/lab1.anchors.json
    --references public/lab1.references.json`
    """
    from svetovid import stakeholder

    names = stakeholder.read_names(public)
    choice = stakeholder.choose(
        stakeholder.Home(home),
        names,
        anchors=anchors or (),
        references=references or (),
        asset=asset,
    )
    found = stakeholder.check_policy(home, file, names, choice.digests)
    changed = stakeholder.changes(stakeholder.Home(home), found.policy)
    for line in stakeholder.describe_changes(changed, stakeholder.read_labels(home, public)):
        note(line)
    if not found.sealed:
        note("$asset is still to be sealed: this is what `svetovid share` will look at")
    table(
        ("level", "code", "where", "what"),
        [(f.severity, f.code, f.where, f.message) for f in found.findings]
        or [("ok", "", "", "no finding")],
        {
            "policy": found.policy.digest() if found.sealed else None,
            "changes": [asdict(change) for change in changed],
            "findings": [
                {"severity": f.severity, "code": f.code, "where": f.where, "message": f.message}
                for f in found.findings
            ],
        },
        as_json,
    )
    if any(f.severity == "error" for f in found.findings):
        raise typer.Exit(3)


@group.command()
def publish(
    file: PolicyFile,
    home: HomeOption,
    anchors: AnchorsOption = None,
    references: ReferencesOption = None,
    asset: AssetName = None,
    public: PublicOption = Path("public"),
    as_json: AsJson = False,
) -> None:
    """Sign a policy as its next edition and put it in force at the manager.

    $anchors, $references and $asset in it are what is given here, or what they were in the edition
    before: to change terms, the YAML is enough. Every other $name is what the public folder says
    now: what the edition changes is listed, and `policy check` lists it beforehand.

    Example: `svetovid policy publish alice.yaml --home alice`
    """
    from svetovid import stakeholder

    who = stakeholder.load(home, passphrase(home))
    names = stakeholder.read_names(public)
    choice = stakeholder.choose(
        who.home, names, anchors=anchors or (), references=references or (), asset=asset
    )
    policy = stakeholder.read_policy(who.home, file, names, chosen=choice.digests)
    changed = stakeholder.changes(who.home, policy)
    digest = stakeholder.publish_policy(who, policy, choice.documents)
    emit(
        {
            "policy": digest,
            "name": policy.name,
            "sequence": policy.sequence,
            "changes": [asdict(change) for change in changed],
        },
        [
            f"policy {policy.name}, edition {policy.sequence}: {digest}",
            *stakeholder.describe_changes(changed, stakeholder.read_labels(home, public)),
        ],
        as_json,
    )


@group.command()
def show(home: HomeOption, as_json: AsJson = False) -> None:
    """Show the newest edition of each policy that a home signed.

    Example: `svetovid policy show --home alice`
    """
    from svetovid import stakeholder

    policies = stakeholder.own_policies(stakeholder.load(home, passphrase(home)))
    table(
        ("name", "edition", "profile", "grants", "digest"),
        [(p.name, p.sequence, p.profile, len(p.grants), p.digest()) for p in policies],
        {"policies": [{"digest": p.digest(), "policy": p.to_json()} for p in policies]},
        as_json,
    )


@group.command()
def withdraw(
    name: Annotated[str, typer.Argument(help="The policy's name.")],
    home: HomeOption,
    as_json: AsJson = False,
) -> None:
    """End every consent given under a policy, by publishing it again as its next edition.

    Example: `svetovid policy withdraw alice-policy --home alice`
    """
    from svetovid import stakeholder

    digests = stakeholder.withdraw_consents(stakeholder.load(home, passphrase(home)), name)
    emit(
        {"policies": digests},
        [
            *(f"new edition {digest}" for digest in digests),
            "consents to jobs under the edition before no longer count",
        ],
        as_json,
    )
