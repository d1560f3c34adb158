"""What a script imports: the same answers as plain PyTorch, at home and in the sandbox's form."""

from __future__ import annotations

import contextlib
import json
import os
import random
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import svetovid.training as sv
from svetovid.crypto import Secret
from svetovid.errors import InputError, RefusalError
from svetovid.host.sandbox.memory import frozen
from svetovid.training import _session, _state, _tensors
from svetovid.training._records import Records

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")

DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


@pytest.fixture(autouse=True)
def _one_session() -> Iterator[None]:
    yield
    _session.install(None)


def columns(count: int, fields: list[tuple[str, tuple[int, ...]]]) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        f"f{i}": rng.integers(0, 2 if d == "bool" else 100, (count, *shape)).astype(d)
        for i, (d, shape) in enumerate(fields)
    }


def test_importing_needs_the_standard_library_alone() -> None:
    """Neither torch nor pydantic nor any other room of svetovid."""
    script = (
        "import sys, svetovid.training\n"
        "bad = {'torch', 'numpy', 'pydantic', 'cryptography', 'svetovid.host', 'svetovid.crypto'}\n"
        "sys.exit(bool(bad & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@given(
    count=st.integers(1, 6),
    fields=st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(1, 3), max_size=3).map(tuple)),
        min_size=1,
        max_size=4,
    ),
    data=st.data(),
)
def test_records_agree_with_numpy(
    count: int, fields: list[tuple[str, tuple[int, ...]]], data: Any, tmp_path_factory: Any
) -> None:
    """Any dtypes, shapes and alignments: by index, by batch and as columns."""
    wanted = columns(count, fields)
    sv.local({"x": wanted}, folder=tmp_path_factory.mktemp("local"))
    records = sv.dataset("x")
    assert len(records) == count
    indices = data.draw(st.lists(st.integers(-count, count - 1), min_size=1, max_size=8))
    batch = records.__getitems__(indices)
    for i, sample in zip(indices, batch, strict=True):
        for got, again, name in zip(sample, records[i], wanted, strict=True):
            np.testing.assert_array_equal(got.numpy(), wanted[name][i])
            assert torch.equal(got, again)
            assert got.numpy().dtype == wanted[name].dtype
    for name, tensor in sv.tensors("x").items():
        np.testing.assert_array_equal(tensor.numpy(), wanted[name])


def test_columns_are_views_where_memory_allows(tmp_path: Path) -> None:
    sv.local({"x": columns(4, [("float32", (3,)), ("int32", ())])}, folder=tmp_path)
    content = _session.current().content("x").buffer
    start = torch.frombuffer(content, dtype=torch.uint8).data_ptr()
    for tensor in sv.tensors("x").values():
        assert start <= tensor.data_ptr() < start + len(content)


def test_indices_out_of_range_and_transforms(tmp_path: Path) -> None:
    sv.local({"x": {"a": np.arange(3)}}, folder=tmp_path)
    doubled = sv.dataset("x", lambda sample: int(sample[0]) * 2)
    assert [doubled[i] for i in (0, -1)] == [0, 4]
    assert doubled.__getitems__([1, 2]) == [2, 4]
    assert doubled.__getitems__([]) == []
    for index in (3, -4):
        with pytest.raises(IndexError):
            doubled[index]


def test_loader_with_workers_gives_what_a_plain_dataset_gives(tmp_path: Path) -> None:
    wanted = columns(50, [("uint8", (4, 4)), ("int64", ())])
    sv.local({"x": wanted}, folder=tmp_path)
    plain = torch.utils.data.TensorDataset(*(torch.from_numpy(c) for c in wanted.values()))
    batches = []
    for dataset, workers in ((plain, 0), (sv.dataset("x"), 0), (sv.dataset("x"), 2)):
        torch.manual_seed(5)
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=8, shuffle=True, num_workers=workers
        )
        batches.append([[t.clone() for t in b] for b in loader])
    for other in batches[1:]:
        for left, right in zip(batches[0], other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_empty_dataset(tmp_path: Path) -> None:
    sv.local({"x": {"a": np.zeros((0, 2), "float32")}}, folder=tmp_path)
    assert len(sv.dataset("x")) == 0
    assert sv.tensors("x")["a"].shape == (0, 2)


def test_tensors_pack_as_the_formats_own_library_reads_them() -> None:
    load = pytest.importorskip("safetensors.torch").load
    tensors = {
        "odd": torch.arange(3, dtype=torch.uint8),
        "wide": torch.randn(2, 3, dtype=torch.float64),
        "strided": torch.arange(12, dtype=torch.float32).view(3, 4).t(),
        "half": torch.randn(5).bfloat16(),
        "scalar": torch.tensor(7),
        "none": torch.zeros(0, 3),
        "flags": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    data = _tensors.pack(tensors)
    for read in (load(bytes(data)), _tensors.unpack(bytes(data)), _tensors.unpack(b"x" * 0 + data)):
        assert read.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(read[name], tensor.detach()), name
    with pytest.raises(TypeError, match="complex"):
        _tensors.pack({"c": torch.zeros(1, dtype=torch.complex64)})


def test_reads_what_the_formats_own_library_writes() -> None:
    save = pytest.importorskip("safetensors.torch").save
    tensors = {"a": torch.arange(3, dtype=torch.uint8), "b": torch.randn(2)}
    read = _tensors.unpack(save(tensors, metadata={"a": "b"}))
    assert torch.equal(read["b"], tensors["b"])
    assert _tensors.unpack(_tensors.pack({})) == {}


def test_load_model(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    sv.local({}, models={"base": model.state_dict()}, folder=tmp_path)
    other = torch.nn.Linear(3, 2)
    other.load_state_dict(sv.load_model("base"))
    assert torch.equal(other.weight, model.weight)


class Run:
    """A small training with everything that has a state; may be cut and resumed."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(4, 8),
            torch.nn.BatchNorm1d(8),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(8, 1),
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)
        self.generator = torch.Generator().manual_seed(3)
        self.state = {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "generator": self.generator,
        }

    def steps(self, start: int, end: int) -> None:
        for _ in range(start, end):
            x = torch.randn(16, 4, generator=self.generator)
            x = x + torch.randn(16, 4) + random.random() + np.random.rand()
            self.optimizer.zero_grad()
            self.model(x).square().mean().backward()
            self.optimizer.step()
            self.scheduler.step()


def test_resumed_run_ends_the_same(tmp_path: Path) -> None:
    """T11: modules, optimizer, schedule and every random generator go on where they were."""
    sv.local({}, seed=9, folder=tmp_path)
    sv.seed()
    whole = Run()
    whole.steps(0, 10)

    sv.seed()
    first = Run()
    assert sv.resume(first.state) == 0
    first.steps(0, 5)
    sv.checkpoint(first.state, step=5)
    first.steps(5, 7)  # lost

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    second = Run()
    step = sv.resume(second.state)
    assert step == 5
    second.steps(step, 10)
    for a, b in zip(
        whole.model.state_dict().values(), second.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)


def test_a_checkpoint_holds_no_pickle_and_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    sv.local({}, folder=tmp_path)

    class Odd:
        def state_dict(self) -> dict[str, Any]:
            return {"f": lambda: 0}

    for thing in (Odd(), 5):
        with pytest.raises(TypeError):
            sv.checkpoint({"x": thing}, step=1)
    generator = torch.Generator()
    sv.checkpoint({"g": generator}, step=1)
    data = (tmp_path / "checkpoint.safetensors").read_bytes()
    assert json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    with pytest.raises(KeyError, match="asked for h"):
        sv.resume({"h": generator})


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.tuples(x, x) | st.dictionaries(st.integers() | st.text(), x),
        max_leaves=12,
    )
)
def test_any_plain_state_comes_back(value: Any) -> None:
    tensors: dict[str, Any] = {}
    text = json.dumps(_state._encode(value, tensors), allow_nan=False)
    assert repr(_state._decode(json.loads(text), tensors)) == repr(value)


def test_metrics_and_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sv.local({}, parameters={"lr": 1}, seed=4, folder=tmp_path)
    sv.log(loss=0.5)
    sv.progress(1, 2)
    sv.progress(2, 2)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"loss": 0.5}
    assert "2/2" in capsys.readouterr().err
    assert sv.parameters() == {"lr": 1}
    assert sv.seed() == 4
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="loss"):
            sv.log(loss=value)


def test_masked_mode_at_home_is_the_plain_simulator(tmp_path: Path) -> None:
    """The numbers of eight bits, steps that are numbered, and no worker."""
    from svetovid.offload.plain import PlainMultiplier
    from svetovid.offload.protecting import protect

    sv.local({}, folder=tmp_path)
    layers = [torch.nn.Linear(3, 2) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    model, x = layers[0], torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    assert sv.protect(model) is model
    plain = PlainMultiplier("local", Secret(bytes(32)))
    protect(layers[1], plain)
    for number in range(2):
        plain.begin(number)
        assert torch.equal(sv.step(lambda: model(x), model), layers[1](x))
        plain.end()
    with pytest.raises(RefusalError, match=r"offload\.step"):
        model(x)
    assert sv.protect(torch.nn.Sequential(torch.nn.Linear(3, 2)), ["0"])
    with pytest.raises(InputError, match=r"offload\.model"):
        sv.protect(torch.nn.Sequential(torch.nn.Linear(3, 2)), ["1"])


def test_outside_a_sandbox() -> None:
    with pytest.raises(RuntimeError, match=r"svetovid\.training\.local"):
        sv.dataset("x")
    with pytest.raises(ValueError, match="one length"):
        sv.local({"x": {"a": np.zeros(2), "b": np.zeros(3)}})


class Wire:
    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, *a: Any, **k: Any) -> None:
        self.sent.append((a, k))

    ask = send


@pytest.fixture
def memory() -> Iterator[Callable[[int], int]]:
    """Keeps descriptors until the test ends, and no longer."""
    with contextlib.ExitStack() as stack:

        def kept(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        yield kept


def session(slots: dict[str, Any], resume: dict[str, int] | None = None) -> tuple[Any, Wire]:
    wire = Wire()
    config = {
        "parameters": {},
        "seed": 0,
        "slots": slots,
        "resume": resume,
        "masked": None,
        "metrics": {"n": "int", "loss": "float"},
    }
    return _session.SandboxSession(config, wire), wire  # type: ignore[arg-type]


def test_session_of_a_sandbox(memory: Callable[[int], int]) -> None:
    """The in-sandbox form, over real shared memory."""
    data = np.arange(8, dtype="<i2").tobytes()
    fd = memory(os.memfd_create("m"))
    os.ftruncate(fd, 4096)
    schema = {"fields": [{"name": "v", "dtype": "int16", "shape": [2]}], "records": 4}
    slot = {"data": memory(frozen("d", data)), "mark": fd, "size": len(data), "schema": schema}
    model = {**slot, "schema": None}
    kept = {"data": memory(frozen("r", b"checkpoint")), "size": 10}
    ours, wire = session({"rows": slot, "base": model}, kept)
    _session.install(ours)
    os.pwrite(fd, (8).to_bytes(8, "little"), 0)
    records = sv.dataset("rows")
    assert records[1][0].tolist() == [2, 3]
    timer = threading.Timer(0.05, os.pwrite, (fd, (16).to_bytes(8, "little"), 0))
    timer.start()
    begun = time.monotonic()
    assert records[3][0].tolist() == [6, 7]
    assert time.monotonic() - begun >= 0.04
    assert bytes(ours.resume()) == b"checkpoint"
    with pytest.raises(KeyError, match="base, rows"):
        sv.dataset("none")
    with pytest.raises(TypeError, match="no records"):
        sv.dataset("base")
    with pytest.raises(KeyError, match="not agreed"):
        sv.log(other=1)
    sv.log(n=2.0, loss=1)
    sv.progress(1, 2)
    sv.save("m", {"w": torch.zeros(1)})
    ours.checkpoint(b"c")
    assert [a[0] for a, _ in wire.sent] == ["metric", "metric", "progress", "output", "checkpoint"]
    assert wire.sent[0][1] == {"name": "n", "value": 2}
    assert session({})[0].resume() is None
    with pytest.raises(RuntimeError, match="not masked"):
        sv.protect(torch.nn.Linear(2, 2))


def test_a_worker_does_not_speak(tmp_path: Path) -> None:
    import socket

    from svetovid.training._wire import Wire as RealWire

    ours, theirs = socket.socketpair()
    wire = RealWire(theirs.detach())
    pid = os.fork()
    if pid == 0:
        try:
            wire.send("ready")
        except RuntimeError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    ours.close()


@pytest.mark.parametrize("name", ["fashion_mnist", "breast_cancer"])
def test_examples_run_at_home(name: str, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "examples" / name / "train.py"
    rng = np.random.default_rng(0)
    if name == "fashion_mnist":
        part = {
            "image": rng.integers(0, 255, (40, 28, 28), dtype="uint8"),
            "label": rng.integers(0, 10, 40, dtype="uint8"),
        }
    else:
        part = {
            "features": rng.normal(size=(40, 30)).astype("float32"),
            "benign": rng.integers(0, 2, 40, dtype="uint8"),
        }
    sv.local({"a": part, "b": part}, parameters={"epochs": 2}, folder=tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    assert _tensors.unpack((tmp_path / "model.safetensors").read_bytes())


def test_records_is_what_the_room_exports() -> None:
    assert sv.Records is Records
    assert sv.__all__ == sorted(sv.__all__)
