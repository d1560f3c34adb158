"""No manager alone opens a job's checkpoints or says which is the newest (T1, T11)."""

from __future__ import annotations

import hashlib
import hmac
import shutil
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import httpx
import pytest

from agentworld import DATA, STEPS, House, World, trained
from svetovid.assets import Manifest, open_asset, seal_stream
from svetovid.crypto import Identity, ReceivingKey, Secret, canonical
from svetovid.errors import InputError, IntegrityError, SvetovidError
from svetovid.host import agent
from svetovid.host.heads import joint_key, newest_head
from svetovid.host.lease import HeldLease, boottime
from svetovid.host.link import ManagerLink
from svetovid.manager.registry import key_label
from svetovid.protocol.messages import Head, HeadUpdate, Release

Make = Callable[..., World]
JOB, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


# -- the key


def hkdf(ikm: bytes, info: bytes) -> bytes:
    """RFC 5869 for 32 bytes, by hand: extract without salt, expand by one block."""
    extracted = hmac.digest(bytes(32), ikm, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)


def test_t1_the_key_is_derived_from_every_managers_key() -> None:
    keys = {"ed25519:" + c * 64: Secret(c.encode() * 32) for c in "312"}
    names = sorted(keys)
    info = {"job": JOB, "label": "svetovid checkpoint key", "managers": names, "version": 1}
    made = joint_key(JOB, keys)
    assert made.reveal() == hkdf(b"1" * 32 + b"2" * 32 + b"3" * 32, canonical(info))
    assert joint_key(JOB, {m: keys[m] for m in names}) == made
    for name in names:
        rest = {m: k for m, k in keys.items() if m != name}
        for other in (rest, {**keys, name: Secret(bytes(32))}, {**rest, name + "0": keys[name]}):
            assert joint_key(JOB, other) != made
    assert joint_key(OTHER, keys) != made


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_t1_a_managers_part_has_one_length(length: int) -> None:
    with pytest.raises(IntegrityError) as e:
        joint_key(JOB, {"a": Secret(bytes(32)), "b": Secret(bytes(length))})
    assert e.value.code == "checkpoint.key"


LEAK = """
import time
content = session.content("data")
content.wait(len(content.buffer))
session.checkpoint(bytes(content.buffer))
answer(1)
"""


def part(house: House, job: str) -> Secret:
    """What a manager's administrator has of the key of a job's checkpoints."""
    core = house.manager._core
    owner, sealed = core.store.key("checkpoint", job)
    return core.root.open(sealed, key_label("checkpoint", job, owner))


def test_t1_no_manager_alone_opens_a_checkpoint(make: Make) -> None:
    """T1, T11: a checkpoint holds Alice's rows, and Carol's manager never had Alice's key."""
    world = make(houses=2, script=LEAK)
    copy = world.folder / "copy"
    copy.mkdir()

    def thief(request: httpx.Request) -> None:
        if request.url.path == "/v1/heads":
            for path in world.out.glob("train.checkpoint.*"):
                shutil.copy(path, copy)

    world.code_house.gate.tap = thief
    world.run()
    url = f"file://{copy}/train.checkpoint.1"
    manifest = Manifest.parse((copy / "train.checkpoint.1.manifest.json").read_bytes())

    def opened(key: Secret) -> bytes:
        with open_asset(url, manifest, key, expected=manifest.digest()) as reader:
            return reader.read_at(0, reader.size)

    job = world.job.digest()
    parts = {house.key: part(house, job) for house in world.all_houses}
    assert DATA.tobytes() in opened(joint_key(job, parts))  # the search would find what is there
    for name, mine in parts.items():
        for key in (mine, joint_key(job, {name: mine}), joint_key(job, dict.fromkeys(parts, mine))):
            with pytest.raises(IntegrityError) as e:
                opened(key)
            assert e.value.code == "asset.key"


# -- the head


def head(sequence: int, branch: str = "", *, job: str = JOB, before: str | None = None) -> Head:
    def name(n: int, of: str) -> str:
        return "sha256:" + hashlib.sha256(f"{of}{n}".encode()).hexdigest()

    after = branch if before is None else before
    return Head(
        job=job,
        sequence=sequence,
        checkpoint=name(sequence, branch),
        predecessor=name(sequence - 1, after) if sequence > 1 else None,
    )


@pytest.mark.parametrize(
    ("heads", "newest"),
    [
        ([None, None], None),
        ([head(1), None], head(1)),
        ([None, head(1)], head(1)),
        ([head(7), head(7)], head(7)),
        ([head(7), head(8)], head(8)),
        ([head(8), head(8), head(7)], head(8)),
        ([head(8), head(7), head(7)], head(8)),
    ],
)
def test_t11_the_newest_head_is_resumed_from(heads: list[Head | None], newest: Head | None) -> None:
    assert newest_head(JOB, {f"m{i}": h for i, h in enumerate(heads)}) == newest


@pytest.mark.parametrize(
    "heads",
    [
        [head(8), head(6)],
        [head(2), None],
        [head(8), head(8, "fork")],
        [head(8), head(7, "fork")],
        [head(8), head(8), head(6)],
        [head(8), head(7), head(6)],
        [head(8), head(7), head(7, "fork")],
        [head(8), head(7, job=OTHER)],
        [head(8, job=OTHER), head(7, job=OTHER)],
        [head(1, job=OTHER), None],
        [head(1).model_copy(update={"predecessor": OTHER}), None],
        [head(1), head(2).model_copy(update={"predecessor": None})],
    ],
)
def test_t11_heads_that_no_crash_explains_are_refused(heads: list[Head | None]) -> None:
    for order in (heads, heads[::-1]):
        with pytest.raises(IntegrityError) as e:
            newest_head(JOB, {f"m{i}": h for i, h in enumerate(order)})
        assert e.value.code == "checkpoint.heads"


class Pacing:
    """A manager that records a head once it was asked three times."""

    def __init__(self, code: str) -> None:
        self.manager = Identity.generate("manager").key_id
        self.asked = 0
        self._code = code

    def record_head(self, update: HeadUpdate, _signer: Any) -> Head:
        self.asked += 1
        if self.asked < 3:
            raise InputError(self._code)
        return head(update.sequence)


def record(client: Any, stop: threading.Event) -> None:
    host = Identity.generate("host")
    job: Any = None
    link = ManagerLink(client, JOB, job, ReceivingKey.generate(), host.key_id, job)
    link._held, link._stop = HeldLease(JOB, boottime(), 60, 20), stop
    link.record_head(head(1), host)


def test_t11_a_manager_that_asks_to_wait_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """D1: a job that saves faster than its checkpoints may be recorded is slowed down to that."""
    monkeypatch.setattr("svetovid.host.link._RETRY_S", 0.01)
    patient, full, over = Pacing("checkpoint.rate"), Pacing("store.quota"), threading.Event()
    record(patient, over)
    assert patient.asked == 3
    with pytest.raises(InputError) as e:
        record(full, over)
    assert (e.value.code, full.asked) == ("store.quota", 1)
    over.set()
    with pytest.raises(SvetovidError):
        record(Pacing("checkpoint.rate"), over)


# -- two managers of one job


class _CrashError(BaseException):
    """Nobody handles it, like kill -9; leases are left to run out."""


def crash(world: World, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Run until ``after`` updates of heads were answered in all, then fall over at the next."""
    told = [0]

    def count(request: httpx.Request) -> None:
        if request.url.path == "/v1/heads":
            if told[0] == after:
                raise _CrashError
            told[0] += 1

    with monkeypatch.context() as m:
        m.setattr("svetovid.host.agent._Run._give_back", lambda *_: None)
        for house in world.all_houses:
            m.setattr(house.gate, "tap", count)
        with pytest.raises(_CrashError):
            world.run()
    for house in world.all_houses:
        house.ahead += world.lease_s + 1  # the crashed instance's lease runs out


def in_order(world: World) -> list[House]:
    return sorted(world.all_houses, key=lambda house: house.key)


def sequences(world: World) -> list[int]:
    """The newest checkpoint at each manager, in the order in which they are told."""
    heads = [h.client(world.carol).job(world.job.digest()).head for h in in_order(world)]
    return [0 if h is None else h.sequence for h in heads]


def recorded(world: World, house: House) -> list[int]:
    entries = [r.entry for r in house.client(world.carol).records().records]
    heads = [e.body["head"] for e in entries if e is not None and e.kind == "head"]
    return [h["sequence"] for h in heads if isinstance(h, Mapping)]


@pytest.mark.parametrize(("after", "left"), [(1, [1, 0]), (5, [3, 2])])
def test_t11_a_crash_between_two_managers_is_resumed_to_the_same_end(
    make: Make, monkeypatch: pytest.MonkeyPatch, after: int, left: list[int]
) -> None:
    world = make(houses=2)
    crash(world, monkeypatch, after)
    assert sequences(world) == left
    outcome = world.run()
    assert world.answer(outcome) == trained()
    for house in world.all_houses:
        assert recorded(world, house) == list(range(1, STEPS + 1))  # each step once: no fork
        assert world.verify(world.bundle_of(outcome, house), house).resumes == 1
    assert not list(world.out.glob("*.checkpoint*"))


def test_t11_a_crash_while_the_other_manager_catches_up(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(houses=2)
    crash(world, monkeypatch, 5)
    for after in (0, 1):  # before the first and before the second manager was told again
        crash(world, monkeypatch, after)
        assert sequences(world) == [3, 2]
    assert world.answer(world.run()) == trained()
    assert sequences(world) == [STEPS, STEPS]


def say(
    monkeypatch: pytest.MonkeyPatch, house: House, told: Callable[[Head | None], Head | None]
) -> None:
    """A manager whose releases name another head than it recorded."""
    release = agent.ManagerClient.release

    def lying(self: Any, evidence: Any) -> Release:
        answer = release(self, evidence)
        if self.manager != house.key:
            return answer
        return answer.model_copy(update={"head": told(answer.head)})

    monkeypatch.setattr(agent.ManagerClient, "release", lying)


def refused(world: World) -> SvetovidError:
    with pytest.raises(SvetovidError) as e:
        world.run()
    return e.value


def test_t11_one_manager_cannot_turn_a_job_back(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T11: with the operator's help, who kept every checkpoint that was ever written."""
    world = make(houses=2)
    heads: dict[int, Head] = {}
    record = agent.ManagerLink.record_head

    def keep(self: Any, head: Head, signer: Any) -> None:
        heads[head.sequence] = head
        record(self, head, signer)

    with monkeypatch.context() as m:
        m.setattr(agent.ManagerLink, "record_head", keep)
        m.setattr("svetovid.host.checkpoints.discard", lambda _: None)
        crash(world, m, 8)
    assert sequences(world) == [4, 4]
    assert all((world.out / f"train.checkpoint.{n}").exists() for n in (2, 3, 4))
    first, second = in_order(world)
    fork = heads[4].model_copy(update={"checkpoint": OTHER})
    for liar, older in ((first, None), (second, heads[1]), (first, heads[2]), (second, fork)):
        with monkeypatch.context() as m:
            say(m, liar, lambda _, older=older: older)
            assert refused(world).code == "checkpoint.heads"
    say(monkeypatch, first, lambda _: heads[3])
    assert world.answer(world.run()) == trained()
    for house in world.all_houses:  # from the fourth, which the other manager knows
        assert recorded(world, house) == list(range(1, STEPS + 1))


def test_t11_one_manager_cannot_make_up_a_newer_checkpoint(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T11: its key alone seals none; and the other manager does not hear of it."""
    world = make(houses=2)
    crash(world, monkeypatch, 8)
    job = world.job.digest()

    def made_up(house: House, newest: Head | None) -> Head:
        assert newest is not None
        place = world.out / "train.checkpoint.5"
        for path in world.out.glob("train.checkpoint.5*"):
            path.unlink()
        manifest, _ = seal_stream(
            place.as_uri(),
            [b"anything"],
            kind="checkpoint",
            name="train",
            owner=world.job.proposer,
            manager=world.job.code.manager,
            version=5,
            predecessor=newest.checkpoint,
            key=joint_key(job, {house.key: part(house, job)}),
        )
        return Head(
            job=job, sequence=5, checkpoint=manifest.digest(), predecessor=newest.checkpoint
        )

    for house in world.all_houses:
        with monkeypatch.context() as m:
            say(m, house, partial(made_up, house))
            assert refused(world).code == "asset.key"
        assert sequences(world) == [4, 4]


def test_t11_a_manager_that_records_another_head_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(houses=2)
    record = agent.ManagerClient.record_head
    liar = in_order(world)[1].key

    def other(self: Any, update: Any, signer: Any) -> Head:
        answer = record(self, update, signer)
        return answer.model_copy(update={"checkpoint": OTHER}) if self.manager == liar else answer

    monkeypatch.setattr(agent.ManagerClient, "record_head", other)
    assert refused(world).code == "checkpoint.recorded"
    assert (world.out / "train.checkpoint.1").exists()
