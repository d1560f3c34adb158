"""Acts five and seven: receipts verified by a third party, and the search for what leaked."""

from __future__ import annotations

from svetovid import stakeholder
from svetovid.cli.demo.canary import Needle, key_needles, needles_of, search
from svetovid.cli.demo.cast import OWNERS
from svetovid.cli.demo.story import Story
from svetovid.crypto import keystore
from svetovid.stakeholder.keys import asset_key

__all__ = ["search_for_canaries", "verify_receipts"]


def verify_receipts(story: Story) -> None:
    """vera verifies each job's receipt with public files and her own clock alone."""
    for job in story.hosts:
        verdict = story.cast["vera"].run(
            "receipt", "verify", story.stage.storage / f"{job}.receipt.json",
            *story.believed(job), "--manager", story.pin,
        )  # fmt: skip
        story.findings.verdicts[job] = verdict["words"]
        story.say(f"receipt of {job}: " + " ".join(verdict["words"]))


def search_for_canaries(story: Story) -> None:
    """Look for plaintext and keys in all that the operator can read, and on the wire."""
    assert story.tap is not None
    story.tap.flush()
    stage = story.stage
    needles = [n for what, data in story.secrets.items() for n in needles_of(what, data)]
    needles += [n for name in OWNERS for n in _keys_of(story, name)]
    readable = [story.cast[n].home for n in ("olga", "lab", "tee", "manager")]
    roots = [*readable, stage.storage, stage.public, stage.folder / "wire.capture"]
    planted = stage.folder / "planted"
    planted.write_bytes(b"-" * 100 + needles[0].data)
    found = search(roots, needles)
    story.findings.canary = {
        "needles": len(needles),
        "wire_bytes": story.tap.bytes_seen,
        "hits": [f"{h.what} in {h.where}" for h in found],
        "planted_found": bool(search([planted], needles)),
    }
    planted.unlink()


def _keys_of(story: Story, name: str) -> list[Needle]:
    """Every asset key in a home, opened as its owner can."""
    home, secret = stakeholder.Home(story.cast[name].home), story.cast[name].passphrase()
    # Not stakeholder.load: where uids are separate this home is another's, and that refuses it.
    who = stakeholder.Stakeholder(home, keystore.load(home.identity, secret), secret)
    return [
        needle
        for path in sorted(home.keys.glob("*.json"))
        for needle in key_needles(
            f"an asset key of {name}", asset_key(who, f"sha256:{path.stem}").reveal()
        )
    ]
