"""The whole job as a benchmark's candidate: owners, manager, TPM host and sandbox, all real.

Every step is one of the commands of ``docs/guide/main-job.md``, a process of its own that speaks
the real API. Only the training itself is timed against the baseline, and the stages before it are
reported.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.train import Outcome, RunJob, Workload
from svetovid.errors import from_dict

__all__ = ["attested"]

_OWNERS = {"a": "alice", "b": "bob"}
_PIN = "manager/manager.json"
_LAB = ("--anchors", "public/lab.anchors.json", "--references", "public/lab.references.json")
_RUNS = 1000


class _Folder:
    """Where five people's homes lie, and the commands that they give."""

    def __init__(self, path: Path) -> None:
        self.path = path
        passphrase = path / "passphrase"
        passphrase.write_text(secrets.token_hex(16))
        passphrase.chmod(0o600)
        self._environment = os.environ | {"SVETOVID_PASSPHRASE_FILE": str(passphrase)}
        self._shared: set[int] = set()
        self._jobs = 0

    def say(self, command: str, *more: str) -> dict[str, Any]:
        """Run ``svetovid COMMAND``; what it says in JSON.

        Raises:
            SvetovidError: as the command refused.
        """
        words = [*command.split(), *more, "--json"]
        done = subprocess.run(
            [sys.executable, "-c", "from svetovid.cli import main; main()", *words],
            cwd=self.path,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        if done.returncode != 0:
            raise from_dict(answer)
        return answer

    def open(self) -> None:
        """A manager, five identities, a host."""
        self.say("manager serve --home manager --background")
        self.say(f"identity create alice bob carol rita olga --manager {_PIN}")
        self.say(f"host init --home host --name lab --operator olga --manager {_PIN}")

    def close(self) -> None:
        if (self.path / "manager" / "manager.pid").exists():
            self.say("manager stop --home manager")

    def _write(self, name: str, document: Mapping[str, Any]) -> str:
        (self.path / name).write_text(json.dumps(document))  # JSON is YAML
        return name

    def _policy(self, asset: str, use: str, code: list[str]) -> str:
        grant = {
            "asset": "$asset",
            "use": use,
            "code": code,
            "modes": ["attested"],
            "recipients": ["$rita"],
            "limits": {"runs": _RUNS, "output_bytes": _RUNS * 10_000_000},
        }
        document = {
            "version": "svetovid.policy/v1",
            "name": asset,
            "profile": "test",
            "accepts": ["simulated", "launcher"],
            "anchors": {"document": "$anchors"},
            "references": [{"document": "$references"}],
            "operators": ["$olga"],
            "grants": [grant],
        }
        return self._write(f"{asset}.yaml", document)

    def _share(self, work: Workload, size: int) -> None:
        import numpy as np

        code = f"code-{size}"
        (self.path / code).mkdir()
        for name, content in work.code.items():
            (self.path / code / name).write_bytes(content)
        policy = self._policy(code, "code", [])
        self.say(f"share {code} --name {code} --home carol --policy {policy}", *_LAB)
        for slot, owner in _OWNERS.items():
            asset = f"{owner}-{size}"
            np.savez(self.path / f"{asset}.npz", **work.datasets[slot])
            policy = self._policy(asset, "data", [f"${code}"])
            self.say(f"share {asset}.npz --name {asset} --home {owner} --policy {policy}", *_LAB)

    def run(self, work: Workload) -> Outcome:
        """Take a workload through the whole job; its data is shared the first time only."""
        size = len(next(iter(work.datasets["a"].values())))
        if size not in self._shared:
            self._share(work, size)
            self._shared.add(size)
        self._jobs += 1
        name = f"train-{self._jobs}"
        slots = {s: (f"{owner}-{size}", owner, "data") for s, owner in _OWNERS.items()}
        slots["code"] = (f"code-{size}", "carol", "code")
        document = {
            "version": "svetovid.job/v1",
            "name": name,
            "mode": "attested",
            "assets": {
                slot: {
                    "manifest": f"${asset}",
                    "owner": f"${owner}",
                    "manager": "$manager",
                    "use": use,
                }
                for slot, (asset, owner, use) in slots.items()
            },
            "entry": work.entry,
            "parameters": dict(work.parameters),
            "seed": work.seed,
            "environment": "$lab-runtime",
            "outputs": {"model": {"tensors": dict(work.tensors)}},
            "metrics": dict(work.metrics),
            "recipients": ["$rita"],
            "limits": {"wall_s": 1800, "memory_mib": 4096, "output_bytes": 8_000_000},
        }
        self.say(f"job propose {self._write(f'{name}.yaml', document)} --home rita")
        job = f"public/{name}.job.json"
        for owner in ("alice", "bob", "carol"):
            self.say(f"job consent {job} --home {owner} --yes")
        run = f"host run {job} --home host --manager {_PIN} --storage public --outputs out"
        begun = time.monotonic()
        timings: Mapping[str, float] = self.say(run)["timings"]
        seconds = time.monotonic() - begun
        metrics = json.loads(self._opened(name, "metrics"))
        return Outcome(self._opened(name, "model"), metrics["metrics"], seconds, timings)

    def _opened(self, job: str, output: str) -> bytes:
        target = f"{job}.{output}"
        opening = f"output open out/{job}.{output}.sealed --home rita --to {target}"
        self.say(f"{opening} --receipt out/{job}.receipt.json", *_LAB)
        return (self.path / target).read_bytes()


@contextmanager
def attested() -> Iterator[RunJob]:
    """A folder with a manager, owners and a TPM host; runs workloads until it is closed."""
    with tempfile.TemporaryDirectory(prefix="svetovid-bench-") as path:
        folder = _Folder(Path(path))
        try:
            folder.open()
            yield folder.run
        finally:
            folder.close()
