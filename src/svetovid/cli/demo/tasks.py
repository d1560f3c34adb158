"""The two tasks of the demo: real data, split between two owners, and plain training beside it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svetovid.cli.checkout import checkout
from svetovid.cli.demo.processes import Processes
from svetovid.errors import HostError

__all__ = [
    "BREAST_CANCER",
    "FASHION_MNIST",
    "TASKS",
    "Arrays",
    "Comparison",
    "Task",
    "compare_plain",
]

_TIMEOUT_S = 600
_FASHION = Path("/usr/share/datasets/fashion-mnist")
Arrays = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained.

    Attributes:
        name, title: for files, for people.
        folder: in the checkout's ``examples``.
        label: the field that is to be predicted.
        load: training and test data, by field.
        predict: (weights, data) to predicted labels.
        tensors: of the model that comes out: name to shape, all float32.
        metrics: that the script logs.
        parameters: hyper-parameters of the job.
        seed: of the job.
    """

    name: str
    title: str
    folder: str
    label: str
    load: Callable[[], tuple[Arrays, Arrays]]
    predict: Callable[[Mapping[str, Any], Arrays], Any]
    tensors: Mapping[str, Sequence[int]]
    metrics: Mapping[str, tuple[str, int]]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 7

    def halves(self, data: Arrays) -> tuple[Arrays, Arrays]:
        half = len(data[self.label]) // 2
        return {k: v[:half] for k, v in data.items()}, {k: v[half:] for k, v in data.items()}

    def script(self, name: str) -> Path:
        return checkout() / "examples" / self.folder / name


def _idx(name: str) -> Any:
    import numpy as np

    path = _FASHION / f"{name}.gz"
    if not path.exists():
        raise HostError(
            "demo.data",
            expected=str(path),
            observed="no such file",
            next_step="apt-get install dataset-fashion-mnist",
        )
    raw = gzip.decompress(path.read_bytes())
    dimensions = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _clothes() -> tuple[Arrays, Arrays]:
    train, test = (
        {"image": _idx(f"{p}-images-idx3-ubyte"), "label": _idx(f"{p}-labels-idx1-ubyte")}
        for p in ("train", "t10k")
    )
    # Half of the training images, so that the demo ends while somebody watches; the benchmark
    # takes them all.
    return {k: v[:30_000] for k, v in train.items()}, test


def _tumours() -> tuple[Arrays, Arrays]:
    import numpy as np
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(data.target))
    features = data.data[order].astype(np.float32)
    benign = data.target[order].astype(np.uint8)
    cut = 400
    return (
        {"features": features[:cut], "benign": benign[:cut]},
        {"features": features[cut:], "benign": benign[cut:]},
    )


def _predict_clothes(weights: Mapping[str, Any], data: Arrays) -> Any:
    import torch
    from torch.nn import functional as f

    w = {k: torch.tensor(v) for k, v in weights.items()}
    x = torch.tensor(data["image"]).unsqueeze(1).float() / 255
    for layer in ("0", "3"):
        x = f.max_pool2d(
            f.relu(f.conv2d(x, w[f"{layer}.weight"], w[f"{layer}.bias"], padding=1)), 2
        )
    x = f.relu(f.linear(x.flatten(1), w["7.weight"], w["7.bias"]))
    return f.linear(x, w["9.weight"], w["9.bias"]).argmax(1).numpy()


def _predict_tumours(weights: Mapping[str, Any], data: Arrays) -> Any:
    x = (data["features"] - weights["mean"]) / weights["scale"]
    return (x @ weights["weight"].T + weights["bias"])[:, 0] > 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """A sealed model beside plain training.

    Attributes:
        identical: its weights are those of the last way of plain training, bit for bit.
        accuracy: share of the test data that is got right, by way of training.
        predicted: labels that the sealed model gives to the test data.
    """

    identical: bool
    accuracy: dict[str, float]
    predicted: Any


def compare_plain(
    task: Task,
    ways: Mapping[str, tuple[Arrays, Arrays]],
    test: Arrays,
    model: Path,
    processes: Processes,
) -> Comparison:
    """Run the task's script in a plain process (:mod:`plain`) on plain data in both slots.

    Args:
        ways: what each way of training sees in the two slots, by its name.
        test: what all models are tried on.
        model: the sealed way's weights, opened.
        processes: which the process becomes one of.

    Raises:
        HostError: ``demo.plain`` where the script fails.
    """
    import numpy as np
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for turn, pair in enumerate(ways.values()):
            (folder / str(turn)).mkdir()
            for slot, arrays in zip(("a", "b"), pair, strict=True):
                np.savez(folder / str(turn) / f"{slot}.npz", **arrays)
        np.savez(folder / "test.npz", **test)
        config = {
            "task": task.name,
            "turns": len(ways),
            "parameters": dict(task.parameters),
            "seed": task.seed,
            "script": str(task.script("train.py")),
            "model": str(model),
        }
        process = processes.start(
            "svetovid.cli.demo.plain",
            name,
            json.dumps(config),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **_lean()},
        )
        _, told = process.communicate(timeout=_TIMEOUT_S)
        if process.returncode != 0:
            raise HostError(
                "demo.plain",
                expected="plain training to end",
                observed=told[-300:],
                next_step="run the script at home: svetovid.training.local",
            )
        with np.load(folder / "predicted.npz") as archive:
            predicted = [archive[str(turn)] for turn in range(len(ways) + 1)]
        sealed = load_file(model)
        plain = load_file(folder / str(len(ways) - 1) / "model.safetensors")
    return Comparison(
        sealed.keys() == plain.keys()
        and all(sealed[k].tobytes() == plain[k].tobytes() for k in plain),
        {
            way: float((labels == test[task.label]).mean())
            for way, labels in zip((*ways, "sealed"), predicted, strict=True)
        },
        predicted[-1],
    )


def _lean() -> dict[str, str]:
    """What makes plain training frugal beside the rest of the play, and changes no bit of it.

    As many threads as in the sandbox: sums of another number of parts have other last bits. One
    that waits for another leaves the processor; what a step frees, the next one gets.
    """
    threads = str(len(os.sched_getaffinity(0)))
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "PASSIVE",
        "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    }


BREAST_CANCER = Task(
    name="tumours",
    title="breast cancer (WDBC)",
    folder="breast_cancer",
    label="benign",
    load=_tumours,
    predict=_predict_tumours,
    tensors={"weight": (1, 30), "bias": (1,), "mean": (30,), "scale": (30,)},
    metrics={"loss": ("float", 200)},
)
FASHION_MNIST = Task(
    name="clothes",
    title="clothes (Fashion-MNIST)",
    folder="fashion_mnist",
    label="label",
    load=_clothes,
    predict=_predict_clothes,
    tensors={
        "0.weight": (16, 1, 3, 3),
        "0.bias": (16,),
        "3.weight": (32, 16, 3, 3),
        "3.bias": (32,),
        "7.weight": (64, 1568),
        "7.bias": (64,),
        "9.weight": (10, 64),
        "9.bias": (10,),
    },
    metrics={"loss": ("float", 100), "step_s": ("float", 10_000)},
)
TASKS = {task.name: task for task in (BREAST_CANCER, FASHION_MNIST)}
