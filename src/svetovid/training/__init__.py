"""What a job's script imports: records as a PyTorch dataset, checkpoints, metrics, outputs.

An ordinary script changes three lines (``examples/three_lines`` is one, before and after)::

    import svetovid.training as sv

    train = sv.dataset("train")               # instead of opening files
    sv.save("model", model.state_dict())      # instead of torch.save

Inside the sandbox there is no network, no file but the code and no key; everything here goes over
one checked channel. At home the same script runs on data of one's own after :func:`local`.
Importing this needs the standard library alone; torch is imported when it is first used.
"""

from __future__ import annotations

from svetovid.training._api import (
    checkpoint,
    dataset,
    load_model,
    local,
    log,
    parameters,
    progress,
    protect,
    resume,
    save,
    seed,
    step,
    tensors,
)
from svetovid.training._records import Records

__all__ = [
    "Records",
    "checkpoint",
    "dataset",
    "load_model",
    "local",
    "log",
    "parameters",
    "progress",
    "protect",
    "resume",
    "save",
    "seed",
    "step",
    "tensors",
]
