"""What ``svetovid example`` writes: real data of three parties, code, policies and a job."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from svetovid.cli.checkout import checkout
from svetovid.crypto.private import unwritable
from svetovid.errors import HostError, InputError

__all__ = ["write_example"]

_RECORDS = {"alice": slice(None, 200), "bob": slice(200, 400), "rita": slice(400, None)}
"""Whose records are which: rita's are never trained on, so that she can judge the model by them."""

_DATA_POLICY = """\
# {owner} lets the one reviewed training program use these records, for rita, three times
# at the most; each time takes all that the job may let out from output_bytes.
version: svetovid.policy/v1
name: {owner}-policy
profile: test               # a software TPM is accepted below: production would refuse it
accepts: [simulated, launcher]
anchors: {{document: $anchors}}
references: [{{document: $references}}]
operators: [$olga]
grants:
  - asset: $asset
    use: data
    code: [$train]
    modes: [attested]
    recipients: [$rita]
    conditions:
      - name: reviewed-entry
        cel: job.entry == "train.py"
        because: only this script was reviewed
    limits: {{runs: 3, output_bytes: 4000000}}
"""

_CODE_POLICY = """\
# carol lets her training program run where her policy's host conditions hold, for rita.
version: svetovid.policy/v1
name: carol-policy
profile: test
accepts: [simulated, launcher]
anchors: {document: $anchors}
references: [{document: $references}]
operators: [$olga]
grants:
  - asset: $asset
    use: code
    modes: [attested]
    recipients: [$rita]
    limits: {runs: 3, output_bytes: 4000000}
"""

_JOB = """\
# rita asks for one model, trained on both owners' records; only she can open it.
version: svetovid.job/v1
name: breast-cancer
mode: attested
assets:
  a: {manifest: $alice-records, owner: $alice, manager: $manager, use: data}
  b: {manifest: $bob-records, owner: $bob, manager: $manager, use: data}
  code: {manifest: $train, owner: $carol, manager: $manager, use: code}
entry: train.py
parameters: {epochs: 200, lr: 0.05}
seed: 7
environment: $lab1-runtime
outputs:
  model:
    tensors:
      weight: {dtype: float32, shape: [1, 30]}
      bias: {dtype: float32, shape: [1]}
      mean: {dtype: float32, shape: [30]}
      scale: {dtype: float32, shape: [30]}
metrics:
  loss: {type: float, max_count: 200}
recipients: [$rita]
limits: {wall_s: 600, memory_mib: 4096, output_bytes: 1000000}
"""

_TEXTS = {
    "alice.yaml": _DATA_POLICY.format(owner="alice"),
    "bob.yaml": _DATA_POLICY.format(owner="bob"),
    "carol.yaml": _CODE_POLICY,
    "job.yaml": _JOB,
}
_PARTS = (*(f"{owner}.npz" for owner in _RECORDS), "train", *_TEXTS)


def write_example(name: str, folder: Path) -> list[Path]:
    """Write an example into ``folder``, or nothing where there is no room for all; the paths.

    Raises:
        InputError: ``example.name``, ``example.exists``.
        HostError: ``example.sklearn``, ``cli.checkout``, ``file.write``.
    """
    if name != "breast-cancer":
        raise InputError(
            "example.name",
            expected="breast-cancer",
            observed=name,
            next_step="svetovid example breast-cancer .",
        )
    script = checkout() / "examples" / "breast_cancer" / "train.py"
    columns = _breast_cancer()
    taken = [path for part in _PARTS if (path := folder / part).exists()]
    if taken:
        raise InputError(
            "example.exists",
            expected="a folder without this example",
            observed=str(taken[0]),
            next_step="choose an empty folder",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".example-") as place:
            new = Path(place)
            _build(new, columns, script)
            for part in _PARTS:
                (new / part).rename(folder / part)
    except OSError as e:
        raise unwritable(
            e, f"to write an example into {folder}", "check that the folder is yours and has room"
        ) from e
    return [folder / "train" / "train.py" if p == "train" else folder / p for p in _PARTS]


def _build(folder: Path, columns: dict[str, Any], script: Path) -> None:
    import numpy as np

    for owner, rows in _RECORDS.items():
        np.savez(folder / f"{owner}.npz", **{k: v[rows] for k, v in columns.items()})
    (folder / "train").mkdir()
    shutil.copy(script, folder / "train" / "train.py")
    for file, text in _TEXTS.items():
        (folder / file).write_text(text)


def _breast_cancer() -> dict[str, Any]:
    """Wisconsin Diagnostic Breast Cancer: 569 records, 30 features, shuffled with a fixed seed."""
    try:
        import numpy as np
        from sklearn.datasets import load_breast_cancer
    except ImportError as e:
        raise HostError(
            "example.sklearn",
            expected="scikit-learn, which carries the data",
            observed=f"no module {e.name}",
            next_step="pip install 'svetovid[dev]'",
        ) from e
    data = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(data.target))
    return {
        "features": data.data[order].astype(np.float32),
        "benign": data.target[order].astype(np.uint8),
    }
