"""Whole steps: workers fail, are replaced, and nothing of it shows in what is computed."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from offload.memory_link import MemoryLink
from svetovid.crypto import Secret
from svetovid.errors import IntegrityError, LimitError, RefusalError, TransportError
from svetovid.offload.address import Mask
from svetovid.offload.card import Seat
from svetovid.offload.field import M31
from svetovid.offload.plain import PlainMultiplier
from svetovid.offload.protecting import protect
from svetovid.offload.protocols import CODED, GOTEN_PUBLISHED, PACKED, SCHEMES, Scheme
from svetovid.offload.session import Place, Session
from svetovid.offload.store import Kept, TensorStore

ROUNDINGS = Secret(bytes(range(32)))
X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def net() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 3)),
    )


def places(count: int, links: dict[str, MemoryLink] | None = None) -> list[Place]:
    def place(name: str) -> Place:
        def connect() -> MemoryLink:
            link = MemoryLink(name)
            if links is not None:
                links[name] = link
            return link

        return Place(Seat(name, f"operator of {name}", "memory"), connect)

    return [place(f"worker {i}") for i in range(count)]


def session(folder: Path, where: list[Place], scheme: Scheme = CODED) -> Session:
    return Session(scheme, where, folder, run="run", roundings=ROUNDINGS)


def trained(model: nn.Module, run: Callable[[int, Callable[[], float]], float], steps: int) -> None:
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    torch.manual_seed(11)
    for number in range(steps):

        def step() -> float:
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(X), Y)
            loss.backward()
            return loss.item()

        run(number, step)
        optimiser.step()


def simulated(steps: int) -> dict[str, torch.Tensor]:
    """The plain 8-bit simulator's weights."""
    model, plain = net(), PlainMultiplier("run", ROUNDINGS)
    protect(model, plain)

    def run(number: int, step: Callable[[], float]) -> float:
        plain.begin(number)
        try:
            return step()
        finally:
            plain.end()

    trained(model, run, steps)
    return model.state_dict()


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def lie_at(number: int) -> Callable[[object, np.ndarray], np.ndarray]:
    """A worker's change to its answers: one element of the ``number``-th, of 1, is another."""
    asked = itertools.count(1)

    def change(_: object, answer: np.ndarray) -> np.ndarray:
        if next(asked) == number:
            answer[0] ^= 1
        return answer

    return change


@pytest.mark.parametrize("scheme", list(SCHEMES.values()), ids=lambda s: s.name)
def test_weights_after_fifty_steps_are_those_of_the_simulator(
    tmp_path: Path, scheme: Scheme
) -> None:
    steps = 50 if scheme is CODED else 5
    model = net()
    with session(tmp_path, places(len(scheme.workers)), scheme) as masked:
        protect(model, masked)
        trained(model, lambda number, step: masked.run(number, step, model), steps)
    assert_same(model.state_dict(), simulated(steps))


def test_a_liar_is_replaced_and_the_weights_are_the_same(tmp_path: Path) -> None:
    links: dict[str, MemoryLink] = {}
    model = net()
    with session(tmp_path, places(5, links), CODED) as masked:
        links["worker 1"].change = lie_at(8)  # in the middle of a step
        protect(model, masked)
        trained(model, lambda number, step: masked.run(number, step, model), 4)
        assert masked.replaced == ["worker 1"]
        assert [s.identity for s in masked._seats] == ["worker 0", "worker 3", "worker 2"]
        assert "worker 3" in masked.card().sees
        assert links["worker 1"].closed
    assert_same(model.state_dict(), simulated(4))


def test_a_worker_that_is_away_at_the_start_is_replaced(tmp_path: Path) -> None:
    def away() -> MemoryLink:
        raise TransportError("worker.unreachable")

    where = places(4)
    where[1] = Place(where[1].seat, away)
    model = net()
    with session(tmp_path, where) as masked:
        protect(model, masked)
        trained(model, lambda number, step: masked.run(number, step, model), 2)
        assert masked.replaced == ["worker 1"]
        assert [s.identity for s in masked._seats] == ["worker 0", "worker 3", "worker 2"]
    assert_same(model.state_dict(), simulated(2))
    links: dict[str, MemoryLink] = {}
    none = places(3, links)
    none[2] = Place(none[2].seat, away)
    (tmp_path / "other").mkdir()
    with pytest.raises(TransportError, match=re.escape("worker.unreachable")):
        session(tmp_path / "other", none)
    assert all(link.closed for link in links.values())


def test_a_spare_that_is_away_is_passed_over(tmp_path: Path) -> None:
    def away() -> MemoryLink:
        raise TransportError("worker.unreachable")

    links: dict[str, MemoryLink] = {}
    where = places(5, links)
    where[3] = Place(where[3].seat, away)
    model = net()
    with session(tmp_path, where) as masked:
        protect(model, masked)
        links["worker 0"].silent = True
        trained(model, lambda number, step: masked.run(number, step, model), 1)
        assert [s.identity for s in masked._seats] == ["worker 4", "worker 1", "worker 2"]
        links["worker 1"].silent = True
        with pytest.raises(TransportError, match=re.escape("worker.silent")):
            trained(model, lambda number, step: masked.run(number + 1, step, model), 1)


def test_without_a_spare_the_error_comes_out(tmp_path: Path) -> None:
    links: dict[str, MemoryLink] = {}
    model = net()
    with session(tmp_path, places(3, links)) as masked:
        protect(model, masked)
        links["worker 2"].silent = True
        with pytest.raises(TransportError, match=re.escape("worker.silent")):
            trained(model, lambda number, step: masked.run(number, step, model), 1)
        assert masked.replaced == []


def test_what_the_script_does_wrong_is_not_done_again(tmp_path: Path) -> None:
    calls = []
    with session(tmp_path, places(4)) as masked, pytest.raises(ZeroDivisionError):
        masked.run(0, lambda: calls.append(1) or 1 / 0, net())
    assert calls == [1]


def test_after_a_crash_a_worker_keeps_its_place(tmp_path: Path) -> None:
    first = places(3)
    with session(tmp_path, first):
        pass
    with pytest.raises(RefusalError, match=re.escape("offload.point")):
        session(tmp_path, [first[1], first[0], first[2]])
    with session(tmp_path, first):
        pass


def test_a_spare_that_had_another_place_in_an_earlier_life_is_passed_over(tmp_path: Path) -> None:
    """Two workers are away, and spares take their places; then one of the two is back."""

    def away() -> MemoryLink:
        raise TransportError("worker.unreachable", expected="a worker", observed="none")

    def there(name: str) -> Place:
        return Place(Seat(name, name, "memory"), lambda: MemoryLink(name))

    def gone(name: str) -> Place:
        return Place(Seat(name, name, "memory"), away)

    spares = [there(name) for name in ("S", "T", "U")]
    with session(tmp_path, [gone("A"), gone("B"), there("C"), *spares]) as masked:
        assert [s.identity for s in masked._seats] == ["S", "T", "C"]
    with session(tmp_path, [there("A"), gone("B"), there("C"), *spares]) as masked:
        assert [s.identity for s in masked._seats] == ["A", "T", "C"]


@settings(max_examples=25, deadline=None)
@given(
    failures=st.lists(
        st.tuples(st.integers(1, 90), st.sampled_from(["lie", "silent", "crash"])), max_size=4
    )
)
def test_no_second_point_and_no_second_value_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, failures: list[tuple[int, str]]
) -> None:
    """Workers lie, fall silent and the trusted side is killed at any operand or answer: nobody, a
    spare of an earlier life included, ever gets two points of a tensor, no mask is used for two
    values, and the weights are the simulator's."""
    folder = tmp_path_factory.mktemp("run")
    keys: list[bytes] = []
    points: dict[str, set[int]] = defaultdict(set)
    plan = dict(failures)
    moments = 0
    names = sorted({point for worker in CODED.workers for point in worker.points})

    def moment() -> str | None:
        nonlocal moments
        moments += 1
        return plan.pop(moments, None)

    class Noted(MemoryLink):
        """Notes which points it was given, whatever becomes of them."""

        def _keep(self, operand: int, values: np.ndarray) -> None:
            points[self.identity].add(operand % len(names))
            super()._keep(operand, values)
            kind = moment()
            if kind == "crash":
                raise KeyboardInterrupt
            if kind is not None:
                raise TransportError("worker.gone", expected="a worker", observed="none")

    def connect(name: str) -> Callable[[], MemoryLink]:
        def made() -> MemoryLink:
            link = Noted(name)

            def change(_: object, answer: np.ndarray) -> np.ndarray:
                kind = moment()
                if kind == "lie":
                    answer[0] ^= 1
                elif kind == "silent":
                    raise TransportError("worker.silent", expected="an answer", observed="none")
                elif kind == "crash":
                    raise KeyboardInterrupt
                return answer

            link.change = change
            return link

        return made

    def where(name: str) -> Place:
        return Place(Seat(name, name, "memory"), connect(name))

    seats = ["worker 0", "worker 1", "worker 2"]
    model = net()
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    torch.manual_seed(11)
    real = Mask.key

    def key(self: Mask, master: Secret) -> bytes:
        found = real(self, master)
        keys.append(found)
        return found

    number = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mask, "key", key)
        while number < 3:
            before = [b.clone() for b in model.buffers()], torch.get_rng_state()
            spares = [f"spare {i}" for i in range(8)]
            try:
                with session(folder, [where(n) for n in (*seats, *spares)]) as masked:
                    protect(model, masked)
                    while number < 3:

                        def step() -> float:
                            optimiser.zero_grad()
                            loss = nn.functional.cross_entropy(model(X), Y)
                            loss.backward()
                            return loss.item()

                        before = [b.clone() for b in model.buffers()], torch.get_rng_state()
                        masked.run(number, step, model)
                        optimiser.step()
                        number += 1
            except KeyboardInterrupt:  # killed: the last checkpoint is where it goes on
                for b, old in zip(model.buffers(), before[0], strict=True):
                    b.data.copy_(old)
                torch.set_rng_state(before[1])
    assert len(points) >= 3
    assert all(len(p) == 1 for p in points.values())
    assert max(Counter(keys).values()) == 1
    assert not plan or moments < max(plan)
    plain, other = PlainMultiplier("run", ROUNDINGS), net()
    protect(other, plain)
    again = torch.optim.SGD(other.parameters(), 0.1, momentum=0.9)
    torch.manual_seed(11)
    for n in range(3):
        plain.begin(n)
        again.zero_grad()
        nn.functional.cross_entropy(other(X), Y).backward()
        plain.end()
        again.step()
    assert_same(model.state_dict(), other.state_dict())


def test_a_wrong_step_of_an_integrity_error_elsewhere_is_not_blamed(tmp_path: Path) -> None:
    def body() -> None:
        raise IntegrityError("seal.broken", expected="-", observed="-")

    with session(tmp_path, places(4)) as masked:
        with pytest.raises(IntegrityError, match=re.escape("seal.broken")):
            masked.run(0, body, net())
        assert masked.replaced == []


@pytest.mark.parametrize("scheme", [CODED, PACKED, GOTEN_PUBLISHED], ids=lambda s: s.name)
def test_steps_within_a_limit_of_memory_compute_the_same(tmp_path: Path, scheme: Scheme) -> None:
    """What autograd saves and what operands were quantised to, together."""
    store = TensorStore(0.008, tmp_path)
    model = net()
    where = places(len(scheme.workers))
    with Session(scheme, where, tmp_path, run="run", roundings=ROUNDINGS, memory=store) as masked:
        protect(model, masked)
        trained(model, lambda number, step: masked.run(number, step, model), 3)
        assert store.sealed_bytes > 0
        assert store.plain_bytes == 0  # nothing of a step outlives it
    assert_same(model.state_dict(), simulated(3))


def test_operands_lie_in_the_store(tmp_path: Path) -> None:
    store = TensorStore(0.01, tmp_path)
    with Session(
        CODED, places(3), tmp_path, run="run", roundings=ROUNDINGS, memory=store
    ) as masked:
        masked.begin(0)
        held = [masked.operand(str(i), torch.randn(2000)) for i in range(6)]
        assert 0 < store.plain_bytes <= 0.01 * 2**20 < 6 * 4000
        assert all(isinstance(operand.integers, Kept) for operand in held)
        masked.end()
        assert store.plain_bytes == 0


def test_a_liar_that_puts_it_right_afterwards_is_named_at_the_second_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers lie in memory that a worker may write to: once they were wrong, they are copied."""
    links: dict[str, MemoryLink] = {}
    model = net()
    with session(tmp_path, places(4, links)) as masked:

        def lie(_: object, answer: np.ndarray) -> np.ndarray:
            answer[0] = (int(answer[0]) + 1) % M31.p
            memory.append(answer)
            return answer

        def put_right(*given: Any) -> Any:
            found = real(*given)
            memory[-1][0] = (int(memory[-1][0]) - 1) % M31.p
            return found

        memory: list[np.ndarray] = []
        real = masked._masker._combined
        monkeypatch.setattr(masked._masker, "_combined", put_right)
        links["worker 1"].change = lie
        protect(model, masked)
        trained(model, lambda number, step: masked.run(number, step, model), 2)
        assert masked.replaced == ["worker 1"]
    assert_same(model.state_dict(), simulated(2))


def test_gradients_of_a_failed_try_are_put_back(tmp_path: Path) -> None:
    """Of a body that adds to what is there, as one does over several batches."""
    links: dict[str, MemoryLink] = {}
    found = []
    for lies in (False, True):
        model = net()
        (tmp_path / str(lies)).mkdir()
        with session(tmp_path / str(lies), places(4, links)) as masked:
            protect(model, masked)
            torch.manual_seed(1)

            def step(model: nn.Module = model) -> None:
                nn.functional.cross_entropy(model(X), Y).backward()

            masked.run(0, step, model)
            links["worker 0"].change = lie_at(5) if lies else None  # the step's last product
            masked.run(1, step, model)
            assert masked.replaced == (["worker 0"] if lies else [])
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_a_worker_that_takes_on_too_little_is_replaced(tmp_path: Path) -> None:
    links: dict[str, MemoryLink] = {}
    model = net()
    with session(tmp_path, places(4, links)) as masked:

        def refuse(*_: object) -> np.ndarray:
            raise LimitError("worker.limit", expected="less", observed="more")

        links["worker 2"].change = refuse
        protect(model, masked)
        trained(model, lambda number, step: masked.run(number, step, model), 1)
        assert masked.replaced == ["worker 2"]


def test_t17_the_card_counts_whoever_may_come_and_whoever_went(tmp_path: Path) -> None:
    where = places(4)
    twice = Place(Seat("worker 4", where[1].seat.operator, "memory"), where[3].connect)
    with session(tmp_path, [*where[:3], twice]) as masked:
        assert masked.card().collusion_bound == 0


def test_a_spare_that_had_another_place_is_passed_over(tmp_path: Path) -> None:
    links: dict[str, MemoryLink] = {}
    where = places(5, links)
    with session(tmp_path, [where[0], where[3], where[2]]):
        pass
    model = net()
    with session(tmp_path, [where[0], where[1], where[2], where[3], where[4]]) as masked:
        links["worker 2"].silent = True
        protect(model, masked)
        trained(model, lambda number, step: masked.run(number, step, model), 1)
        assert [s.identity for s in masked._seats] == ["worker 0", "worker 1", "worker 4"]
        assert masked.replaced == ["worker 2"]


def test_labels_logits_and_scales_are_in_nothing_that_a_worker_gets(tmp_path: Path) -> None:
    """What is not a masked number is the same, to the last byte, whatever is computed: sizes,
    order, and every product that is asked for. Masked numbers are uniform (``test_privacy``)."""

    def seen(name: str, x: torch.Tensor, y: torch.Tensor) -> list[object]:
        (tmp_path / name).mkdir()
        links: dict[str, MemoryLink] = {}
        model = net()
        with session(tmp_path / name, places(3, links)) as masked:
            protect(model, masked)

            def step() -> float:
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                return loss.item()

            masked.run(0, step, model)
        return [
            (link.works, [(number, values.size) for number, values in link.seen])
            for link in links.values()
        ]

    first = seen("one", X, Y)
    assert first == seen("larger", X * 1000, Y)
    assert first == seen("other labels", X, (Y + 1) % 3)
