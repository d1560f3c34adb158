"""What an agent refuses before anything runs, and what it gives back when it fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentworld import World, trained
from svetovid.crypto import Identity, sign
from svetovid.errors import (
    HostError,
    InputError,
    IntegrityError,
    PolicyError,
    SvetovidError,
    TransportError,
)
from svetovid.host import agent
from svetovid.host.agent import run_job
from svetovid.policy.documents import JobLimits
from svetovid.protocol.messages import JobStatus

Make = Callable[..., World]


def refused(world: World, **changes: Any) -> SvetovidError:
    with pytest.raises(SvetovidError) as e:
        world.run(**changes)
    return e.value


def no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("something ran")

    monkeypatch.setattr(agent, "run_sandboxed", run)


def lease_ended(world: World) -> list[str]:
    """Why leases were given back, as the managers recorded it."""
    return [
        str(r.entry.body["why"])
        for house in world.all_houses
        for r in house.client(world.carol).records().records
        if r.entry and r.entry.kind == "lease-end"
    ]


# -- T7: the code is checked before it runs


def test_t7_other_code_of_the_same_owner_is_refused_before_anything_runs(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make()
    world.storage["code"], _, _ = world.bundle("answer(0)", "evil")
    no_sandbox(monkeypatch)
    error = refused(world)
    assert isinstance(error, IntegrityError)
    assert error.code.startswith("asset.")
    assert lease_ended(world) == [error.code]
    assert "running" not in [e.stage for e in world.events]


def test_t7_a_manager_cannot_name_other_code_than_the_job(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A valid container with its valid manifest and key, which nobody agreed on."""
    world = make()
    url, manifest, key = world.bundle("answer(0)", "evil")
    world.storage["code"] = url
    keys = agent.ManagerLink.keys

    def swapped(self: Any) -> Any:
        return {**keys(self), "code": (manifest.to_json(), key)}

    monkeypatch.setattr(agent.ManagerLink, "keys", swapped)
    no_sandbox(monkeypatch)
    assert refused(world).code == "asset.manifest"


@pytest.mark.parametrize("slot", ["code", "data"])
def test_t7_altered_bytes_are_refused(make: Make, slot: str) -> None:
    world = make()
    path = Path(world.storage[slot].removeprefix("file://"))
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    error = refused(world)
    assert error.code.startswith("asset.")
    assert lease_ended(world) == [error.code]


def test_t7_another_version_of_the_data_is_refused(make: Make) -> None:
    world = make()
    world.storage["data"], _, _ = world.dataset("newer", version=2)
    assert refused(world).code.startswith("asset.")


def test_a_container_nobody_can_find_is_named(make: Make) -> None:
    world = make()
    code = world.storage.pop("code")
    error = refused(world)
    assert error.code == "job.storage"
    assert "--storage code=URL" in error.reason.next_step
    assert lease_ended(world) == ["job.storage"]
    world.storage = {"code": code, "data": f"file://{world.folder}/nothing"}
    assert refused(world).code == "asset.missing"


# -- T1: every manager that the job names


def test_t1_the_pin_of_every_manager_must_be_there(make: Make) -> None:
    world = make(houses=2)

    def run(clients: Any) -> None:
        run_job(world.home, world.job.digest(), clients, storage=world.storage, outputs="memory://")

    for clients in (world.clients(world.data_house), []):
        with pytest.raises(InputError) as e:
            run(clients)
        assert e.value.code == "job.manager"
    assert all(
        h.client(world.carol).job(world.job.digest()).releases == 0 for h in world.all_houses
    )


def test_t1_the_lease_of_one_manager_is_given_back_when_another_refuses(make: Make) -> None:
    world = make(houses=2)
    last = max(world.all_houses, key=lambda h: h.key)  # the second to be asked
    last.gate.tap = lambda r: setattr(last.gate, "down", r.url.path == "/v1/releases")
    error = refused(world)
    assert isinstance(error, TransportError)
    assert lease_ended(world) == [error.code]
    last.gate.tap = lambda _: None
    last.gate.down = False
    assert world.answer(world.run()) == trained()


def test_t1_a_manager_that_keeps_a_key_back_is_named(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make()
    keys = agent.ManagerLink.keys
    monkeypatch.setattr(
        agent.ManagerLink, "keys", lambda self: {k: v for k, v in keys(self).items() if k != "data"}
    )
    error = refused(world)
    assert error.code == "release.incomplete"
    assert "data" in error.reason.observed


def test_t1_a_manager_cannot_speak_for_anothers_asset(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(houses=2)
    release = agent.ManagerClient.release

    def more(self: Any, evidence: Any) -> Any:
        answer = release(self, evidence)
        slot = "data" if self.manager == world.code_house.key else "code"
        keys = (*answer.keys, answer.keys[0].model_copy(update={"slot": slot}))
        return answer.model_copy(update={"keys": keys})

    monkeypatch.setattr(agent.ManagerClient, "release", more)
    assert refused(world).code == "release.asset"


def test_t5_a_manager_cannot_pass_another_job_off(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make()
    asked = world.job.digest()
    other = world.propose(seed=5)
    job = agent.ManagerClient.job

    def run() -> None:
        run_job(world.home, asked, world.clients(), storage={}, outputs="memory://")

    monkeypatch.setattr(agent.ManagerClient, "job", lambda self, _: job(self, other.digest()))
    with pytest.raises(IntegrityError) as e:
        run()
    assert e.value.code == "job.digest"

    def forged(self: Any, digest: str) -> JobStatus:
        mallory = Identity.generate("mallory")
        return job(self, digest).model_copy(update={"job": sign(world.job, mallory)})

    monkeypatch.setattr(agent.ManagerClient, "job", forged)
    with pytest.raises(IntegrityError) as e:
        run()
    assert e.value.code == "signature.missing"


def test_a_job_that_no_manager_knows(make: Make) -> None:
    world = make()
    unknown = world.job.model_copy(update={"seed": 9})
    assert refused(world, job=unknown).code == "read.denied"


# -- T9, and scripts that fail


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("raise ValueError('secret')", "sandbox.script"),
        ("session.save('other', b'')", "output.unknown"),
        ("session.save('answer', file({'y': ('I64', [1], bytes(8))}))", "output."),
        ("session.save('answer', file({'x': ('I64', [2], bytes(16))}))", "output."),
        ("pass", "output.missing"),
        ("os._exit(3)", "sandbox.died"),
    ],
)
def test_t9_what_is_not_agreed_does_not_leave(make: Make, script: str, code: str) -> None:
    world = make(script=script)
    before = threading.active_count()
    error = refused(world)
    assert error.code.startswith(code)
    assert "secret" not in str(error)
    assert lease_ended(world) == [error.code]
    assert [p.name for p in world.out.iterdir()] == ["train.progress.json"]
    assert world.state() != "finished"
    assert threading.active_count() <= before + 2  # others' threads may be there: none is added


def test_t9_metrics_is_no_name_for_an_output(make: Make) -> None:
    """It would be overwritten by the job's metrics, and refused only at the end."""
    world = make()
    with pytest.raises(SvetovidError) as e:
        type(world.job).from_json(
            {
                **world.job.to_json(),
                "outputs": {"metrics": world.job.to_json()["outputs"]["answer"]},
            }
        )
    assert e.value.code == "document.invalid"


def test_a_job_that_takes_too_long(make: Make) -> None:
    world = make(script="import time\ntime.sleep(60)", job_changes={"limits": JobLimits(wall_s=1)})
    error = refused(world)
    assert error.code == "sandbox.wall"
    assert lease_ended(world) == ["sandbox.wall"]


def test_outputs_that_cannot_be_written(make: Make) -> None:
    world = make()
    folder = world.out / "train.answer.sealed"

    def in_the_way(request: httpx.Request) -> None:
        if request.url.path == "/v1/heads":  # there was nothing when the job began
            folder.mkdir(exist_ok=True)

    world.data_house.gate.tap = in_the_way
    error = refused(world)
    assert isinstance(error, HostError)
    assert error.code == "output.storage"
    world.data_house.gate.tap = lambda _: None
    folder.rmdir()
    world.out.rename(world.folder / "elsewhere")
    assert isinstance(refused(world), SvetovidError)
    assert lease_ended(world)[:1] == ["output.storage"]


def test_a_listener_that_breaks_gives_the_lease_back(make: Make) -> None:
    world = make()

    def broken(event: agent.Event) -> None:
        if event.stage == "running":
            raise ZeroDivisionError

    world.events = type("Broken", (), {"append": staticmethod(broken)})()  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError):
        world.run()
    assert lease_ended(world) == ["internal"]


def test_what_the_job_needs_and_the_policy_refuses(make: Make) -> None:
    world = make()
    mallory = Identity.generate("mallory")
    from svetovid.policy.outputs import Recipient

    job = world.propose(recipients=(Recipient(card=mallory.signed_card()),))
    error = refused(world, job=job)
    assert not isinstance(error, PolicyError) or error.code
    assert "released" not in [e.stage for e in world.events]
    assert lease_ended(world) == []
