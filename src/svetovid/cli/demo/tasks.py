"""The two tasks of the demo: real data, split between two owners, and plain training beside it."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svetovid.cli.checkout import checkout
from svetovid.errors import HostError

__all__ = ["BREAST_CANCER", "FASHION_MNIST", "Arrays", "Task", "accuracy", "train_plain"]

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

    def bundle(self, name: str, folder: Path) -> Path:
        """A folder with just one of the task's scripts, to be sealed as code."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.script(name), folder / name)
        return folder


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


def accuracy(task: Task, weights: Mapping[str, Any], test: Arrays) -> float:
    """Share of the test data that a model of this task gets right."""
    return float((task.predict(weights, test) == test[task.label]).mean())


_PLAIN = """\
import runpy
import numpy as np
import svetovid.training as sv
for turn in range(%(turns)r):
    folder = f"%(folder)s/{turn}"
    data = {slot: dict(np.load(f"{folder}/{slot}.npz")) for slot in ("a", "b")}
    sv.local(data, parameters=%(parameters)r, seed=%(seed)r, folder=folder)
    runpy.run_path(%(script)r, run_name="__main__")
"""


def train_plain(task: Task, runs: Sequence[tuple[Arrays, Arrays]]) -> list[dict[str, Any]]:
    """The same script in a plain process, on plain data in both slots; the weights of each run.

    Raises:
        HostError: ``demo.plain`` where the script fails.
    """
    import numpy as np
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for turn, pair in enumerate(runs):
            (folder / str(turn)).mkdir()
            for slot, arrays in zip(("a", "b"), pair, strict=True):
                np.savez(folder / str(turn) / f"{slot}.npz", **arrays)
        code = _PLAIN % {
            "turns": len(runs),
            "folder": name,
            "parameters": dict(task.parameters),
            "seed": task.seed,
            "script": str(task.script("train.py")),
        }
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode != 0:
            raise HostError(
                "demo.plain",
                expected="plain training to end",
                observed=done.stderr[-300:],
                next_step="run the script at home: svetovid.training.local",
            )
        return [load_file(folder / str(turn) / "model.safetensors") for turn in range(len(runs))]


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
