"""Fashion-MNIST from Debian's package, as arrays."""

import gzip
from pathlib import Path

import numpy as np

FOLDER = Path("/usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"


def load(part="train", folder=FOLDER):
    """``image`` uint8 [n, 28, 28] and ``label`` uint8 [n] of ``train`` or ``t10k``."""

    def read(name, header):
        with gzip.open(folder / f"{part}-{name}-ubyte.gz") as f:
            return np.frombuffer(bytearray(f.read()[header:]), np.uint8)

    return {
        "image": read("images-idx3", 16).reshape(-1, 28, 28),
        "label": read("labels-idx1", 8),
    }


def halves(records=None):
    """Two owners' halves: slot name to columns, of the first ``records`` in all."""
    whole = load()
    count = len(whole["label"]) if records is None else records
    middle = count // 2
    return {
        "a": {name: c[:middle] for name, c in whole.items()},
        "b": {name: c[middle:count] for name, c in whole.items()},
    }
