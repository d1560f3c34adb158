"""Whole models over masked workers: every weight that of the plain simulator, to the last bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from offload.memory_link import MemoryLink
from offload.models import models
from svetovid.crypto import Secret
from svetovid.offload.card import Seat
from svetovid.offload.plain import PlainMultiplier
from svetovid.offload.protecting import protect
from svetovid.offload.protocols import SCHEMES
from svetovid.offload.session import Place, Session

ROUNDINGS = Secret(bytes(range(32)))
STEPS = 2


class Mixed(nn.Module):
    """Every family that the other models have not."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.up = nn.ConvTranspose1d(5, 6, 3, stride=2, output_padding=1)
        self.mix = nn.Conv1d(6, 6, 3, padding="same", groups=3, padding_mode="circular")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.mix(self.up(self.encoder(self.attention(x, x, x)[0])))
        return found


Run = Callable[[int, Callable[[], float]], float]


def trained(model: nn.Module, x: torch.Tensor, run: Run) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    torch.manual_seed(1)

    def step() -> float:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return float(loss)

    for number in range(STEPS):
        run(number, step)
        optimizer.step()
    return model.state_dict()


def simulated(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    plain = PlainMultiplier("run", ROUNDINGS)

    def run(number: int, step: Callable[[], float]) -> float:
        plain.begin(number)
        try:
            return step()
        finally:
            plain.end()

    return trained(protect(model, plain), x, run)


def place(name: str) -> Place:
    return Place(Seat(name, f"operator of {name}", "memory"), lambda: MemoryLink(name))


@pytest.mark.parametrize(
    ("make", "scheme"),
    [
        (lambda: (models.VGG11(width=2), torch.randn(4, 3, 32, 32)), "coded"),
        (lambda: (models.ResNet18(width=2), torch.randn(3, 3, 32, 32)), "coded"),
        (lambda: (models.GPT(11, 8, 8, 2, 2), torch.randint(11, (2, 8))), "coded"),
        *((lambda: (Mixed(), torch.randn(2, 5, 8)), name) for name in ("coded", "goten-published")),
        (lambda: (Mixed(), torch.randn(3, 5, 8)), "packed"),
        (lambda: (models.ResNet18(width=2), torch.randn(3, 3, 32, 32)), "packed"),
    ],
)
def test_masked_training_is_the_simulators(
    make: Callable[[], tuple[nn.Module, torch.Tensor]], scheme: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, x = make()
    wanted = simulated(copy.deepcopy(model), x)
    places = [place(f"worker {i}") for i in range(len(SCHEMES[scheme].workers))]
    with Session(SCHEMES[scheme], places, tmp_path, run="run", roundings=ROUNDINGS) as session:
        masked = protect(copy.deepcopy(model), session)
        found = trained(masked, x, lambda number, step: session.run(number, step, masked))
    changed = [name for name, value in model.state_dict().items() if (value != found[name]).any()]
    assert len(changed) > len(found) / 2
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
