"""The CNN of the main job on Fashion-MNIST, trained plainly and otherwise from the same start."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import nn

from benchmarks._fashion_mnist import load

BATCH = 64
Data = tuple[torch.Tensor, torch.Tensor]


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    made: nn.Module = importlib.import_module("examples.masked.models").cnn()
    return made


def images(part: str, count: int) -> Data:
    """float32 ``[n, 1, 28, 28]`` in [0, 1], and labels, of ``train`` or ``t10k``."""
    columns = load(part)
    x = torch.from_numpy(columns["image"][:count]).unsqueeze(1).float() / 255
    return x, torch.from_numpy(columns["label"][:count]).long()


def train(
    model: nn.Module, run: Callable[[int, Callable[[], None]], None], data: Data, epochs: int
) -> None:
    """``run`` gets each step's number, and what computes its gradients."""
    x, y = data
    steps = epochs * -(-len(x) // BATCH)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, steps)
    order = torch.Generator().manual_seed(7)
    number = 0
    for _ in range(epochs):
        for some in torch.randperm(len(x), generator=order).split(BATCH):

            def step(some: torch.Tensor = some) -> None:
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(x[some]), y[some]).backward()

            run(number, step)
            optimiser.step()
            schedule.step()
            number += 1


def accuracy(model: nn.Module, data: Data) -> float:
    """Percent right."""
    x, y = data
    with torch.no_grad():
        right = torch.cat([model(part).argmax(1) for part in x.split(500)]) == y
    return 100 * float(right.float().mean())
