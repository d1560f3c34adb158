"""Sealed, attested, sandboxed training against plain PyTorch on plain files.

The same script (``examples/fashion_mnist/train.py``) trains a small CNN on Fashion-MNIST, same
seed, same batches. Turn by turn it runs plainly, as a process of its own on Debian's files, and as
a job. Both time each step inside, in the same lines of the script; the first steps of a run warm
up and do not count. Final weights must be identical, bit for bit.

A round is one plain run and one job. There are at least 11, and more, up to 21, until the median
ratio is known within 5 %.

Top-level keys:
    ratio: the job's median step over the plain run's median step of the same round.
    measure_s, attest_s, release_s, open_s, start_s, decrypt_s: what a job takes beside its steps,
        in this order: measuring the host's files, the quote, the release, opening the assets,
        starting the sandbox up to the first line of the script, decrypting all records (while the
        script goes on).
    startup_s: those together.
    command_s: the whole of ``svetovid host run``, sealing the outputs included; ``plain_s``: the
        whole process of the plain run.

All are medians over the rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import _fashion_mnist
from benchmarks._harness import summary
from benchmarks._quiet import NARROW, Quiet, width
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
ROUNDS, MOST_ROUNDS = 11, 21
STAGES = ("measure_s", "attest_s", "release_s", "open_s", "start_s", "decrypt_s")


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
    """What came of it: safetensors bytes of the model, metrics by name, seconds of the whole
    process, seconds by stage."""

    model: bytes
    metrics: Mapping[str, list[float]]
    seconds: float
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
        begun = time.monotonic()
        subprocess.run([sys.executable, str(script)], check=True, env=environment)
        seconds = time.monotonic() - begun
        return Outcome(
            (Path(folder) / "model.safetensors").read_bytes(),
            json.loads((Path(folder) / "metrics.json").read_text()),
            seconds,
        )


def _same_weights(left: bytes, right: bytes) -> bool:
    from safetensors.numpy import load

    a, b = load(left), load(right)
    return a.keys() == b.keys() and all(a[n].tobytes() == b[n].tobytes() for n in a)


def _workload(records: int | None) -> Workload:
    return Workload(
        code={"train.py": SCRIPT.read_bytes()},
        entry="train.py",
        datasets=_fashion_mnist.halves(records),
        parameters={"epochs": 1, "batch": 128, "lr": 0.05},
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

    with attested() as run_job:
        return compare(quick, run_job)


def compare(quick: bool, run_job: RunJob) -> dict[str, Any]:
    """Plain training and the job, turn by turn.

    Args:
        quick: few records and one round.
        run_job: takes a workload through the job.

    Raises:
        HostError: ``bench.data`` without Debian's package, ``bench.loaded``, ``bench.spread``,
            ``bench.weights``.
    """
    if not _fashion_mnist.FOLDER.is_dir():
        raise HostError(
            "bench.data",
            expected=f"Fashion-MNIST in {_fashion_mnist.FOLDER}",
            observed="nothing",
            next_step=f"apt-get install {_fashion_mnist.PACKAGE}",
        )
    quiet = Quiet(quick)
    records, rounds, most = (6_400, 1, 1) if quick else (None, ROUNDS, MOST_ROUNDS)
    work = _workload(records)
    if not quick:
        run_job(_workload(6_400))  # warms the page cache
    taken: list[_Round] = []
    ratios: list[float] = []
    while len(taken) < rounds or (len(taken) < most and width(ratios) > NARROW):
        taken.append(quiet.round(lambda: _round(work, records, run_job, len(taken) % 2 == 1)))
        ratios.append(taken[-1].job_step / taken[-1].plain_step)
    quiet.require_narrow("ratio", ratios)
    stages = {name: [r.job.timings.get(name, 0.0) for r in taken] for name in taken[0].job.timings}
    startups = [sum(r.job.timings.get(name, 0.0) for name in STAGES) for r in taken]
    wholes = {
        "startup_s": startups,
        "command_s": [r.job.seconds for r in taken],
        "plain_s": [r.plain.seconds for r in taken],
    }
    return {
        "ratio": statistics.median(ratios),
        **{name: statistics.median(stages[name]) for name in STAGES},
        **{name: statistics.median(values) for name, values in wholes.items()},
        "identical_weights": True,
        "ratio_range": summary(ratios),
        "plain_step_ms": summary([r.plain_step * 1e3 for r in taken]),
        "job_step_ms": summary([r.job_step * 1e3 for r in taken]),
        "stages_s": {name: summary(values) for name, values in (stages | wholes).items()},
        "rounds": len(taken),
        "epochs": 1,
        "quiet": quiet.facts(),
    }


@dataclass(frozen=True)
class _Round:
    """A plain run and a job that came to the same weights, and the median step of each."""

    plain: Outcome
    job: Outcome

    @property
    def plain_step(self) -> float:
        return _median_step(self.plain)

    @property
    def job_step(self) -> float:
        return _median_step(self.job)


def _median_step(outcome: Outcome) -> float:
    return statistics.median(list(outcome.metrics["step_s"])[WARM_UP_STEPS:])


def _round(work: Workload, records: int | None, run_job: RunJob, job_first: bool) -> _Round:
    if job_first:
        job = run_job(work)
        plain = _plain(work, records)
    else:
        plain = _plain(work, records)
        job = run_job(work)
    if not _same_weights(plain.model, job.model):
        raise HostError(
            "bench.weights",
            expected="identical final weights",
            observed="others",
            next_step="look for what differs between the two runs: threads, libraries",
        )
    return _Round(plain, job)
