"""What keeps a model from being protected, all at once, each with what to do about it.

A layer stays inside the trusted process unless it is replaced, so nothing here is about privacy: a
product that no layer by name makes (``x @ y`` in a ``forward``) is simply computed inside.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from svetovid.offload.layers import Around, Masked, masked_form, masked_layers

__all__ = ["Kind", "Plan", "Problem", "chosen", "validate"]

Plan = Mapping[str, bool] | Collection[str] | None
"""Which layers to protect: by name, or a set of names, or all that can be."""


class Kind(StrEnum):
    """What can be done about a problem."""

    NEVER = "never"
    """It cannot be done this way."""
    LATER = "not yet"
    """It could be, and is not built."""
    REPLACE = "replace"
    """Another setting or layer does the same."""


@dataclass(frozen=True)
class Problem:
    """One problem of one layer.

    Attributes:
        module: its name in the model; empty for the model itself.
        kind: what can be done about it.
        what: is wrong.
        fix: what to do.
    """

    module: str
    kind: Kind
    what: str
    fix: str


_Found = Iterator[tuple[Kind, str, str]]
_INSIDE = "leave it out of the plan, so that it stays inside, or "


def validate(model: nn.Module, plan: Plan = None) -> list[Problem]:
    """All problems of a model, in the order of its modules; none where it can be protected.

    Where no plan says otherwise, every layer with products of its own is judged: one that would
    stay inside for want of a masked form is a problem, for nobody said that it should.
    """
    problems = [Problem(name, *found) for name, found in _unknown(model, plan)]
    if torch.is_autocast_enabled("cpu"):
        fix = "leave torch.autocast: operands are quantised from float32"
        problems.append(Problem("", Kind.REPLACE, "autocast is on", fix))
    wanted = chosen(model, plan)
    several = (m for m in model.modules() if isinstance(m, nn.MultiheadAttention))
    parts = {child for module in several for child in module.children()} if plan is None else set()
    for name, module in model.named_modules():
        found = list(_always(module))
        if module in wanted and module not in parts:
            found += _of_layer(module, named=plan is not None)
        problems += [Problem(name, *f) for f in found]
    return problems


def chosen(model: nn.Module, plan: Plan) -> set[nn.Module]:
    """The modules that a plan names, by any of their names; all where there is no plan."""
    if plan is None:
        return set(model.modules())
    named = model.named_modules(remove_duplicate=False)
    return {module for name, module in named if name in _names(plan)}


def _names(plan: Mapping[str, bool] | Collection[str]) -> set[str]:
    return {n for n in plan if not isinstance(plan, Mapping) or plan[n]}


def _unknown(model: nn.Module, plan: Plan) -> Iterator[tuple[str, tuple[Kind, str, str]]]:
    there = {name for name, _ in model.named_modules(remove_duplicate=False)}
    for name in sorted(set(plan or ()) - there):
        yield name, (Kind.REPLACE, "no such module", "take names from model.named_modules()")


def _always(module: nn.Module) -> _Found:
    """What is wrong wherever in a model it stands."""
    if isinstance(module, nn.SyncBatchNorm):
        fix = "use BatchNorm: the trusted side is one process"
        yield Kind.NEVER, "sends raw statistics to other processes", fix
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        fix = "protect the module in it, .module: the trusted side is one process"
        yield Kind.NEVER, "sends raw tensors to other devices or processes", fix
    if isinstance(module, torch.jit.ScriptModule):
        yield Kind.REPLACE, "is compiled TorchScript", "protect the model it was made from"
    if type(module).__module__.startswith("torch._dynamo"):  # importing it takes a second
        yield Kind.REPLACE, "is compiled", "protect the model it was made from, ._orig_mod"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
        fix = "make it with sparse=False"
        yield Kind.REPLACE, "a step takes as long as the rows that it uses are many", fix


def _of_layer(module: nn.Module, named: bool) -> _Found:
    """What is wrong with a layer that is to be protected.

    Args:
        module: the layer.
        named: a plan names it.
    """
    kind = type(module)
    if parametrize.is_parametrized(module):
        fix = "torch.nn.utils.parametrize.remove_parametrizations(module, name), then train that"
        yield Kind.REPLACE, f"parametrised: {', '.join(_parametrised(module))}", fix
    elif isinstance(module, LazyModuleMixin):
        yield Kind.REPLACE, "lazy: it has no shapes yet", "run one batch through the model first"
    elif ".quantized" in kind.__module__:
        fix = "protect the float model that it was made from: products are quantised here"
        yield Kind.NEVER, f"{kind.__name__} is quantised already and cannot be trained", fix
    elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
        fix = _INSIDE + "use attention or convolutions"
        yield Kind.LATER, f"{kind.__name__} has no masked form", fix
    elif isinstance(module, nn.Bilinear):
        yield Kind.LATER, "Bilinear has no masked form", _INSIDE + "use Linear of one factor"
    elif _is_layer(module):
        yield from _of_tensors(module)
        yield from _of_hooks(module)
    elif isinstance(module, Around):
        pass  # replaced, as it is where a layer in it is
    elif base := next((b for b in kind.__mro__[1:] if b in masked_layers()), None):
        fix = f"use {base.__name__} itself, or register a masked form with layers.masks"
        yield Kind.REPLACE, f"{kind.__name__} is not {base.__name__}: it may compute more", fix
    elif named:
        yield Kind.LATER, f"{kind.__name__} has no masked form", _INSIDE + "name the layers in it"


def _is_layer(module: nn.Module) -> bool:
    form = type(module) if isinstance(module, Masked) else masked_form(module)
    return form is not None and not issubclass(form, Around)


def _parametrised(module: nn.Module) -> list[str]:
    return [str(name) for name in getattr(module, "parametrizations", {})]


def _of_tensors(module: nn.Module) -> _Found:
    for name, value in module.named_parameters():
        if value.dtype.is_complex:
            fix = "use two real layers: operands are real integers"
            yield Kind.NEVER, f"{name} is {value.dtype}", fix
        elif value.dtype != torch.float32:
            yield Kind.REPLACE, f"{name} is {value.dtype}", "call module.float()"
        if value.device.type != "cpu":
            fix = "move the model to the processor: only masked numbers leave the trusted process"
            yield Kind.REPLACE, f"{name} is on {value.device}", fix


def _of_hooks(module: nn.Module) -> _Found:
    hooks = [
        *module._forward_pre_hooks.values(),
        *module._forward_hooks.values(),
        *module._backward_pre_hooks.values(),
        *module._backward_hooks.values(),
    ]
    if old := [h for h in hooks if isinstance(h, WeightNorm | SpectralNorm)]:
        fix = "torch.nn.utils.remove_weight_norm or remove_spectral_norm"
        yield Kind.REPLACE, f"its weight is made by {type(old[0]).__name__}", fix
    elif hooks:
        fix = "remove it, or put it on a module around this one"
        yield Kind.REPLACE, "a hook sees its raw tensors", fix
