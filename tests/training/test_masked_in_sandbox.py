"""Masked mode in a real sandbox: a script that trains, and scripts that want more than products."""

from __future__ import annotations

import socket
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maskedjob
from sandboxing import torch_runtime
from svetovid.crypto import Secret
from svetovid.errors import SvetovidError, TransportError
from svetovid.host.masking import Masking, Room
from svetovid.host.runner import SandboxJob, SandboxResult, run_sandboxed
from svetovid.offload.card import Seat
from svetovid.offload.protocols import CODED
from svetovid.offload.session import Place, Session
from svetovid.policy.documents import JobLimits
from svetovid.policy.outputs import OutputSpec, TensorSpec

torch = pytest.importorskip("torch")

TRAIN = """
import torch
from torch import nn
import svetovid.training as sv

torch.set_num_threads(1)
sv.seed()
model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(),
                      nn.Dropout(0.3), nn.Linear(48, 4))
x, y = torch.randn(6, 1, 6, 6), torch.tensor([0, 1, 2, 3, 0, 1])
model = sv.protect(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
state = {"model": model, "optimizer": optimizer}

def body():
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()

for number in range(sv.resume(state), 3):
    optimizer.zero_grad()
    sv.step(body, model)
    optimizer.step()
    sv.checkpoint(state, step=number + 1)
sv.save("model", {"w": model[5].weight, "m": model[1].running_mean})
"""
TENSORS = {
    "w": TensorSpec(dtype="float32", shape=(4, 48)),
    "m": TensorSpec(dtype="float32", shape=(3,)),
}
ANSWER = {"x": TensorSpec(dtype="int64", shape=(1,))}


class Host:
    """Runs scripts beside workers in memory."""

    def __init__(self, folder: Path, workers: int = 5) -> None:
        from offload.memory_link import MemoryLink

        self.folder = folder
        self.links = [MemoryLink(f"worker {i}") for i in range(workers)]
        self.replaced: list[str] = []
        self.kept: list[bytes] = []

    def run(self, script: str, tensors: dict[str, TensorSpec], **more: Any) -> SandboxResult:
        agreed = maskedjob.offload()
        job = SandboxJob(
            runtime=torch_runtime(),
            code={"train.py": textwrap.dedent(script).encode()},
            entry="train.py",
            seed=11,
            outputs={"model": OutputSpec(tensors=tensors)},
            limits=JobLimits(wall_s=100, memory_mib=2048),
            threads=1,
            **more,
        )
        places = [
            Place(Seat(link.identity, link.identity, "tls"), lambda link=link: link)  # type: ignore[misc]
            for link in self.links
        ]
        room = Room(1 << 20)
        roundings = Secret(bytes(32))
        try:
            with Session(CODED, places, self.folder, run="run", roundings=roundings) as session:
                masking = Masking(session, room, agreed)
                done = run_sandboxed(job, on_checkpoint=self.kept.append, masking=masking)
                self.replaced = session.replaced
                return done
        finally:
            room.close()


def simulated() -> dict[str, Any]:
    """What the script saves, by the plain simulator in this process."""
    import svetovid.training as sv
    from host.maskworld import Numbered
    from svetovid.training import _session

    class Here:
        seed, steps = 11, 0
        saved: dict[str, Any] = {}
        plain = Numbered("run", Secret(bytes(32)))

        def multiplier(self) -> Numbered:
            return self.plain

        def resume(self) -> None:
            return None

        def checkpoint(self, data: bytes) -> None:
            return None

        def save(self, name: str, data: bytes) -> None:
            from svetovid.training._tensors import unpack

            self.saved.update(unpack(data))

    before = torch.get_num_threads()
    _session.install(Here())  # type: ignore[arg-type]
    try:
        assert sv
        exec(TRAIN, {})
    finally:
        _session.install(None)
        torch.set_num_threads(before)
    return Here.saved


def saved(result: SandboxResult) -> dict[str, Any]:
    from svetovid.training._tensors import unpack

    return unpack(result.outputs["model"])


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_a_script_trains_and_a_worker_that_fails_leaves_no_mark(tmp_path: Path) -> None:
    """Whole, after a worker fell silent, and resumed: the plain simulator's weights each time."""
    host = Host(tmp_path)
    expected = simulated()
    asked = 0

    def silent_once(_: object, answer: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += 1
        if asked == 8:
            raise TransportError("worker.silent")
        return answer

    host.links[1].change = silent_once
    assert_same(saved(host.run(TRAIN, TENSORS)), expected)
    assert host.replaced == ["worker 1"]
    again = Host(tmp_path / "again")
    again.folder.mkdir()
    assert_same(saved(again.run(TRAIN, TENSORS, resume=host.kept[0])), expected)


REACH = """
import ctypes, importlib, mmap, os, socket
import torch
from svetovid.training import _session
session = _session.current()
multiplier = session.multiplier()
found = 0

def tried(action):
    global found
    try:
        action()
    except (OSError, ImportError):
        return
    found += 1

for family in (socket.AF_INET, socket.AF_INET6):
    tried(lambda: socket.socket(family, socket.SOCK_STREAM))
    tried(lambda: socket.socket(family, socket.SOCK_DGRAM))
tried(lambda: socket.create_connection(("127.0.0.1", PORT), 2))
for name in ("links", "masking", "session", "address", "ledger", "kernels", "wire", "worker"):
    tried(lambda: importlib.import_module("svetovid.offload." + name))
for room in ("crypto", "host", "policy", "evidence"):
    tried(lambda: importlib.import_module("svetovid." + room))
memory = session._masked["memory"]
tried(lambda: os.ftruncate(memory, 1 << 30))
tried(lambda: os.ftruncate(memory, 4096))
os.write(memory, b"#!/bin/sh")
tried(lambda: os.fchmod(memory, 0o700))
tried(lambda: os.execve(memory, ["x"], {}))
links = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
         if os.path.exists(f"/proc/self/fd/{n}")]
found += sum("socket" in link for link in links) - 1
session.save("model", __import__("svetovid.training._tensors").training._tensors.pack(
    {"x": torch.tensor([found])}))
"""


def test_a_script_that_looks_for_a_worker(tmp_path: Path) -> None:
    """No socket but the channel, no room that knows a mask or a link, and memory that neither grows
    nor shrinks, nor becomes a program."""
    with socket.create_server(("127.0.0.1", 0)) as worker:
        script = REACH.replace("PORT", str(worker.getsockname()[1]))
        result = Host(tmp_path).run(script, ANSWER)
    assert saved(result)["x"].tolist() == [0]


HOSTILE = {
    "an operand that is not there": (
        "m.start(); ask('multiply', a=0, b=5, product=dict(vars(P)))",
        "sandbox.protocol",
    ),
    "a worker by name": ("m.start(); ask('seed', worker=1)", "sandbox.protocol"),
    "numbers that grow": (
        """
        import threading
        m.start()
        m._room.fill_(1.0)
        def grow():
            while True:
                m._room[: 1 << 18] = 1.0
                m._room[1 << 17 : 1 << 18] = 1e30
        threading.Thread(target=grow, daemon=True).start()
        while True:
            m.start()
            ask('operand', count=1 << 18)
        """,
        "offload.changed",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_scripts_that_speak_for_themselves(tmp_path: Path, name: str) -> None:
    act, code = HOSTILE[name]
    script = (
        "import torch\nfrom svetovid.training import _session\n"
        "from svetovid.offload.product import Product\n"
        "P = Product('matmul', (1, 2, 2), (1, 2, 2), (1, 2, 2))\n"
        "torch.set_num_threads(1)\n"
        "m = _session.current().multiplier()\nask = _session.current()._wire.ask\n"
    ) + textwrap.dedent(act)
    host = Host(tmp_path)
    with pytest.raises(SvetovidError) as e:
        host.run(script, ANSWER)
    assert e.value.code == code
    assert e.value.reason.observed == ""  # what it sent is its own choice: not the operator's
