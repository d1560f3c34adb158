"""Whole models: the same names and weights, gradients within the noise of quantising, training."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from offload.layerworld import Watched
from offload.models import models
from svetovid.errors import InputError
from svetovid.offload.layers import Masked
from svetovid.offload.layers.conv import MaskedConv2d
from svetovid.offload.layers.linear import MaskedLinear
from svetovid.offload.protecting import protect, unprotect

Made = tuple[nn.Module, torch.Tensor]


def vgg() -> Made:
    return models.VGG11(width=4), torch.randn(4, 3, 32, 32)


def resnet() -> Made:
    return models.ResNet18(width=4), torch.randn(2, 3, 32, 32)


def gpt() -> Made:
    return models.GPT(17, 12, 16, 2, 2), torch.randint(17, (3, 12))


MODELS = [vgg, resnet, gpt]
NAMES = {
    vgg: {"features.0.weight", "features.25.bias", "features.26.running_var", "classifier.6.bias"},
    resnet: {"conv1.weight", "layer1.1.bn2.bias", "layer2.0.downsample.1.weight", "fc.bias"},
    gpt: {"transformer.wte.weight", "transformer.h.1.attn.c_attn.bias", "lm_head.weight"},
}


def made(make: Callable[[], Made]) -> Made:
    torch.manual_seed(0)
    return make()


def masked_names(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, Masked)}


@pytest.mark.parametrize("make", MODELS)
def test_a_protected_model_has_the_names_of_the_plain_one(make: Callable[[], Made]) -> None:
    plain, x = made(make)
    model, multiplier = copy.deepcopy(plain), Watched()
    parameters = list(model.parameters())
    assert protect(model, multiplier) is model
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    state, other = model.state_dict(), plain.state_dict()
    assert list(state) == list(other)
    assert set(state) >= NAMES[make]
    assert all(torch.equal(state[name], other[name]) for name in state)
    fresh, _ = make()
    fresh.load_state_dict(state)
    protect(fresh, multiplier).load_state_dict(other)
    plain.load_state_dict(fresh.state_dict())
    assert masked_names(unprotect(model)) == set()
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert [vars(m).keys() for m in model.modules()] == [vars(m).keys() for m in plain.modules()]
    assert torch.equal(model.eval()(x), plain.eval()(x))
    assert not multiplier.asked


@pytest.mark.parametrize("make", MODELS)
def test_gradients_are_those_of_the_plain_model_within_the_noise(
    make: Callable[[], Made],
) -> None:
    plain, x = made(make)
    plain.eval()  # batch norm over a batch as small as this makes much of little noise
    multiplier, runs = Watched(step=None), 5
    model = protect(copy.deepcopy(plain), multiplier)
    plain(x).square().mean().backward()
    sizes = [float(p.grad.norm()) for p in plain.parameters() if p.grad is not None]
    wanted = _gradient(plain, sizes)
    seen = []
    for step in range(runs):
        multiplier.begin(step)
        model.zero_grad()
        model(x).square().mean().backward()
        multiplier.end()
        seen.append(_gradient(model, sizes))
    drawn = torch.stack(seen)
    noise = float(drawn.std(0).norm() / wanted.norm())
    assert 0.01 < noise < 0.3
    assert F.cosine_similarity(drawn.mean(0), wanted, dim=0) > 0.97
    assert (drawn.mean(0) - wanted).norm() < noise * wanted.norm()


def _still(module: nn.Module) -> None:
    if isinstance(module, nn.Dropout):
        module.p = 0.0


def _gradient(model: nn.Module, sizes: list[float]) -> torch.Tensor:
    """Of all parameters, each as large as another."""
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat([g / size for g, size in zip(gradients, sizes, strict=True)])


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    multiplier = Watched(step=None)
    model = protect(models.VGG11(width=4), multiplier)
    model.apply(_still)
    x, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for step in range(15):
        multiplier.begin(step)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        multiplier.end()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_training_again_gives_the_same_weights() -> None:
    def trained() -> dict[str, torch.Tensor]:
        model, tokens = made(gpt)
        multiplier = Watched(step=None)
        protect(model, multiplier)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for step in range(3):
            multiplier.begin(step)
            optimizer.zero_grad()
            model(tokens).logsumexp(-1).mean().backward()
            multiplier.end()
            optimizer.step()
        return model.state_dict()

    first, second = trained(), trained()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("plan", "names"),
    [
        (None, {"0", "2"}),
        ({"2"}, {"2"}),
        (["0", "2"], {"0", "2"}),
        ({"0": True, "2": False}, {"0"}),
        ({"2": False}, set()),
        ((), set()),
    ],
)
def test_a_plan_says_which_layers(plan: Any, names: set[str]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(4, 2))
    protect(model, Watched(), plan)
    assert masked_names(model) == names


def test_what_was_protected_is_protected_anew() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    first, second = Watched(), Watched()
    protect(model, first, {"0"})
    protect(model, second, {"1"})
    model(torch.randn(2, 3))
    assert not first.operands
    assert set(second.operands) == {"1/x", "1/w"}


def test_pytorch_is_not_imported_unless_it_is_needed() -> None:
    code = "import sys, svetovid.offload; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_one_layer_is_a_model() -> None:
    layer = protect(nn.Linear(3, 3), Watched())
    assert type(layer) is MaskedLinear
    assert isinstance(layer, nn.Linear)


def test_tied_weights_stay_tied() -> None:
    model, tokens = made(gpt)
    protect(model, Watched())
    assert isinstance(model.lm_head, MaskedLinear)
    table = model.get_submodule("transformer.wte")
    assert isinstance(table, nn.Embedding)
    assert model.lm_head.weight is table.weight
    model(tokens).sum().backward()
    assert model.lm_head.weight.grad is table.weight.grad


def test_layers_that_share_a_weight_have_operands_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    protect(model, multiplier := Watched())
    model(torch.randn(2, 3)).sum().backward()
    assert {"0/w", "1/w"} <= set(multiplier.operands)


def test_a_module_under_two_names_is_chosen_by_either() -> None:
    model = nn.Sequential()
    model.add_module("first", layer := nn.Linear(3, 3))
    model.add_module("second", layer)
    protect(model, multiplier := Watched(), {"second"})
    model(torch.randn(2, 3))
    assert set(multiplier.operands) == {"first/x", "first/w", "first#1/x", "first#1/w"}


def test_a_deep_copy_asks_the_same_multiplier() -> None:
    model = protect(nn.Sequential(nn.Linear(3, 3)), multiplier := Watched())
    other = copy.deepcopy(model)
    x = torch.randn(2, 3)
    model(x)
    other(x)
    assert set(multiplier.operands) == {"0/x", "0/w", "0#1/x", "0#1/w"}


def test_a_pickle_holds_no_multiplier() -> None:
    model = protect(nn.Sequential(nn.Linear(3, 3)), Watched())
    file = io.BytesIO()
    torch.save(model, file)
    assert b"Watched" not in file.getvalue()
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    x = torch.randn(2, 3)
    with pytest.raises(InputError) as said:
        loaded(x)
    assert said.value.code == "offload.unbound"
    protect(loaded, multiplier := Watched())
    loaded(x)
    assert multiplier.operands
    assert torch.equal(unprotect(loaded)(x), unprotect(model)(x))


def test_settings_survive() -> None:
    layer = nn.Conv2d(4, 4, 3, stride=2, groups=2, padding_mode="circular").eval()
    layer.weight.requires_grad_(False)
    said = repr(layer)
    protect(layer, Watched())
    assert type(layer) is MaskedConv2d
    assert repr(layer) == "Masked" + said
    assert not layer.training
    assert not layer.weight.requires_grad
    assert repr(unprotect(layer)) == said


def test_a_model_with_problems_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).double())
    with pytest.raises(InputError) as said:
        protect(model, Watched())
    assert said.value.code == "offload.model"
    assert [r.code for r in said.value.reasons] == ["offload.replace"] * 2
    assert masked_names(model) == set()
