"""A training run's state as one safetensors file: tensors, JSON for the rest, never a pickle.

Everything with ``state_dict`` (modules, optimizers, schedulers) or ``get_state`` (generators) is
taken, and the state of all random generators with it, so that a run that was killed goes on to the
same result.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Mapping
from typing import Any

from svetovid.training._tensors import pack, unpack

__all__ = ["dump_state", "load_state", "random_state", "set_random_state"]

_TREE = "tree"


def _encode(value: Any, tensors: dict[str, Any]) -> Any:
    """JSON of a nested state: plain where JSON is exact, ``{"kind": content}`` elsewhere."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, list):
        return [_encode(v, tensors) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode(v, tensors) for v in value]}
    if isinstance(value, Mapping):
        pairs = [[_encode(k, tensors), _encode(v, tensors)] for k, v in value.items()]
        return {"dict": pairs}
    if hasattr(value, "data_ptr"):
        name = f"t{len(tensors)}"
        tensors[name] = value
        return {"tensor": name}
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}")


def _decode(value: Any, tensors: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "float":
        return float(content)
    if kind == "tuple":
        return tuple(_decode(v, tensors) for v in content)
    if kind == "dict":
        return {_decode(k, tensors): _decode(v, tensors) for k, v in content}
    return tensors[content].clone()


def random_state() -> dict[str, Any]:
    import torch

    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        kind, keys, position, has_gauss, gauss = sys.modules["numpy"].random.get_state()
        state["numpy"] = (kind, [int(k) for k in keys], position, has_gauss, gauss)
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    import torch

    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "numpy" in state:
        import numpy as np

        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])


def _state_of(thing: Any) -> Any:
    if hasattr(thing, "state_dict"):
        return thing.state_dict()
    if hasattr(thing, "get_state"):
        return thing.get_state()
    raise TypeError(f"{type(thing).__name__} has neither state_dict nor get_state")


def dump_state(things: Mapping[str, Any], step: int, steps: int) -> bytearray:
    """Bytes of everything in ``things``, of ``step``, of how many steps of masked mode there were,
    and of all random generators."""
    import torch

    tensors: dict[str, Any] = {}
    tree = {
        "step": step,
        "steps": steps,
        "things": {name: _encode(_state_of(t), tensors) for name, t in things.items()},
        "random": _encode(random_state(), tensors),
    }
    text = bytearray(json.dumps(tree, allow_nan=False).encode())
    tensors[_TREE] = torch.frombuffer(text, dtype=torch.uint8)
    return pack(tensors)


def load_state(things: Mapping[str, Any], data: bytes | memoryview) -> tuple[int, int]:
    """Put a checkpoint's state back into ``things``; its step, and its steps of masked mode."""
    tensors = unpack(data)
    tree = json.loads(bytes(tensors.pop(_TREE).tolist()))
    if tree["things"].keys() != things.keys():
        raise KeyError(
            f"the checkpoint holds {', '.join(sorted(tree['things']))}; "
            f"asked for {', '.join(sorted(things))}"
        )
    for name, thing in things.items():
        state = _decode(tree["things"][name], tensors)
        if hasattr(thing, "load_state_dict"):
            thing.load_state_dict(state)
        else:
            thing.set_state(state)
    set_random_state(_decode(tree["random"], tensors))
    return tree["step"], tree["steps"]
