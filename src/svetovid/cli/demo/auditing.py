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
    """Look for plaintext and keys in all that lies about, and on the wire.

    That is the whole folder of the play but for the owners' own homes; of those, whether the
    operator could open them.
    """
    assert story.tap is not None
    story.tap.flush()
    folder = story.stage.folder
    needles = [n for what, data in story.secrets.items() for n in needles_of(what, data)]
    needles += [n for name in OWNERS for n in _keys_of(story, name)]
    planted = folder / "planted"
    planted.write_bytes(b"-" * 100 + needles[0].data)
    found = search([folder], needles, skip={story.cast[name].home for name in OWNERS})
    planted.unlink()
    story.findings.canary = {
        "needles": len(needles),
        "wire_bytes": story.tap.bytes_seen,
        "hits": [f"{h.what} in {h.where}" for h in found if h.where != str(planted)],
        "planted_found": any(h.where == str(planted) for h in found),
        "open": _open_to_operator(story),
    }
    story.say(f"{len(needles)} secrets looked for everywhere but in their owners' own homes")


def _open_to_operator(story: Story) -> list[str]:
    """What of the owners' own another could open: by mode, and where each has one by uid."""
    found = []
    for party in map(story.cast.__getitem__, OWNERS):
        for path in (party.home, party.passphrase_file):
            status = path.stat()
            if status.st_mode & 0o077 or party.uid not in (None, status.st_uid):
                found.append(str(path))
    uids = [party.uid for party in story.cast.parties.values() if party.uid is not None]
    return found if len(set(uids)) == len(uids) else [*found, "two parties with one uid"]


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
