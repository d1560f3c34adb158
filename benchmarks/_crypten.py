"""A training step of LeNet in CrypTen, two processes on this machine; runs in CrypTen's own Python.

``SVETOVID_CRYPTEN`` names a Python where ``pip install --no-deps crypten`` was done beside torch,
omegaconf, onnx, tensorboard, scipy, pandas and pyyaml. CrypTen 0.4.1 imports a module that newer
releases of torch no longer have, and uses nothing of it here: an empty one takes its place.

Steps are asked for by lines on standard input; each answers with its seconds as one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PYTHON = os.environ.get("SVETOVID_CRYPTEN", "")
BATCH = 32


@contextmanager
def stepping() -> Iterator[Callable[[], float]]:
    """Steps of a process that holds the net: each call does one and gives its seconds."""
    process = subprocess.Popen(
        [PYTHON, str(Path(__file__).resolve())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    to, said = process.stdin, process.stdout

    def step() -> float:
        to.write("\n")
        to.flush()
        return float(json.loads(said.readline())["seconds"])

    try:
        yield step
    finally:
        to.close()
        process.terminate()
        process.wait()


def _import_crypten() -> Any:
    stub = types.ModuleType("torch.onnx._internal.registration")
    stub.registry = None  # type: ignore[attr-defined]
    sys.modules[stub.__name__] = stub
    import crypten

    return crypten


def lenet(nn: Any) -> Any:
    """LeNet for images of 32 x 32, of ``torch.nn`` or ``crypten.nn``."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
        nn.Linear(84, 10),
    )


def _party(rank: int, socket_name: str) -> None:
    """One of two processes; the first is told when to begin."""
    import torch

    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", RENDEZVOUS=f"file://{socket_name}", BACKEND="gloo"
    )
    os.environ["DISTRIBUTED_BACKEND"] = "gloo"
    crypten = _import_crypten()
    crypten.init()
    torch.manual_seed(0)
    model = lenet(crypten.nn)
    model.encrypt()
    model.train()
    x = crypten.cryptensor(torch.randn(BATCH, 3, 32, 32))
    y = crypten.cryptensor(torch.nn.functional.one_hot(torch.arange(BATCH) % 10, 10).float())
    loss = crypten.nn.MSELoss()
    go = torch.zeros(1)
    while True:
        if rank == 0:
            go[0] = 1.0 if sys.stdin.readline() else 0.0
        torch.distributed.broadcast(go, 0)
        if not go[0]:
            return
        begun = time.perf_counter()
        model.zero_grad()
        loss(model(x), y).backward()
        model.update_parameters(0.01)
        if rank == 0:
            print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)


def main() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        name = str(Path(folder) / "meeting")
        child = os.fork()
        _party(1 if child == 0 else 0, name)
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
