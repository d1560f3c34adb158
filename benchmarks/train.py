"""Sealed, attested, sandboxed training against plain PyTorch on plain files.

The same script (``examples/fashion_mnist/train.py``) trains a small CNN on Fashion-MNIST, same
seed, same batches. Turn by turn it runs plainly, as a process of its own on Debian's files, and as
a job. Both time each step inside, in the same lines of the script; the first steps of a run warm
up and do not count. Final weights must be identical, bit for bit.

Top-level keys: ``ratio`` (median over the rounds of the job's median step over the plain run's
median step of that round), ``attest_s``, ``release_s``, ``open_s`` (medians).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import _fashion_mnist
from benchmarks._harness import refuse_if_loaded, summary
from svetovid.errors import HostError

__all__ = ["Outcome", "RunJob", "Workload", "compare", "run"]

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "fashion_mnist" / "train.py"
TENSORS = {
    "0.weight": (16, 1, 3, 3),
    "0.bias": (16,),
    "3.weight": (32, 16, 3, 3),
    "3.bias": (32,),
    "7.weight": (64, 32 * 7 * 7),
    "7.bias": (64,),
    "9.weight": (10, 64),
    "9.bias": (10,),
}
SEED = 20
WARM_UP_STEPS = 20


@dataclass(frozen=True)
class Workload:
    """What to train, for whoever runs it as a job.

    Attributes:
        code: file name to content; ``entry`` is run.
        datasets: slot name to columns (uint8 arrays), one owner each.
        tensors, metrics: what the job may let out, as a job document says it.
    """

    code: Mapping[str, bytes]
    entry: str
    datasets: Mapping[str, Mapping[str, Any]]
    parameters: Mapping[str, int | float]
    seed: int
    tensors: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """What came of it: safetensors bytes of the model, metrics by name, seconds by stage."""

    model: bytes
    metrics: Mapping[str, list[float]]
    timings: Mapping[str, float] = field(default_factory=dict)


RunJob = Callable[[Workload], Outcome]


def _plain(work: Workload, records: int | None) -> Outcome:
    """The script with one line changed back: its import."""
    text = work.code[work.entry].decode()
    changed = text.replace("import svetovid.training as sv", "import _plain as sv")
    if changed == text:
        raise HostError("bench.script", expected="a line that imports svetovid.training")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        script.write_text(changed)
        config = {
            "out": folder,
            "parameters": dict(work.parameters),
            "seed": work.seed,
            "records": records,
        }
        threads = str(len(os.sched_getaffinity(0)))
        environment = {
            "PYTHONPATH": str(ROOT / "benchmarks"),
            "SVETOVID_BENCH_PLAIN": json.dumps(config),
            "PATH": os.environ.get("PATH", ""),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
        }
        subprocess.run([sys.executable, str(script)], check=True, env=environment)
        return Outcome(
            (Path(folder) / "model.safetensors").read_bytes(),
            json.loads((Path(folder) / "metrics.json").read_text()),
        )


def _same_weights(left: bytes, right: bytes) -> bool:
    from safetensors.numpy import load

    a, b = load(left), load(right)
    return a.keys() == b.keys() and all(a[n].tobytes() == b[n].tobytes() for n in a)


def _workload(epochs: int, records: int | None) -> Workload:
    return Workload(
        code={"train.py": SCRIPT.read_bytes()},
        entry="train.py",
        datasets=_fashion_mnist.halves(records),
        parameters={"epochs": epochs, "batch": 128, "lr": 0.05},
        seed=SEED,
        tensors={n: {"dtype": "float32", "shape": list(s)} for n, s in TENSORS.items()},
        metrics={
            "loss": {"type": "float", "max_count": 1000},
            "step_s": {"type": "float", "max_count": 1_000_000},
        },
    )


def run(quick: bool = False) -> dict[str, Any]:
    """Run the benchmark against the whole job: policies, consents, attestation, release, sandbox.

    Args:
        quick: few records and one round, to see that it works; its figures mean nothing.

    Raises:
        HostError: as :func:`compare`.
    """
    from benchmarks._attested import attested

    if not quick:
        refuse_if_loaded()
    with attested() as run_job:
        return compare(quick, run_job)


def compare(quick: bool, run_job: RunJob) -> dict[str, Any]:
    """Plain training and the job, turn by turn.

    Args:
        quick: few records and one round.
        run_job: takes a workload through the job.

    Raises:
        HostError: ``bench.data`` without Debian's package, ``bench.loaded``, ``bench.weights``.
    """
    if not _fashion_mnist.FOLDER.is_dir():
        raise HostError(
            "bench.data",
            expected=f"Fashion-MNIST in {_fashion_mnist.FOLDER}",
            observed="nothing",
            next_step=f"apt-get install {_fashion_mnist.PACKAGE}",
        )
    records, epochs, rounds = (6_400, 1, 1) if quick else (None, 1, 5)
    ratios: list[float] = []
    steps: dict[str, list[float]] = {"plain": [], "job": []}
    stages: dict[str, list[float]] = {}
    work = _workload(epochs, records)
    if not quick:
        run_job(_workload(1, 6_400))  # warms the page cache
    for turn in range(rounds):
        names = ("plain", "job") if turn % 2 == 0 else ("job", "plain")
        found: dict[str, Outcome] = {}
        for name in names:
            found[name] = run_job(work) if name == "job" else _plain(work, records)
        if not _same_weights(found["plain"].model, found["job"].model):
            raise HostError(
                "bench.weights",
                expected="identical final weights",
                observed="others",
                next_step="look for what differs between the two runs: threads, libraries",
            )
        medians = {
            name: statistics.median(list(outcome.metrics["step_s"])[WARM_UP_STEPS:])
            for name, outcome in found.items()
        }
        for name, value in medians.items():
            steps[name].append(value * 1e3)
        ratios.append(medians["job"] / medians["plain"])
        for name, seconds in found["job"].timings.items():
            stages.setdefault(name, []).append(seconds)
    medians_by_stage = {name: statistics.median(values) for name, values in stages.items()}
    return {
        "ratio": statistics.median(ratios),
        "attest_s": medians_by_stage.get("attest_s", 0.0),
        "release_s": medians_by_stage.get("release_s", 0.0),
        "open_s": medians_by_stage["open_s"],
        "identical_weights": True,
        "ratio_range": summary(ratios),
        "plain_step_ms": summary(steps["plain"]),
        "job_step_ms": summary(steps["job"]),
        "stages_s": {name: summary(values) for name, values in stages.items()},
        "rounds": rounds,
        "epochs": epochs,
        "quick": quick,
    }
