"""What ``svetovid example`` writes: real data of three parties, code, policies and a job."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from svetovid.cli.checkout import checkout
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


def write_example(name: str, folder: Path) -> list[Path]:
    """Write an example into ``folder``; the paths written.

    Raises:
        InputError: ``example.name``, ``example.exists``.
        HostError: ``example.sklearn``, ``cli.checkout``.
    """
    if name != "breast-cancer":
        raise InputError(
            "example.name",
            expected="breast-cancer",
            observed=name,
            next_step="svetovid example breast-cancer .",
        )
    source = checkout() / "examples" / "breast_cancer"
    columns = _breast_cancer()
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{n}.npz" for n in _RECORDS]
    taken = [p for p in (*written, folder / "train") if p.exists()]
    if taken:
        raise InputError(
            "example.exists",
            expected="a folder without this example",
            observed=str(taken[0]),
            next_step="choose an empty folder",
        )
    for path, rows in zip(written, _RECORDS.values(), strict=True):
        np.savez(path, **{k: v[rows] for k, v in columns.items()})
    (folder / "train").mkdir()
    shutil.copy(source / "train.py", folder / "train" / "train.py")
    texts = {
        "alice.yaml": _DATA_POLICY.format(owner="alice"),
        "bob.yaml": _DATA_POLICY.format(owner="bob"),
        "carol.yaml": _CODE_POLICY,
        "job.yaml": _JOB,
    }
    for file, text in texts.items():
        (folder / file).write_text(text)
    return [*written, folder / "train" / "train.py", *(folder / f for f in texts)]


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
