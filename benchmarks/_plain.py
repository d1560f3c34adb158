"""The names of ``svetovid.training`` on plain files: what the baseline of ``train`` imports.

Nothing is sealed, attested or confined here. ``dataset`` is an ordinary map-style dataset over
Debian's files, written the way one writes it without svetovid.
"""

import json
import os
import random
from pathlib import Path

import _fashion_mnist
import torch

_CONFIG = json.loads(os.environ["SVETOVID_BENCH_PLAIN"])
_OUT = Path(_CONFIG["out"])
_metrics = {}


class _Plain(torch.utils.data.Dataset):
    def __init__(self, images, labels, transform):
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)
        self.transform = transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform((self.images[index], self.labels[index]))


def parameters():
    return dict(_CONFIG["parameters"])


def seed():
    random.seed(_CONFIG["seed"])
    torch.manual_seed(_CONFIG["seed"])


def dataset(slot, transform):
    part = _fashion_mnist.halves(_CONFIG["records"])[slot]
    return _Plain(part["image"], part["label"], transform)


def log(**values):
    for name, value in values.items():
        _metrics.setdefault(name, []).append(value)


def progress(done, total):
    pass


def resume(things):
    return 0


def checkpoint(things, step):
    torch.save({name: thing.state_dict() for name, thing in things.items()}, _OUT / "checkpoint.pt")


def save(name, state):
    from safetensors.torch import save_file

    save_file(state, _OUT / f"{name}.safetensors")
    (_OUT / "metrics.json").write_text(json.dumps(_metrics))
