"""A process that trains as anybody would: the same script, on plain data, nothing sealed.

``python -m svetovid.cli.demo.plain FOLDER CONFIG``: FOLDER has the data of each turn; CONFIG is
JSON. Each turn's model, and what all models say of the test data, go into FOLDER.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import svetovid.training as sv
from svetovid.cli.demo.tasks import TASKS


def main(folder: Path, config: str) -> None:
    given = json.loads(config)
    turns = [folder / str(turn) for turn in range(given["turns"])]
    for turn in turns:
        data = {slot: dict(np.load(turn / f"{slot}.npz")) for slot in ("a", "b")}
        sv.local(data, parameters=given["parameters"], seed=given["seed"], folder=turn)
        runpy.run_path(given["script"], run_name="__main__")
    test = dict(np.load(folder / "test.npz"))
    models = [*(turn / "model.safetensors" for turn in turns), Path(given["model"])]
    predict = TASKS[given["task"]].predict
    predicted = {str(n): predict(load_file(model), test) for n, model in enumerate(models)}
    np.savez(folder / "predicted.npz", **predicted)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
