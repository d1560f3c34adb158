"""The functions of ``svetovid.training``, over the session of this process."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from svetovid.training._records import Records
from svetovid.training._session import current, install
from svetovid.training._state import dump_state, load_state
from svetovid.training._tensors import pack, unpack

Result = TypeVar("Result")
Model = TypeVar("Model")


def dataset(slot: str, transform: Callable[[tuple[Any, ...]], Any] | None = None) -> Records:
    """The records of a slot, for ``torch.utils.data.DataLoader`` with any number of workers.

    Args:
        slot: as the job names it.
        transform: called with each sample, a tuple of one tensor a field in the schema's order.

    Raises:
        KeyError: for a slot that the job has not.
        TypeError: for a slot without records.
    """
    session = current()
    return Records(session.content(slot), session.schema(slot), transform)


def tensors(slot: str) -> dict[str, Any]:
    """All records of a slot by field, each of shape ``(records, *shape)``.

    Waits until all is decrypted. Strided views of the shared memory where its layout allows them
    (read-only: ``clone()`` before writing in place), copies elsewhere.
    """
    records = dataset(slot)
    return {name: records.column(name) for name in records.fields}


def load_model(slot: str) -> dict[str, Any]:
    """The tensors of a model, for ``load_state_dict``; read-only views where they are aligned."""
    content = current().content(slot)
    content.wait(len(content.buffer))
    return unpack(content.buffer)


def save(name: str, state_dict: Mapping[str, Any]) -> None:
    """Hand in one output; returns when the host has taken it.

    The host refuses, and ends the job, where names, dtypes or shapes are not the agreed ones.

    Args:
        name: as the job's outputs name it; each may be saved once.
        state_dict: name to tensor, on any device.
    """
    current().save(name, pack(state_dict))


def log(**metrics: float) -> None:
    """Add a value to each of these metrics; only recipients will see them.

    Raises:
        ValueError: for a value that is not finite.
        KeyError: for a metric that was not agreed.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise ValueError(f"metric {name} is {value}")
        current().metric(name, value)


def progress(done: int, total: int) -> None:
    """Say how far the job is; only recipients will see it, at fixed intervals."""
    current().progress(int(done), int(total))


def checkpoint(things: Mapping[str, Any], *, step: int) -> None:
    """Keep the state of modules, optimizers, schedulers and generators, and of all random
    generators; sealed by the host. Returns when it is safe.

    Args:
        things: name to an object with ``state_dict`` or ``get_state``.
        step: what :func:`resume` will return; for example the number of finished epochs.
    """
    current().checkpoint(dump_state(things, step, current().steps))


def resume(things: Mapping[str, Any]) -> int:
    """Go on from the newest checkpoint, if there is one.

    Args:
        things: under the same names as they were kept.

    Returns:
        the ``step`` of that checkpoint; 0 where the job starts afresh.
    """
    data = current().resume()
    if data is None:
        return 0
    step, current().steps = load_state(things, data)
    return step


def protect(model: Model, layers: Collection[str] | None = None) -> Model:
    """Have a model's products computed by the workers of a job in masked mode, in place.

    Names, parameters and state dict stay those of the plain model. Each forward and backward pass
    belongs into a :func:`step`. At home nothing is masked: the model computes the same 8-bit
    numbers.

    Args:
        model: a ``torch.nn.Module`` of float32, on the processor.
        layers: which, by name; without it all that can be.

    Raises:
        InputError: ``offload.model``, with a reason for every layer that cannot be protected.
        RuntimeError: the job is not in masked mode.
    """
    from svetovid.offload.protecting import protect as protected

    done: Model = protected(model, current().multiplier(), layers)  # type: ignore[type-var, arg-type]
    return done


def step(body: Callable[[], Result], model: Any) -> Result:
    """Do one step of training, or of inference, with a model that :func:`protect` was given.

    Args:
        body: forward and backward: it may change gradients and buffers of ``model`` and draw random
            numbers, and nothing else. Where a worker fails, these are put back and it is called
            again. Let the optimiser step afterwards.
        model: all that is trained in it.

    Returns:
        what ``body`` returns.
    """
    from svetovid.training._masked import run_step

    return run_step(current().multiplier(), body, model)


def parameters() -> dict[str, Any]:
    """The job's hyper-parameters."""
    return dict(current().parameters)


def seed() -> int:
    """Seed the random generators of Python, torch and numpy with the job's seed; returns it."""
    import random
    import sys

    import torch

    value = current().seed
    random.seed(value)
    torch.manual_seed(value)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(value % 2**32)
    return value


def local(
    datasets: Mapping[str, Mapping[str, Any]],
    *,
    models: Mapping[str, Mapping[str, Any]] | None = None,
    parameters: Mapping[str, Any] | None = None,
    seed: int = 0,
    folder: str | Path = "svetovid-local",
) -> None:
    """Try a script at home, on data of your own: NOT sealed, attested or confined.

    Args:
        datasets: slot name to columns (arrays or tensors of one length).
        models: slot name to tensors.
        parameters, seed: as a job would give them.
        folder: where outputs, metrics and the checkpoint go.
    """
    from svetovid.training._local import LocalSession

    install(LocalSession(datasets, models or {}, parameters or {}, seed, Path(folder)))
