"""The Fashion-MNIST CNN, trained on workers that see nothing of it.

Starts three worker processes, trains the same network from the same start twice, plainly in fp32
and masked, and prints the guarantee card, both accuracies, and how many bytes each worker saw. All
operators are played on this machine, so the card's bound is simulated: you run all the workers.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import nn

from benchmarks._fashion_mnist import load
from svetovid.crypto import Secret
from svetovid.offload.card import GuaranteeCard, Seat
from svetovid.offload.links.local import started
from svetovid.offload.protect import protect
from svetovid.offload.protocols import CODED
from svetovid.offload.recorder import Recorder
from svetovid.offload.session import Place, Session

BATCH = 128


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def images(part: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    columns = load(part)
    x = torch.from_numpy(columns["image"][:count]).unsqueeze(1).float() / 255
    return x, torch.from_numpy(columns["label"][:count]).long()


def train(
    model: nn.Module,
    run: Callable[[int, Callable[[], None]], None],
    data: tuple[torch.Tensor, torch.Tensor],
    epochs: int,
    tick: Callable[[], None],
) -> None:
    x, y = data
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    order = torch.Generator().manual_seed(7)
    number = 0
    for _ in range(epochs):
        for some in torch.randperm(len(x), generator=order).split(BATCH):

            def step(some: torch.Tensor = some) -> None:
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(x[some]), y[some]).backward()

            run(number, step)
            optimiser.step()
            number += 1
            tick()


def accuracy(model: nn.Module, data: tuple[torch.Tensor, torch.Tensor]) -> float:
    x, y = data
    with torch.no_grad():
        right = sum(
            int((model(a).argmax(1) == b).sum())
            for a, b in zip(x.split(500), y.split(500), strict=True)
        )
    return 100 * right / len(y)


def places(recorders: list[Recorder]) -> list[Place]:
    def place(number: int, recorder: Recorder) -> Place:
        seat = Seat(f"worker {number + 1}", f"operator {number + 1} (simulated)", "memory")

        def connect() -> object:
            return started(identity=seat.identity, operator=seat.operator, observer=recorder)

        return Place(seat, connect)  # type: ignore[arg-type]

    return [place(i, recorder) for i, recorder in enumerate(recorders)]


def shown(console: Console, card: GuaranteeCard) -> None:
    table = Table(title="guarantee card", show_header=False, title_justify="left")
    few = card.collusion_bound
    bound = f"any {few} operator learns nothing; {few + 1} who work together learn everything"
    for name, told in (
        ("mode", f"{card.mode}, protocol {card.protocol} modulo {card.prime:,}"),
        ("hidden from workers", ", ".join(card.hidden) or "nothing"),
        ("collusion", bound if card.hidden else "one operator alone learns everything"),
        ("a wrong product passes", f"once in 2^{card.integrity_bits} times at most"),
        ("assumed", "; ".join(card.assumptions)),
        ("visible to workers", "; ".join(card.leaks)),
        ("attacks", "; ".join(card.attacks)),
    ):
        table.add_row(name, told)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=6_000, help="to train on")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    data, held_out = images("train", given.images), images("t10k", 10_000)
    plain, model = network(given.seed), network(given.seed)
    steps = given.epochs * -(-given.images // BATCH)
    recorders = [Recorder(keep=False) for _ in range(3)]
    with Progress(console=console) as bars, tempfile.TemporaryDirectory() as folder:
        bar = bars.add_task("plain, fp32", total=steps)
        train(plain, lambda _, step: step(), data, given.epochs, lambda: bars.advance(bar))
        console.print("starting three workers; each proves its arithmetic first")
        begun = time.monotonic()
        with Session(
            *(CODED, places(recorders), Path(folder)),
            run="demo",
            roundings=Secret(secrets.token_bytes(32)),
        ) as session:
            card = session.card()
            shown(console, card)
            protect(model, session)
            bar = bars.add_task("masked, three workers", total=steps)

            def run(number: int, step: Callable[[], None]) -> None:
                session.run(number, step, model)

            train(model, run, data, given.epochs, lambda: bars.advance(bar))
        seconds = time.monotonic() - begun
    again = network(given.seed)
    again.load_state_dict(model.state_dict())
    found = {"plain": accuracy(plain, held_out), "masked": accuracy(again, held_out)}
    table = Table(title="what each worker saw", title_justify="left")
    for column in ("worker", "operands", "bytes sent to it", "bytes it answered"):
        table.add_column(column)
    for seat, recorder in zip(card.sees, recorders, strict=True):
        table.add_row(
            seat,
            f"{recorder.frames['operand'] + recorder.frames['seed']:,}",
            f"{sum(recorder.sent_bytes.values()):,}",
            f"{sum(recorder.received_bytes.values()):,}",
        )
    console.print(table)
    console.print(f"accuracy on 10,000 held-out images: plain {found['plain']:.2f} %, ", end="")
    console.print(f"masked {found['masked']:.2f} % ({seconds:.0f} s)")
    close = found["plain"] - found["masked"] <= 1.0
    safe = card.collusion_bound == 1 and card.integrity_bits >= 40
    console.print(f"masked job: {'ok' if close and safe else 'NOT as it should be'}")
    return 0 if close and safe else 1


if __name__ == "__main__":
    sys.exit(main())
