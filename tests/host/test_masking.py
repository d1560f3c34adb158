"""The seam between a sandbox and the host that masks for it: what is computed, and what is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from host.maskworld import Both, Numbered, net, trained
from svetovid.errors import LimitError, SvetovidError, TransportError
from svetovid.host import masking
from svetovid.host.masking import Room
from svetovid.offload import kernels
from svetovid.offload.product import Product
from svetovid.offload.protecting import protect
from svetovid.offload.protocols import SCHEMES
from svetovid.training._masked import run_step

SQUARE = Product("matmul", (1, 2, 2), (1, 2, 2), (1, 2, 2))
PLAIN = dict(vars(SQUARE))
Make = Callable[..., Both]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Make]:
    made: list[Both] = []

    def make(**more: Any) -> Both:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Both(folder, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def simulated(steps: int) -> dict[str, torch.Tensor]:
    model, plain = net(), Numbered("run")
    protect(model, plain)
    trained(model, lambda body: run_step(plain, body, model), steps)
    return model.state_dict()


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


# -- what is computed


@pytest.mark.parametrize("protocol", sorted(SCHEMES))
def test_weights_are_those_of_the_simulator(both: Make, protocol: str) -> None:
    here, model = both(protocol=protocol), net()
    protect(model, here.multiplier)
    trained(model, lambda body: run_step(here.multiplier, body, model), 4)
    assert_same(model.state_dict(), simulated(4))


@pytest.mark.parametrize("failing", ["lies", "is silent", "takes on too little"])
def test_a_step_is_done_again_and_leaves_no_mark(both: Make, failing: str) -> None:
    """Buffers, gradients and random numbers are put back, and what catches its own errors does not
    catch this."""
    here, model = both(), net()
    asked = calls = 0

    def fail(_: object, answer: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += 1
        if asked == 9:
            if failing == "is silent":
                raise TransportError("worker.silent")
            if failing == "takes on too little":
                raise LimitError("worker.limit")
            answer[0] ^= 1
        return answer

    def note() -> None:
        nonlocal calls
        calls += 1

    def careless(body: Callable[[], float]) -> float:
        try:
            return run_step(here.multiplier, body, model)
        except Exception:
            raise AssertionError from None

    here.links["worker 1"].change = fail
    protect(model, here.multiplier)
    trained(model, careless, 4, note)
    assert calls == 5
    assert here.session.replaced == ["worker 1"]
    assert_same(model.state_dict(), simulated(4))


def test_until_it_begins_anew_everything_is_answered_again(both: Make) -> None:
    here = both()
    here.multiplier.start()
    here.multiplier.operand("x", torch.ones(4))
    here.links["worker 2"].silent = True
    ask = here.wire.ask
    assert ask("multiply", a=0, b=0, product=PLAIN) == "again"
    assert [ask("operand", count=4), ask("end"), ask("multiply", a=7, b=7, product={})] == [
        "again"
    ] * 3
    assert ask("begin", step=0) == "taken"
    assert ask("operand", count=4) == "taken"
    assert ask("multiply", a=0, b=0, product=PLAIN) == "taken"


def test_without_a_spare_worker_the_job_ends_and_says_why(both: Make) -> None:
    here = both(workers=3)
    here.multiplier.start()
    here.links["worker 0"].silent = True
    one = here.multiplier.operand("x", torch.ones(4))
    assert here.refused(lambda: here.multiplier.multiply(SQUARE, one, one)) == "worker.silent"
    assert here.inbox.ours is here.failed  # what it says is not the sandbox's choice


def test_a_step_that_was_left_half_done_is_over(both: Make) -> None:
    here, model = both(), nn.Linear(4, 2)
    protect(model, here.multiplier)

    def stumble() -> None:
        model(torch.ones(3, 4))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_step(here.multiplier, stumble, model)
    assert run_step(here.multiplier, lambda: model(torch.ones(3, 4)).shape, model) == (3, 2)


# -- what the sandbox's half refuses by itself, so that the job goes on


def test_mistakes_of_a_script_are_told_inside(both: Make) -> None:
    here = both(size=4096)
    multiplier = here.multiplier
    with pytest.raises(SvetovidError, match=r"offload\.step"):
        multiplier.operand("x", torch.ones(2))
    multiplier.start()
    old = multiplier.operand("x", torch.ones(4))
    with pytest.raises(SvetovidError, match=r"offload\.reuse"):
        multiplier.operand("x", torch.ones(2))
    for wrong in (torch.ones(1025), torch.ones(0)):
        with pytest.raises(SvetovidError, match=r"offload\.room"):
            multiplier.operand("y", wrong)
    multiplier.operand("y", torch.ones(1024))
    multiplier.finish()
    multiplier.start()
    with pytest.raises(SvetovidError, match=r"offload\.step"):
        multiplier.multiply(SQUARE, old, old)
    assert here.failed is None


def test_operands_of_any_strides(both: Make) -> None:
    here = both()
    here.multiplier.start()
    value = torch.arange(4.0).view(2, 2)
    a = here.multiplier.operand("a", value.T)
    b = here.multiplier.operand("b", torch.eye(2))
    assert torch.equal(here.multiplier.multiply(SQUARE, a, b)[0], value.T)


# -- a sandbox that speaks for itself


@pytest.mark.parametrize(
    "asked",
    [
        ("operand", {"count": 0}),
        ("operand", {"count": (1 << 18) + 1}),
        ("multiply", {"a": 0, "b": 2, "product": PLAIN}),
        ("multiply", {"a": 0, "b": 1, "product": PLAIN}),
        ("multiply", {"a": 0, "b": 0, "product": {}}),
        ("multiply", {"a": 0, "b": 0, "product": PLAIN | {"kind": "copy"}}),
        ("multiply", {"a": 0, "b": 0, "product": PLAIN | {"out": [1, 2, 3]}}),
        ("multiply", {"a": 0, "b": 0, "product": PLAIN | {"free": "text"}}),
        ("multiply", {"a": 0, "b": 0, "product": [1]}),
        ("multiply", {"a": "x", "b": 0, "product": PLAIN}),
        ("multiply", {"a": 0, "b": 0}),
        ("begin", {}),
        ("begin", {"step": 3, "mask": 1}),
        ("begin", {"step": -1}),
        ("begin", {"step": 0}),  # the one under way
        ("end", {"mask": True}),
        ("seed", {}),
        ("begin", {"step": 1}, b"payload"),
    ],
    ids=str,
)
def test_what_no_honest_script_says(both: Make, asked: tuple[Any, ...]) -> None:
    here = both()
    here.begin()
    here.wire.ask("operand", count=4)
    here.wire.ask("operand", count=5)
    kind, members, *payload = asked
    assert here.refused(lambda: here.wire.ask(kind, *payload, **members)) == "sandbox.protocol"


def test_small_operands_do_not_become_large_by_padding(both: Make) -> None:
    """An image of one number, padded to more than there is memory for."""
    far = 1 << 20
    padded = Product(
        "conv",
        (1, 1, 1, 1),
        (1, 1, 1, 1),
        (1, 1, 3, 3),
        stride=(far, far),
        padding=(far, far),
        dilation=(1, 1),
    )
    here = both()
    here.begin()
    here.wire.ask("operand", count=1)
    asked = {"a": 0, "b": 0, "product": dict(vars(padded))}
    assert here.refused(lambda: here.wire.ask("multiply", **asked)) == "sandbox.protocol"
    assert all(not link.works for link in here.links.values())


def test_small_gradients_do_not_become_large_by_dilation(both: Make) -> None:
    """Of 500 channels of a number each, a window that reaches far takes 500 large images."""
    far, channels = 100_000, 500
    wide = Product(
        "conv_input",
        (1, channels, 1),
        (channels, 1, 2),
        (1, 1, far + 1),
        stride=(1,),
        padding=(0,),
        dilation=(far,),
    )
    here = both()
    here.begin()
    here.wire.ask("operand", count=channels)
    here.wire.ask("operand", count=2 * channels)
    asked = {"a": 0, "b": 1, "product": dict(vars(wide))}
    assert here.refused(lambda: here.wire.ask("multiply", **asked)) == "sandbox.protocol"
    assert all(not link.works for link in here.links.values())


@pytest.mark.parametrize("kind", ["operand", "multiply", "end"])
@pytest.mark.parametrize("before", [False, True])
def test_nothing_outside_of_a_step(both: Make, kind: str, before: bool) -> None:
    here = both()
    members: dict[str, Any] = {
        "operand": {"count": 4},
        "multiply": {"a": 0, "b": 0, "product": PLAIN},
        "end": {},
    }[kind]
    if before:
        here.begin()
        here.wire.ask("end")
    assert here.refused(lambda: here.wire.ask(kind, **members)) == "sandbox.protocol"


def test_operands_of_an_earlier_step_are_gone(both: Make) -> None:
    here = both()
    here.begin()
    here.wire.ask("operand", count=4)
    here.begin()
    asked = {"a": 0, "b": 0, "product": PLAIN}
    assert here.refused(lambda: here.wire.ask("multiply", **asked)) == "sandbox.protocol"


@pytest.mark.parametrize("then", [0, 1, 2])
def test_steps_rise_but_where_one_is_done_again(both: Make, then: int) -> None:
    here = both()
    here.begin(1)
    if then < 2:
        assert here.refused(lambda: here.begin(then)) == "sandbox.protocol"
        return
    here.begin(then)
    here.wire.ask("operand", count=4)
    here.links["worker 1"].silent = True
    assert here.wire.ask("multiply", a=0, b=0, product=PLAIN) == "again"
    assert here.refused(lambda: here.begin(3)) == "sandbox.protocol"


def test_a_job_in_another_mode_has_no_steps(both: Make) -> None:
    here = both()
    here.inbox._masking = None
    assert here.refused(lambda: here.begin()) == "sandbox.protocol"


def test_products_and_numbers_are_bounded_over_all_steps(both: Make) -> None:
    here = both(products=2, numbers=100)
    for _ in range(2):
        here.begin()
        here.wire.ask("operand", count=4)
        here.wire.ask("multiply", a=0, b=0, product=PLAIN)
    here.begin()
    here.wire.ask("operand", count=4)
    asked = {"a": 0, "b": 0, "product": PLAIN}
    assert here.refused(lambda: here.wire.ask("multiply", **asked)) == "offload.limit"
    there = both(products=2, numbers=100)
    for _ in range(2):
        there.begin()
        there.wire.ask("operand", count=50)
    there.begin()
    assert there.refused(lambda: there.wire.ask("operand", count=1)) == "offload.limit"
    assert {len(link.works) for link in here.links.values()} == {2}


def test_a_step_that_is_done_again_counts_again(both: Make) -> None:
    here = both(products=100, numbers=7)
    here.begin()
    here.wire.ask("operand", count=4)
    here.links["worker 1"].silent = True
    assert here.wire.ask("multiply", a=0, b=0, product=PLAIN) == "again"
    here.begin(0)
    assert here.refused(lambda: here.wire.ask("operand", count=4)) == "offload.limit"


def test_operands_of_one_step_are_bounded(both: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_MOST_OPERANDS", 3)
    here = both()
    here.begin()
    for _ in range(3):
        here.wire.ask("operand", count=1)
    assert here.refused(lambda: here.wire.ask("operand", count=1)) == "offload.limit"


def test_all_tensors_of_one_step_are_bounded_together(
    both: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a step holds is the host's memory, not the sandbox's."""
    monkeypatch.setattr(masking, "_STEP_ROOMS", 1)
    here = both()
    most = here.room.size // 4
    for _ in range(2):
        here.begin()
        here.wire.ask("operand", count=most // 2)
        here.wire.ask("operand", count=4)
        here.wire.ask("end")
    here.begin()
    here.wire.ask("operand", count=most - 7)
    here.wire.ask("operand", count=4)
    asked = {"a": 1, "b": 1, "product": PLAIN}
    assert here.refused(lambda: here.wire.ask("multiply", **asked)) == "offload.limit"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(both: Make, value: float) -> None:
    here = both()
    here.multiplier.start()
    wrong = torch.tensor([1.0, value])
    assert here.refused(lambda: here.multiplier.operand("x", wrong)) == "offload.nonfinite"


def test_numbers_that_grow_while_they_are_looked_at(
    both: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one look found small enough is not what the next one sees: nobody is sent a number that
    would wrap."""
    here = both()
    here.multiplier.start()
    look = kernels.absmax

    def between(x: np.ndarray, **more: Any) -> float:
        found = look(x, **more)
        np.frombuffer(here.memory, np.float32, 4)[2] = 1e30
        return found

    monkeypatch.setattr(kernels, "absmax", between)
    act = lambda: here.multiplier.operand("x", torch.ones(4))  # noqa: E731
    assert here.refused(act) == "offload.changed"
    assert here.links["worker 2"].seen == []


def test_the_end_of_a_lease_asks_no_spare_worker(both: Make) -> None:
    here = both()
    here.multiplier.start()
    one = here.multiplier.operand("x", torch.ones(4))
    here.links["worker 0"].silent = True
    here.masking.end()
    assert here.refused(lambda: here.multiplier.multiply(SQUARE, one, one)) == "worker.silent"
    assert sorted(here.links) == ["worker 0", "worker 1", "worker 2"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


@given(value=JSON | st.dictionaries(st.sampled_from(sorted(PLAIN)), JSON).map(lambda d: PLAIN | d))
def test_any_product_is_one_or_our_error(value: Any) -> None:
    try:
        product = masking._product(value)
    except SvetovidError as e:
        assert e.code == "sandbox.protocol"  # noqa: PT017
    else:
        assert product.reduction >= 1


# -- memory


def test_memory_that_is_let_go_of_holds_nothing() -> None:
    room = Room(10_000)
    assert room.size == 8192
    kept = room.numbers(2)
    kept[:] = 7
    room.close()
    assert kept.tolist() == [0, 0]


def test_memory_that_runs_out_in_a_step(both: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise MemoryError

    here = both()
    monkeypatch.setattr(here.session, "multiply", none_left)
    here.multiplier.start()
    one = here.multiplier.operand("x", torch.ones(4))
    assert here.refused(lambda: here.multiplier.multiply(SQUARE, one, one)) == "sandbox.room"


def test_memory_that_cannot_be_had() -> None:
    with pytest.raises(SvetovidError, match=r"sandbox\.room"):
        Room(1 << 62)
