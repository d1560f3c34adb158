"""Logistic regression with NumPy alone: small enough for a machine that is emulated.

Slots: a, b (fields features float32 [8], label uint8). Output: model (weight, bias). Metric: loss.
"""

import numpy as np
from safetensors.numpy import save

from svetovid.training import log, parameters
from svetovid.training._session import current

RECORD = np.dtype([("features", "<f4", 8), ("label", "u1")])


def records(slot: str) -> np.ndarray:
    content = current().content(slot)
    content.wait(len(content.buffer))
    return np.frombuffer(content.buffer, RECORD)


both = np.concatenate([records(slot) for slot in ("a", "b")])
x, y = both["features"].astype(np.float64), both["label"].astype(np.float64)
weight, bias = np.zeros(8), 0.0
for _ in range(parameters()["epochs"]):
    guess = 1 / (1 + np.exp(-(x @ weight + bias)))
    log(loss=float(-np.mean(np.log(np.where(y > 0, guess, 1 - guess)))))
    weight -= x.T @ (guess - y) / len(y)
    bias -= float(np.mean(guess - y))

model = {"weight": weight.astype(np.float32), "bias": np.array([bias], np.float32)}
current().save("model", save(model))
