"""The stage of the play, and what parties do in more than one act.

Eight acts on real data, every party a process of its own:

1. Everybody makes keys; the manager starts; the operator's hosts enrol (:mod:`opening`).
2. Two hospitals train one classifier of breast cancer, and only rita can open it.
3. Two shops train one classifier of clothes (Fashion-MNIST) together (:mod:`training`).
4. rita's model answers dora's questions inside a SIMULATED enclave (:mod:`enclave`).
5. vera, who took no part in the jobs, verifies their receipts (:mod:`auditing`).
6. What must be refused is refused, each time because bytes were changed or messages replayed
   (:mod:`refusals`).
7. Nothing that the operator can read, and nothing on the wire, holds plaintext or a key.
8. The sealed models are those of plain training, bit for bit.

Whoever need not wait for another does not: parties act side by side, each one thing at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from svetovid.cli.demo.cast import Cast, job_yaml
from svetovid.cli.demo.findings import Findings
from svetovid.cli.demo.keyholder import Keyholder
from svetovid.cli.demo.parties import Stage, fresh_folder
from svetovid.cli.demo.tasks import Task
from svetovid.cli.demo.wiretap import Wiretap

__all__ = ["Story"]

Say = Callable[[str], None]
T = TypeVar("T")


class Story:
    """Plays the demo in ``folder``; ``say`` hears what happens, line by line.

    Attributes:
        findings: what came of it so far.
        secrets: plaintext that must be nowhere, by what it is.
        hosts: the machine on which each job that ends well ran.
        again: the job that act six runs again and again.
    """

    def __init__(self, folder: Path, say: Say, heading: Say) -> None:
        fresh_folder(folder)
        self.stage = Stage(folder.resolve())
        for place in (self.stage.public, self.stage.storage, self.stage.host_papers):
            place.mkdir()
            place.chmod(0o1777)
        self.cast = Cast.gather(self.stage)
        for party in self.cast.parties.values():
            party.home.mkdir(mode=0o700)
            party.own(party.home)
        self.say = say
        self._heading = heading
        self.findings = Findings()
        self.tap: Wiretap | None = None
        self.again = Path()
        self.secrets: dict[str, bytes] = {}
        self.hosts: dict[str, str] = {}
        self.manager = Keyholder(self.cast["manager"])
        self._pool = ThreadPoolExecutor(8)

    @contextmanager
    def act(self, title: str) -> Iterator[None]:
        self._heading(title)
        begun = time.monotonic()
        yield
        self.findings.seconds[title] = round(time.monotonic() - begun, 1)
        self.say(f"({self.findings.seconds[title]} s)")

    @property
    def pin(self) -> Path:
        """The manager's pin with the operator's tap in front of it."""
        return self.stage.public / "manager.json"

    def begin(self, act: Callable[[], T]) -> Future[T]:
        """Let something happen beside what comes next."""
        return self._pool.submit(act)

    def together(self, act: Callable[[str], object], *names: str) -> None:
        """Let several parties do the same at the same time, each in its own process."""
        for done in [self._pool.submit(act, name) for name in names]:
            done.result()

    def enrol(self, name: str, runtime: Path, authority: Path | None = None) -> None:
        """Set up a host and enrol it under olga's statement; ``authority`` certifies its TPM."""
        cast = self.cast
        kind = "simulated-tee" if name == "tee" else "tpm"
        given = () if authority is None else ("--simulated-ca", authority)
        cast[name].acts(
            "host", "init", "--name", name, "--kind", kind, "--runtime", runtime,
            "--public", self.stage.host_papers, *given,
        )  # fmt: skip
        statement = self.stage.public / f"{name}.statement.json"
        cast["olga"].acts(
            "host", "sign", self.stage.host_papers / f"{name}.request.json", "--out", statement,
            "--machine-owner", "Olga's Machines",
        )  # fmt: skip
        cast[name].acts("host", "enrol", "--statement", statement, "--manager", self.pin)

    def share(self, owner: str, source: Path, asset: str, policy: str) -> None:
        """Seal, publish the policy, deposit the key."""
        self.cast[owner].acts(
            "share", source, "--name", asset,
            "--policy", self.cast.write(f"{asset}.yaml", policy),
            "--to", self.stage.storage / f"{asset}.sealed",
        )  # fmt: skip

    def save(self, owner: str, name: str, arrays: Mapping[str, Any]) -> Path:
        """Plaintext of one owner, in its own home."""
        import numpy as np

        path = self.cast[owner].home / f"{name}.npz"
        np.savez(path, **arrays)
        self.cast[owner].own(path)
        self.secrets |= {f"{field} of {name}": v.tobytes() for field, v in arrays.items()}
        return path

    def bundle(self, owner: str, name: str, task: Task, script: str, more: str = "") -> Path:
        """A folder with just one of the task's scripts, in its owner's own home."""
        folder = self.cast[owner].home / name
        folder.mkdir(mode=0o700)
        text = task.script(script).read_text() + more
        (folder / script).write_text(text)
        for path in (folder, folder / script):
            self.cast[owner].own(path)
        self.secrets[f"{name} of {owner}"] = text.encode()
        return folder

    def propose(self, task: Task, name: str, **changed: Any) -> Path:
        """rita proposes a training job; its file in the public folder."""
        values: dict[str, Any] = {
            "mode": "attested",
            "assets": {
                "code": (f"{task.name}-code", "carol", "code"),
                "a": (f"{task.name}-alice", "alice", "data"),
                "b": (f"{task.name}-bob", "bob", "data"),
            },
            "entry": "train.py",
            "environment": "lab-runtime",
            "outputs": {"model": {k: ("float32", s) for k, s in task.tensors.items()}},
            "metrics": task.metrics,
            "parameters": task.parameters,
            "recipients": ["rita"],
            "seed": task.seed,
            **changed,
        }
        paper = self.cast.write(f"{name}.job.yaml", job_yaml(name, **values))
        return Path(self.cast["rita"].acts("job", "propose", paper)["file"])

    def agree(self, job: Path, owner: str) -> dict[str, Any]:
        return self.cast[owner].acts("job", "consent", job, "--yes")

    def consent(self, job: Path, *owners: str) -> None:
        self.together(partial(self.agree, job), *owners)

    def run(self, job: Path, host: str = "lab", **storage: Path) -> dict[str, Any]:
        """The operator runs a job on one of its hosts."""
        places: list[str | Path] = ["--storage", self.stage.storage]
        for slot, path in storage.items():
            places = ["--storage", f"{slot}={path}", *places]
        return self.cast[host].acts(
            "host", "run", job, "--manager", self.pin, *places, "--outputs", self.stage.storage
        )

    def run_well(self, job: Path, name: str, host: str) -> None:
        """A run that is to end well; how long its stages took becomes a finding."""
        self.findings.timings[name] = self.run(job, host)["timings"]
        self.hosts[name] = host

    def open_output(self, job: str, output: str, who: str) -> Path:
        """A recipient verifies the receipt and opens an output; the plaintext's file."""
        target = self.cast[who].home / f"{job}.{output}.safetensors"
        storage = self.stage.storage
        self.cast[who].acts(
            "output", "open", storage / f"{job}.{output}.sealed",
            "--receipt", storage / f"{job}.receipt.json", *self.believed(job), "--to", target,
        )  # fmt: skip
        return target

    def believed(self, job: str) -> list[str | Path]:
        """Anchors and reference values for a job's receipt, as options of a command."""
        public = self.stage.public
        return [
            "--anchors", public / f"{self.hosts[job]}.anchors.json",
            "--references", public / "lab.references.json",
        ]  # fmt: skip

    def close(self) -> None:
        """End what still runs: the manager, and whatever else where the play was broken off."""
        self.stage.processes.end()
        self._pool.shutdown(cancel_futures=True)
        if self.tap is not None:
            self.tap.close()
