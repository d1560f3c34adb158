"""Progress is an output like any other: sealed, of one length, at fixed intervals (T9)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from agentworld import PASSPHRASE, STEPS, World
from svetovid import stakeholder
from svetovid.crypto import ReceivingKey, Secret, canonical, keystore, seal, sign
from svetovid.errors import InputError, IntegrityError, ParseError, SvetovidError
from svetovid.host.progress import NOTE_BYTES, ProgressNotes
from svetovid.policy.outputs import Recipient
from svetovid.protocol.output import progress_context

Make = Callable[..., World]


@pytest.fixture
def world(make: Make) -> World:
    return make()


@pytest.fixture
def place(world: World) -> Path:
    return world.out / "p.json"


@pytest.fixture
def rita(world: World) -> stakeholder.Stakeholder:
    home = world.folder / "rita"
    home.mkdir(mode=0o700)
    keystore.save(world.rita, home / "identity.json", PASSPHRASE)
    return stakeholder.load(home, PASSPHRASE)


def written(world: World, place: Path, done: int, total: int) -> bytes:
    with ProgressNotes(world.job, f"file://{place}", interval_s=60) as notes:
        notes.note({"done": done, "total": total})
    return place.read_bytes()


def test_t9_every_note_has_one_length_and_no_counts_in_the_clear(world: World, place: Path) -> None:
    notes = [written(world, place, done, total) for done, total in ((0, 0), (7, 9), (2**50, 2**50))]
    assert len({len(n) for n in notes}) == 1
    assert len(set(notes)) == 3
    assert len(canonical({"done": 2**53 - 1, "total": 2**53 - 1})) < NOTE_BYTES
    assert all(set(json.loads(n)) == {"job", "notes"} for n in notes)


def test_t9_notes_come_at_fixed_intervals_whatever_happens(world: World, place: Path) -> None:
    seen: set[int] = set()
    with ProgressNotes(world.job, f"file://{place}", interval_s=0.05) as notes:
        for i in range(1000):
            notes.note({"done": i, "total": 1000})  # none of these is a write
        assert not place.exists()
        end = time.monotonic() + 5
        while len(seen) < 3 and time.monotonic() < end:  # and silence writes as well
            if place.exists():
                seen.add(place.stat().st_mtime_ns)
            time.sleep(0.01)
    assert len(seen) == 3


def test_t9_only_counts_are_taken(world: World, place: Path) -> None:
    notes = ProgressNotes(world.job, f"file://{place}")
    for event in ({"done": "secret", "total": 1}, {"done": 1}, {}, {"done": 1.5, "total": 2}):
        notes.note(event)
    assert notes._newest == (0, 0)


def test_t9_progress_opens_for_recipients_only(
    world: World, place: Path, rita: stakeholder.Stakeholder
) -> None:
    written(world, place, 3, 8)
    url = f"file://{place}"
    assert stakeholder.read_progress(rita, world.job, url) == (3, 8)
    (world.folder / "ann").mkdir(mode=0o700)
    keystore.save(world.alice, world.folder / "ann" / "identity.json", PASSPHRASE)
    ann = stakeholder.load(world.folder / "ann", PASSPHRASE)
    with pytest.raises(InputError) as e:
        stakeholder.read_progress(ann, world.job, url)
    assert e.value.code == "output.recipient"
    note = json.loads(place.read_bytes())["notes"][world.rita.key_id]
    with pytest.raises(IntegrityError) as e2:
        world.olga.receiving.open(
            note, progress_context(job=world.job.digest(), recipient=world.rita.key_id)
        )
    assert e2.value.code == "hpke.open"


def test_t9_every_recipient_has_a_note_of_its_own(world: World, place: Path) -> None:
    cards = tuple(Recipient(card=w.signed_card()) for w in (world.rita, world.alice))
    job = world.job.model_copy(update={"recipients": cards})
    with ProgressNotes(job, f"file://{place}"):
        pass
    assert set(json.loads(place.read_bytes())["notes"]) == {world.rita.key_id, world.alice.key_id}


def test_notes_of_another_job_or_run_together_are_refused(
    world: World, place: Path, rita: stakeholder.Stakeholder
) -> None:
    url = f"file://{place}"
    written(world, place, 3, 8)
    other = world.job.model_copy(update={"seed": 4})
    with pytest.raises(IntegrityError) as e:
        stakeholder.read_progress(rita, other, url)
    assert e.value.code == "progress.job"
    whole = json.loads(place.read_bytes())
    place.write_bytes(canonical({**whole, "job": other.digest()}))  # relabelled
    with pytest.raises(IntegrityError) as e:
        stakeholder.read_progress(rita, other, url)
    assert e.value.code == "hpke.open"
    place.unlink()
    with pytest.raises(InputError) as e2:
        stakeholder.read_progress(rita, world.job, url)
    assert e2.value.code == "asset.missing"


@pytest.mark.parametrize(
    "note", [b"", b"[]", b"{}", b'{"done":-1,"total":1}', b'{"done":true,"total":1}', b"\xff"]
)
def test_a_note_that_is_no_count_is_refused(
    world: World, place: Path, rita: stakeholder.Stakeholder, note: bytes
) -> None:
    """A host may seal anything to a recipient's public key."""
    name = world.rita.key_id
    context = progress_context(job=world.job.digest(), recipient=name)
    sealed = seal(Secret(note), world.rita.receiving.public, context)
    place.write_bytes(canonical({"job": world.job.digest(), "notes": {name: sealed}}))
    with pytest.raises(ParseError) as e:
        stakeholder.read_progress(rita, world.job, f"file://{place}")
    assert e.value.code == "progress.malformed"


def test_notes_cut_at_any_byte_are_our_errors(
    world: World, place: Path, rita: stakeholder.Stakeholder
) -> None:
    whole = written(world, place, 3, 8)
    bad = [whole[:n] for n in range(0, len(whole), 97)]
    bad += [b"[]", b'{"job":1,"notes":2}', b'{"job":1}', b"x" * (2 << 20)]
    bad += [canonical({"job": world.job.digest(), "notes": []})]
    bad += [canonical({"job": world.job.digest(), "notes": {}})]
    bad += [canonical({"job": world.job.digest(), "notes": {world.rita.key_id: [1]}})]
    for data in bad:
        place.write_bytes(data)
        with pytest.raises(SvetovidError):
            stakeholder.read_progress(rita, world.job, f"file://{place}")


def test_a_place_that_cannot_be_written_ends_nothing(make: Make, tmp_path: Path) -> None:
    world = make()
    with ProgressNotes(world.job, f"file://{tmp_path}/no/such/folder/p", interval_s=0.01):
        time.sleep(0.05)
    with ProgressNotes(world.job, "nonsense://x", interval_s=0.01):
        time.sleep(0.05)
    (world.out / "train.progress.json").mkdir()
    world.run()


def test_object_stores_take_notes_as_well(world: World) -> None:
    import fsspec

    with ProgressNotes(world.job, "memory://notes/p.json"):
        pass
    assert fsspec.filesystem("memory").cat("/notes/p.json").startswith(b'{"job"')


def test_a_recipient_watches_a_job_to_its_end(
    world: World, rita: stakeholder.Stakeholder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from svetovid.cli.job import group

    job = world.folder / "train.job.json"
    job.write_bytes(sign(world.job, world.carol).canonical())
    (world.folder / "pass").write_bytes(PASSPHRASE.reveal())
    (world.folder / "pass").chmod(0o600)
    monkeypatch.setenv("SVETOVID_PASSPHRASE_FILE", str(world.folder / "pass"))

    def watch(*more: str) -> dict[str, object]:
        arguments = ["watch", str(job), "--home", str(rita.home.path), "--outputs", str(world.out)]
        result = CliRunner().invoke(group, [*arguments, *more, "--json"], catch_exceptions=False)
        out: dict[str, object] = json.loads(result.stdout)
        return out

    before = watch("--once")
    assert (before["done"], before["total"], before["finished"]) == (0, 0, False)
    waited = SimpleNamespace(sleep=lambda _: world.run())  # what happens while it waits
    monkeypatch.setattr("svetovid.cli.watch.time", waited)
    after = watch()
    assert (after["done"], after["total"], after["finished"]) == (STEPS, STEPS, True)
    bar = CliRunner().invoke(
        group, ["watch", str(job), "--home", str(rita.home.path), "--outputs", str(world.out)]
    )
    assert f"{STEPS} of {STEPS} steps, finished" in bar.output
    assert ReceivingKey.__name__ not in bar.output
    (world.out / "train.progress.json").write_bytes(b"nonsense")
    with pytest.raises(ParseError):
        watch("--once")
