"""The Fashion-MNIST CNN, trained as a job whose workers see nothing of it.

Plays two owners of images, one of code, whoever receives the model, a host and three workers, each
command shown; trains the same network from the same start plainly in fp32; and prints the guarantee
card, both accuracies, and how many bytes each worker saw. Everybody is played on this machine, so
the card's bound is simulated: you run all the workers. ``--net vgg11`` trains a VGG11 with batch
norm on random numbers in the file format of CIFAR-10, to see that it runs: it learns nothing.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

import svetovid.training as sv
from svetovid.stakeholder.readers import read_columns

HERE = Path(__file__).parent
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
BATCH = 64
HELD_OUT = 10_000
SEED = 7

Columns = Mapping[str, np.ndarray[Any, np.dtype[np.uint8]]]


def fashion_mnist(part: str, count: int) -> Columns:
    """``image`` uint8 [n, 28, 28] and ``label`` of Debian's package: ``train`` or ``t10k``."""

    def read(name: str, column: str) -> Any:
        found = read_columns(FASHION_MNIST / f"{part}-{name}-ubyte.gz")
        return np.array(found[column].view()[:count])

    return {"image": read("images-idx3", "x"), "label": read("labels-idx1", "label")}


def noise(count: int) -> Columns:
    """Of CIFAR-10's shape."""
    draws = np.random.default_rng(SEED)
    image = draws.integers(0, 256, (count, 3, 32, 32), np.uint8)
    return {"image": image, "label": draws.integers(0, 10, count, np.uint8)}


def written(folder: Path, owner: str, columns: Columns) -> Path:
    """One owner's file: NumPy's, or CIFAR-10's binary version."""
    if columns["image"].ndim == 3:
        path = folder / f"{owner}.npz"
        np.savez(path, image=columns["image"], label=columns["label"])
        return path
    path = folder / f"{owner}.bin"
    rows = columns["image"].reshape(len(columns["label"]), -1)
    path.write_bytes(np.hstack([columns["label"][:, None], rows]).tobytes())
    return path


def plain(folder: Path, data: Mapping[str, Columns], parameters: Mapping[str, Any]) -> Any:
    """What the job's own script trains at home, in fp32, from the same start and batches."""
    sv.local(data, parameters={**parameters, "masked": 0}, seed=SEED, folder=folder)
    runpy.run_path(str(HERE / "train.py"))
    return load_file(folder / "model.safetensors")


def accuracy(weights: Mapping[str, torch.Tensor], data: Columns) -> float:
    """Percent right."""
    from models import cnn

    net = cnn()
    net.load_state_dict(weights)
    x = torch.tensor(data["image"]).unsqueeze(1).float() / 255
    with torch.no_grad():
        right = [net(part).argmax(1) for part in x.split(500)]
    return 100 * float((torch.cat(right) == torch.tensor(data["label"])).float().mean())


def shown(console: Console, title: str, told: Mapping[str, Any]) -> None:
    """A table of names and values."""
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in told.items():
        if isinstance(value, dict):
            value = list(value.values())
        text = "\n".join(map(str, value)) if isinstance(value, list) else str(value)
        table.add_row(name.replace("_", " "), text)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--net", choices=["cnn", "vgg11"], default="cnn")
    parser.add_argument("--images", type=int, default=6_000, help="to train on")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=BATCH)
    given = parser.parse_args()
    sys.path.insert(0, str(HERE))  # where the job's script finds its models, too
    from walk import OPERATORS, Walk

    torch.set_num_threads(1)
    console = Console()
    cnn = given.net == "cnn"
    whole = fashion_mnist("train", given.images) if cnn else noise(given.images)
    half = given.images // 2
    data = {
        "a": {name: column[:half] for name, column in whole.items()},
        "b": {name: column[half:] for name, column in whole.items()},
    }
    parameters = {"net": given.net, "epochs": given.epochs, "batch": given.batch}
    steps = given.epochs * -(-given.images // given.batch)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        console.print(f"training plainly, in fp32: {steps} steps")
        begun = time.monotonic()
        expected = plain(folder / "plain", data, parameters)
        plain_s = time.monotonic() - begun
        walk = Walk(folder, lambda line: console.print(f"$ {line}", style="dim", soft_wrap=True))
        with walk.begun():
            walk.share("carol", HERE, "code")
            walk.share("alice", written(folder, "alice", data["a"]), "data")
            walk.share("bob", written(folder, "bob", data["b"]), "data")
            job = walk.propose(
                {"a": "alice", "b": "bob"},
                parameters,
                {
                    tensor: {"dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape)}
                    for tensor, t in expected.items()
                },
                {"products": steps * 60, "numbers": steps * given.batch * 1_000_000},
            )
            shown(console, "guarantee card", job["guarantees"])
            begun = time.monotonic()
            model, verdict = walk.train()
            masked_s = time.monotonic() - begun
            heard = [walk.heard(worker) for worker in walk.workers]
        found = load_file(model)
    table = Table(title="what each worker saw", title_justify="left")
    for column in ("operator", "operands", "bytes it was sent", "bytes it answered"):
        table.add_column(column)
    for operator, said in zip(OPERATORS, heard, strict=True):
        table.add_row(
            operator, *(f"{said[x]:,}" for x in ("operands", "received_bytes", "sent_bytes"))
        )
    console.print(table)
    good = verdict["verified"] is True and found.keys() == expected.keys()
    if cnn:
        held_out = fashion_mnist("t10k", HELD_OUT)
        right = {"plain": accuracy(expected, held_out), "masked": accuracy(found, held_out)}
        good &= right["plain"] - right["masked"] <= 1.0
        console.print(
            f"accuracy on {HELD_OUT:,} held-out images: plain {right['plain']:.2f} % "
            f"({plain_s:.0f} s), masked {right['masked']:.2f} % ({masked_s:.0f} s)"
        )
    console.print(f"masked job: {'ok' if good else 'NOT as it should be'}")
    return 0 if good else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
