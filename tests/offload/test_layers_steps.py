"""Layers in steps: names, what is asked for, what is refused, what quantising does to numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from offload.layerworld import Watched
from svetovid.errors import InputError, RefusalError
from svetovid.offload.protecting import protect


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def kinds(multiplier: Watched) -> list[str]:
    return [product.kind for _, _, product in multiplier.asked]


CASES: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: nn.Linear(7, 5), (2, 3, 7)),
    (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 7, 6)),
    (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (2, 4, 5, 4)),
]


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_products_are_those_of_the_quantised_tensors(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layer, multiplier = make(), Watched()
    exact = copy.deepcopy(layer).double()
    x = numbers(*shape).requires_grad_()
    y = protect(layer, multiplier)(x)
    dy = numbers(*y.shape, seed=1)
    y.backward(dy)
    other = multiplier.dequantised("/x").requires_grad_()
    with torch.no_grad():
        exact.weight.copy_(multiplier.dequantised("/w"))  # type: ignore[operator]
    expected = exact(other)
    expected.backward(multiplier.dequantised("/dy").reshape(dy.shape))
    pairs = [(y, expected), (x.grad, other.grad), (layer.weight.grad, exact.weight.grad)]
    for found, wanted in pairs:
        assert isinstance(found, torch.Tensor)
        assert isinstance(wanted, torch.Tensor)
        assert (found - wanted).abs().max() <= 1e-6 * wanted.abs().max()
    channels = [i for i in range(dy.dim()) if i != (2 if isinstance(layer, nn.Linear) else 1)]
    assert isinstance(layer.bias, nn.Parameter)
    torch.testing.assert_close(layer.bias.grad, dy.sum(channels))


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_on_average_it_is_the_plain_layer(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layer = make()
    x, multiplier = numbers(*shape), Watched(step=None)
    plain_x = x.clone().requires_grad_()
    plain = layer(plain_x)
    dy = numbers(*plain.shape, seed=1)
    plain.backward(dy)
    expected = [plain.detach(), plain_x.grad, layer.weight.grad]
    masked, runs = protect(copy.deepcopy(layer), multiplier), 150
    seen: list[list[torch.Tensor]] = [[], [], []]
    for step in range(runs):
        multiplier.begin(step)
        masked.zero_grad()
        other = x.clone().requires_grad_()
        y = masked(other)
        y.backward(dy)
        for to, value in zip(seen, (y, other.grad, masked.weight.grad), strict=True):
            to.append(value.detach().clone())
        multiplier.end()
    for values, wanted in zip(seen, expected, strict=True):
        assert isinstance(wanted, torch.Tensor)
        drawn = torch.stack(values)
        noise = drawn.std(0).norm() / wanted.norm()
        assert 1e-4 < noise < 0.03
        assert (drawn.mean(0) - wanted).norm() < 1.3 * drawn.std(0).norm() / runs**0.5


def test_what_needs_no_gradient_is_not_asked_for() -> None:
    def asked(x_needs: bool, w_needs: bool, bias_needs: bool = True) -> list[str]:
        layer, multiplier = nn.Conv1d(2, 3, 3), Watched()
        layer.weight.requires_grad_(w_needs)
        assert layer.bias is not None
        layer.bias.requires_grad_(bias_needs)
        x = numbers(2, 2, 5).requires_grad_(x_needs)
        y = protect(layer, multiplier)(x)
        if y.requires_grad:
            y.sum().backward()
        assert (layer.bias.grad is not None) == bias_needs
        assert ("/dy" in multiplier.operands) == (x_needs or w_needs)
        return kinds(multiplier)

    assert asked(True, True) == ["conv", "conv_input", "conv_weight"]
    assert asked(False, True) == ["conv", "conv_weight"]
    assert asked(True, False, False) == ["conv", "conv_input"]
    assert asked(False, False) == ["conv"]
    assert asked(False, False, False) == ["conv"]


def test_a_tensor_is_quantised_once_for_all_its_products() -> None:
    multiplier = Watched()
    protect(nn.Linear(3, 2), multiplier)(numbers(4, 3).requires_grad_()).sum().backward()
    assert sorted(multiplier.operands) == ["/dy", "/w", "/x"]
    assert [pair[:2] for pair in multiplier.asked] == [("/x", "/w"), ("/dy", "/w"), ("/dy", "/x")]


def test_without_gradients_and_in_eval() -> None:
    multiplier = Watched()
    model = protect(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 2)), multiplier)
    with torch.no_grad():
        assert not model(numbers(4, 3)).requires_grad
    with torch.inference_mode():
        model.eval()(numbers(4, 3))
    assert kinds(multiplier) == ["matmul"] * 4


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(torch.tanh(self.layer(x)))
        return found


def test_a_layer_that_is_used_twice_has_two_names_and_the_same_in_every_step() -> None:
    multiplier = Watched(step=None)
    plain = _Twice()
    model = protect(copy.deepcopy(plain), multiplier)
    x = numbers(4, 3)
    plain(x).sum().backward()
    names = []
    for step in (0, 1, 1):
        multiplier.begin(step)
        multiplier.operands.clear()
        model.zero_grad()
        model(x).sum().backward()
        names.append(list(multiplier.operands))
        multiplier.end()
    assert names[0] == names[1] == names[2]
    assert set(names[0]) == {f"layer{n}/{o}" for n in ("", "#1") for o in ("x", "w", "dy")}
    wanted, found = plain.layer.weight.grad, model.layer.weight.grad
    assert wanted is not None
    assert found is not None
    assert (found - wanted).norm() < 0.05 * wanted.norm()


def test_a_backward_pass_is_done_once() -> None:
    y = protect(nn.Linear(3, 2), Watched())(numbers(4, 3)).sum()
    y.backward(retain_graph=True)
    with pytest.raises(RefusalError, match=r"offload\.reuse"):
        y.backward()


def test_a_backward_pass_belongs_to_its_step() -> None:
    multiplier = Watched()
    y = protect(nn.Linear(3, 2), multiplier)(numbers(4, 3)).sum()
    multiplier.end()
    multiplier.begin(1)
    with pytest.raises(RefusalError, match=r"offload\.step"):
        y.backward()


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpoints_are_refused(reentrant: bool) -> None:
    model = protect(nn.Sequential(nn.Linear(3, 3), nn.Sigmoid()), Watched())
    x = numbers(4, 3).requires_grad_()
    y = checkpoint(model, x, use_reentrant=reentrant)
    assert isinstance(y, torch.Tensor)
    with pytest.raises(InputError) as said:
        y.sum().backward()  # type: ignore[no-untyped-call]
    assert said.value.code == "offload.checkpoint"


def test_second_derivatives_are_refused() -> None:
    x = numbers(4, 3).requires_grad_()
    y = protect(nn.Linear(3, 2), Watched())(x).sum()
    with pytest.raises(InputError) as said:
        torch.autograd.grad(y, x, create_graph=True)
    assert said.value.code == "offload.twice"


@pytest.mark.parametrize(
    "x",
    [
        numbers(4, 3).double(),
        numbers(4, 3).bfloat16(),
        numbers(4, 3).to_sparse(),
        numbers(4, 3).to("meta"),
    ],
)
def test_other_numbers_than_float32_are_refused(x: torch.Tensor) -> None:
    with pytest.raises(InputError) as said:
        protect(nn.Linear(3, 2), Watched())(x)
    assert said.value.code == "offload.dtype"


def test_autocast_is_refused_where_it_changed_a_tensor() -> None:
    model = protect(nn.Sequential(nn.Linear(3, 3)), Watched())
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(InputError, match=r"offload\.dtype"),
    ):
        model(F.linear(numbers(4, 3), torch.eye(3)))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(3, 2), (3, 4)),
        (nn.Linear(6, 2), (4, 3)),
        (nn.Conv1d(2, 3, 3), (1, 3, 9)),
        (nn.Conv1d(2, 3, 3), (1, 2, 2)),
        (nn.Linear(3, 2), (0, 3)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(layer: nn.Module, shape: tuple[int, ...]) -> None:
    multiplier = Watched()
    with pytest.raises(InputError, match=r"offload\.shape"):
        protect(layer, multiplier)(numbers(*shape))
    assert not multiplier.operands


def test_an_expanded_gradient_is_read_as_it_is() -> None:
    multiplier = Watched()
    layer = protect(nn.Linear(3, 2, bias=False), multiplier)
    layer(numbers(4, 3)).sum().backward()  # its gradient is one number, expanded
    assert (multiplier.dequantised("/dy") == 1).all()


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_the_next_layer_may_work_in_place(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model = protect(nn.Sequential(make(), nn.ReLU(inplace=True)), Watched())
    y = model(numbers(*shape))
    y.sum().backward()
    assert y.min() == 0


def test_the_input_may_change_after_the_forward_pass() -> None:
    multiplier = Watched()
    layer = protect(nn.Linear(3, 2), multiplier)
    x = numbers(4, 3)
    y = layer(x)
    x.zero_()
    y.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().min() > 0
