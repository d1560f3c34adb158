"""A job in masked mode from consent to receipt, with workers behind TLS that see nothing of it."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentworld import children, plaintext_open
from maskedworld import MaskedWorld, Worker, deaf, workers
from sandboxing import torch_runtime
from svetovid.crypto import Secret
from svetovid.errors import SvetovidError
from svetovid.host import workers as module
from svetovid.offload.store import TensorStore
from svetovid.policy.documents import JobLimits
from svetovid.policy.outputs import OutputSpec, TensorSpec

torch = pytest.importorskip("torch")

SMALL = """
import array, mmap, time
room = session._masked
memory = mmap.mmap(room["memory"], room["size"])
P = {"kind": "matmul", "a": [1, 2, 2], "b": [1, 2, 2], "out": [1, 2, 2],
     "transpose": [False, False], "stride": [], "padding": [], "dilation": [], "groups": 1}

def operand(*values):
    memory[: 4 * len(values)] = array.array("f", values).tobytes()
    return wire.ask("operand", count=len(values))

def square(number, *values):
    wire.ask("begin", step=number)
    told = operand(*values)
    if told == "taken":
        told = wire.ask("multiply", a=0, b=0, product=P)
    return told if told != "taken" else int(struct.unpack("<f", memory[:4])[0])
"""
"""What a script without PyTorch does: 1 2 / 3 4 squared begins with 7."""
ONCE = SMALL + "\nfound = square(0, 1, 2, 3, 4)\nwire.ask('end')\nanswer(found)\n"


@pytest.fixture
def world(make: Any, tmp_path: Path) -> Iterator[Callable[..., MaskedWorld]]:
    made: list[MaskedWorld] = []

    def one(script: str, **fields: Any) -> MaskedWorld:
        folder = tmp_path / f"masked{len(made)}"
        folder.mkdir()
        made.append(MaskedWorld(folder, script=script, **fields))
        return made[-1]

    yield one
    for each in made:
        each.close()


def refused(world: MaskedWorld) -> SvetovidError:
    with pytest.raises(SvetovidError) as e:
        world.run()
    assert plaintext_open() == 0
    assert not children()
    return e.value


def ledgers(world: MaskedWorld) -> list[dict[str, Any]]:
    return [json.loads(p.read_bytes()) for p in world.home.path.glob("masked/*/ledger.json")]


# -- whole

TRAIN = """
import torch
from torch import nn
import svetovid.training as sv

torch.set_num_threads(1)
sv.seed()
x = sv.tensors("data")["x"].clone()
y = torch.arange(len(x)) % 3
model = sv.protect(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                                 nn.Linear(64, 3)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

def body():
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    return loss.item()

for number in range(3):
    sv.log(n=int(1000 * sv.step(body, model)))
    optimizer.step()
sv.save("model", {"w": model[4].weight, "b": model[0].weight})
"""
X = np.random.default_rng(7).normal(size=(8, 1, 6, 6)).astype("float32")
MODEL = OutputSpec(
    tensors={
        "w": TensorSpec(dtype="float32", shape=(3, 64)),
        "b": TensorSpec(dtype="float32", shape=(4, 1, 3, 3)),
    }
)


@dataclass
class Training(MaskedWorld):
    """Real data, and the runtime that has PyTorch."""

    def dataset(self, name: str = "data", version: int = 1) -> Any:
        from svetovid.assets import seal_dataset

        url = f"file://{self.storage_folder}/{name}"
        owner, manager = self.alice.key_id, self.data_house.key
        return (url, *seal_dataset(url, {"x": X}, name="data", owner=owner, manager=manager))


def simulated(folder: Path, run: str, roundings: Secret) -> dict[str, Any]:
    """The same script at home, over the plain simulator with the job's own roundings."""
    from host.maskworld import Numbered
    from svetovid.training import _session
    from svetovid.training._local import LocalSession
    from svetovid.training._tensors import unpack

    class Home(LocalSession):
        def multiplier(self) -> Any:
            if self._multiplier is None:
                self._multiplier = Numbered(run, roundings)
            return self._multiplier

    before = torch.get_num_threads()
    _session.install(Home({"data": {"x": X}}, {}, {}, 0, folder))
    try:
        exec(TRAIN, {})
    finally:
        _session.install(None)
        torch.set_num_threads(before)
    return {k: v.clone() for k, v in unpack((folder / "model.safetensors").read_bytes()).items()}


def assert_unseen(worker: Worker, tensors: list[Any]) -> None:
    """No two numbers that stand beside one another in a tensor, neither as floats nor as what they
    are quantised to, masked with nothing."""
    from svetovid.offload.quantise import greatest, shift_of

    seen = worker.plain()
    assert len(seen) > 10_000
    for tensor in tensors:
        flat = np.ascontiguousarray(tensor, np.float32).reshape(-1)
        rounded = np.round(flat * 2.0 ** shift_of(greatest(flat))).astype(np.int64) % (2**31 - 1)
        for i in range(0, len(flat) - 3, 3):
            assert flat[i : i + 2].tobytes() not in seen
            assert rounded[i : i + 4].astype("<i4").tobytes() not in seen


@pytest.mark.parametrize("trusted_mib", [None, 0.002])
def test_t17_a_job_is_trained_by_workers_that_see_nothing(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted_mib: float | None
) -> None:
    """Weights are the plain simulator's to the last bit, the card is in the receipt; also where
    the host may not keep all of a step in memory."""
    keys: list[Secret] = []
    sealed: list[int] = []
    seal = TensorStore._seal

    def outside(store: TensorStore, kept: Any, value: Any) -> None:
        seal(store, kept, value)
        assert store.plain_bytes <= 0.002 * 2**20
        sealed.append(kept.size)

    monkeypatch.setattr(TensorStore, "_seal", outside)
    real = module.rounding_key

    def noted(*args: Any) -> Secret:
        keys.append(real(*args))
        return keys[-1]

    monkeypatch.setattr(module, "rounding_key", noted)
    (tmp_path / "world").mkdir()
    world = Training(tmp_path / "world", script=TRAIN, runtime=torch_runtime())
    with workers(world, 3) as three:
        limits = JobLimits(wall_s=200, memory_mib=2048, output_bytes=1 << 16, resumes=2)
        world.masked(three, outputs={"model": MODEL}, limits=limits)
        outcome = world.run(trusted_mib=trusted_mib)
        assert bool(sealed) is (trusted_mib is not None)
        from svetovid.training._tensors import unpack

        found = unpack(world.open(outcome.outputs["model"], world.rita))
        expected = simulated(tmp_path / "home", world.job.digest()[7:], keys[0])
        assert found.keys() == expected.keys()
        for name in found:
            assert torch.equal(found[name], expected[name]), name
        for worker in three:
            assert worker.seen.frames["work"] > 10
            assert_unseen(worker, [X, *(found[name].numpy() for name in found)])
            said = worker.plain()
            for name in (b"Ltd", world.job.digest()[7:].encode(), b"train", b"data"):
                assert name not in said
    verdict = world.verify(world.bundle_of(outcome, world.data_house))
    assert verdict.affirmed, verdict
    assert verdict.card is not None
    assert verdict.card.operators == ("w0 Ltd", "w1 Ltd", "w2 Ltd")
    assert verdict.card.collusion_bound == 1
    assert "connect_s" in outcome.timings
    assert ledgers(world) == []
    assert world.state() == "finished"
    world.close()


# -- workers that fail


def test_a_liar_is_replaced_in_the_middle_of_a_step(world: Any) -> None:
    again = (
        SMALL
        + """
first = square(0, 1, 2, 3, 4)
second = square(0, 1, 2, 3, 4)
wire.ask("end")
answer(second * 10 + (first == "again"))
"""
    )
    here = world(again)
    with workers(here, 5) as five:
        five[1].lies = True
        here.masked(five)
        outcome = here.run()
        assert here.answer(outcome) == 71
        assert five[3].seen.frames["work"] == 1
        assert five[4].seen.frames["work"] == 0


def test_t11_what_is_done_again_after_a_crash_is_masked_anew(world: Any) -> None:
    """The same numbers in the same step: the same product, and not one word that a worker saw."""
    here = world(
        SMALL
        + """
found = square(0, 1, 2, 3, 4)
if session.resume() is None:
    session.checkpoint(b"here")
    raise OSError
answer(found)
"""
    )
    with workers(here, 3) as three:
        here.masked(three)
        assert refused(here).code == "sandbox.script"
        assert [ledger["attempt"] for ledger in ledgers(here)] == [1]
        before = [
            [s.numbers.tobytes() for s in w.seen.seen if s.sent and s.numbers is not None]
            for w in three
        ]
        assert here.answer(here.run()) == 7
        for worker, old in zip(three, before, strict=True):
            sent = [s.numbers for s in worker.seen.seen if s.sent and s.numbers is not None]
            first, second = sent
            assert old == [first.tobytes()]
            assert not (first == second).any()
    assert ledgers(here) == []


def test_without_a_spare_the_operator_is_told_who_failed(world: Any) -> None:
    here = world(ONCE)
    with workers(here, 3) as three:
        three[2].lies = True
        here.masked(three)
        error = refused(here)
    assert error.code == "worker.wrong"
    assert three[2].certificate in str(error)
    (ledger,) = ledgers(here)  # for whoever goes on with this job
    assert ledger["attempt"] == 1
    assert sorted(ledger["points"].values()) == [0, 1, 2]


def test_a_worker_with_another_certificate_gets_not_a_byte(world: Any) -> None:
    here = world(ONCE)
    with workers(here, 4) as four:
        other = four[0].to_json() | {"certificate": four[3].certificate}
        agreed = [other, four[1].to_json(), four[2].to_json()]
        here.masked(four, offload={"workers": agreed})
        assert refused(here).code == "worker.certificate"
        assert sum(len(w.seen.seen) for w in (four[0], four[3])) == 0
    assert "running" not in [e.stage for e in here.events]


def test_a_worker_that_is_not_there(world: Any) -> None:
    here = world(ONCE)
    with workers(here, 3) as three:
        here.masked(three)
        three[1].close()
        assert refused(here).code in ("worker.unreachable", "worker.gone")


# -- what a job may ask for


def test_a_job_gets_the_products_that_it_agreed_on(world: Any) -> None:
    here = world(SMALL + "\nfor n in range(9):\n    square(n, 1, 2, 3, 4)\nanswer(0)\n")
    with workers(here, 3) as three:
        here.masked(three, offload={"products": 4})
        error = refused(here)
        assert error.code == "offload.limit"
        assert error.reason.observed == ""
        assert {w.seen.frames["work"] for w in three} == {4}


def test_a_job_in_another_mode_has_no_memory_and_no_steps(make: Any) -> None:
    here = make(script="answer(int(session._masked is None))")
    assert here.answer(here.run()) == 1


# -- the end of a lease


def test_t12_a_lease_that_ends_waits_for_no_worker(world: Any) -> None:
    """One that answers nothing any more holds up neither the end nor the forgetting."""
    here = world(ONCE, lease_s=3)
    with workers(here, 3) as three:
        three[0].stalls = True
        here.masked(three)
        shut = Shut(here, lambda: three[0].seen.frames["work"] > 0)
        error = refused(here)
        lived = time.monotonic() - shut.at
    assert error.code == "transport.unreachable"
    assert lived < 5.0


def test_t12_a_lease_that_ends_waits_for_no_connection(world: Any) -> None:
    here = world(ONCE, lease_s=3)
    with workers(here, 3) as three, deaf() as port:
        silent = three[1].to_json() | {"url": f"tls://127.0.0.1:{port}"}
        here.masked(three, offload={"workers": [three[0].to_json(), silent, three[2].to_json()]})
        shut = Shut(here, lambda: len(three[0].seen.seen) > 0)
        error = refused(here)
        lived = time.monotonic() - shut.at
    assert error.code == "transport.unreachable"
    assert lived < 5.0


class Shut:
    """Shuts a manager's gate once something has happened."""

    def __init__(self, world: MaskedWorld, when: Callable[[], bool]) -> None:
        self.at = 0.0

        def watch() -> None:
            until = time.monotonic() + 30
            while not when() and time.monotonic() < until:
                time.sleep(0.02)
            self.at = time.monotonic()
            world.data_house.gate.down = True

        threading.Thread(target=watch, daemon=True).start()


def test_roundings_are_those_of_the_job_and_of_no_other() -> None:
    joint = Secret(bytes(range(32)))
    one = module.rounding_key("sha256:" + "a" * 64, joint).reveal()
    assert one == module.rounding_key("sha256:" + "a" * 64, joint).reveal()
    assert one != module.rounding_key("sha256:" + "b" * 64, joint).reveal()
    assert one != module.rounding_key("sha256:" + "a" * 64, Secret(bytes(32))).reveal()
    assert one != joint.reveal()
    assert struct.calcsize("32s") == len(one)
