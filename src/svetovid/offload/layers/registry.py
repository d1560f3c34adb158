"""Which class takes the place of which layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from svetovid.offload.layers.seam import Masked

__all__ = ["masked_form", "masked_layers", "masks", "plain_form"]

_T = TypeVar("_T", bound=type[Masked])
_MASKED: dict[type[nn.Module], type[Masked]] = {}
_PLAIN: dict[type[Masked], type[nn.Module]] = {}


def masks(plain: type[nn.Module]) -> Callable[[_T], _T]:
    """Register the class below as the masked form of a layer.

    The signature that each has: ``class MaskedX(Masked, X)`` with no attributes and no state of its
    own and the ``forward`` of ``X``, in which every product of ``X`` is asked of ``self.call()``.
    A layer is then replaced by giving the same object the other class: parameters, buffers, hooks
    and names stay what they are.

    Args:
        plain: the layer's class. Its subclasses are not meant: they may compute something else.
    """

    def register(masked: _T) -> _T:
        _MASKED[plain] = masked
        _PLAIN[masked] = plain
        return masked

    return register


def masked_form(module: nn.Module) -> type[Masked] | None:
    """The class that takes the place of a plain layer's; None where there is none."""
    return _MASKED.get(type(module))


def masked_layers() -> frozenset[type[nn.Module]]:
    """The layers that have a masked form."""
    return frozenset(_MASKED)


def plain_form(module: Masked) -> type[nn.Module]:
    """The class that a masked layer had before."""
    return _PLAIN[type(module)]
