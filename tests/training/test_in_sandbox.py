"""PyTorch in a real sandbox: DataLoader workers, and the same weights after a kill."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from sandboxing import torch_runtime
from svetovid.assets import AssetReader, open_asset, seal_dataset
from svetovid.crypto import Identity
from svetovid.errors import RefusalError
from svetovid.host.runner import SandboxJob, run_sandboxed
from svetovid.policy.documents import JobLimits
from svetovid.policy.outputs import MetricSpec, OutputSpec, TensorSpec

np = pytest.importorskip("numpy")
pytest.importorskip("torch")

SCRIPT = b"""
import torch
import svetovid.training as sv

sv.seed()
torch.set_num_threads(1)
loader = torch.utils.data.DataLoader(
    sv.dataset("rows"), batch_size=16, shuffle=True, num_workers=sv.parameters()["workers"]
)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.Adam(model.parameters())
state = {"model": model, "optimizer": optimizer}
for epoch in range(sv.resume(state), 3):
    for x, y in loader:
        optimizer.zero_grad()
        loss = (model(x)[:, 0] - y).square().mean()
        loss.backward()
        optimizer.step()
    sv.log(loss=loss.item())
    sv.checkpoint(state, step=epoch + 1)
    sv.progress(epoch + 1, 3)
sv.save("model", model.state_dict())
"""


@pytest.fixture
def rows(alice: Identity) -> Iterator[AssetReader]:
    rng = np.random.default_rng(0)
    columns = {
        "x": rng.normal(size=(64, 4)).astype("float32"),
        "y": rng.normal(size=64).astype("float32"),
    }
    manifest, key = seal_dataset(
        "memory://torch-rows", columns, name="rows", owner=alice.key_id, manager=alice.key_id
    )
    with open_asset("memory://torch-rows", manifest, key, expected=manifest.digest()) as reader:
        yield reader


def job(rows: AssetReader, workers: int, **more: Any) -> SandboxJob:
    tensors = {
        "weight": TensorSpec(dtype="float32", shape=(1, 4)),
        "bias": TensorSpec(dtype="float32", shape=(1,)),
    }
    return SandboxJob(
        runtime=torch_runtime(),
        code={"train.py": SCRIPT},
        entry="train.py",
        parameters={"workers": workers},
        seed=11,
        datasets={"rows": rows},
        outputs={"model": OutputSpec(tensors=tensors)},
        metrics={"loss": MetricSpec(type="float", max_count=3)},
        limits=JobLimits(wall_s=200),
        threads=1,
        **more,
    )


def test_same_weights_with_workers_and_after_a_kill(rows: AssetReader) -> None:
    """T8 (workers share memory in /dev/shm), T11 (the same result after kill -9)."""
    whole = run_sandboxed(job(rows, 2))
    assert len(whole.metrics["loss"]) == 3

    stop = threading.Event()
    kept: list[bytes] = []

    def keep(data: bytes) -> None:
        kept.append(data)
        stop.set()

    with pytest.raises(RefusalError) as e:
        run_sandboxed(job(rows, 0), on_checkpoint=keep, stop=stop)
    assert e.value.code == "sandbox.stopped"
    again = run_sandboxed(job(rows, 0, resume=kept[-1]))
    assert len(again.metrics["loss"]) < 3
    assert again.outputs == whole.outputs
