"""A masked job by commands, as ``docs/guide/masked.md`` has it: two owners of data, one of code, a
receiver, a host, and three workers of three operators, all played on this machine."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svetovid.cli.main import run

OPERATORS = ("Ada Ltd (simulated)", "Bell Labs (simulated)", "Cray & Sons (simulated)")
_HERE = Path(__file__).parent
_PAPERS = "--anchors public/lab1.anchors.json --references public/lab1.references.json"
_PIN = "--manager manager/manager.json"


@dataclass
class Walk:
    """Runs commands in a folder, says each, and keeps what it answers.

    Args:
        folder: for all homes; empty.
        say: shows a command.
    """

    folder: Path
    say: Callable[[str], None]
    workers: list[subprocess.Popen[str]] = field(default_factory=list)

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        """A manager, everybody's keys, and a host; all is stopped in the end."""
        before = Path.cwd()
        secret = self.folder / "passphrase"
        secret.write_text("demo")
        secret.chmod(0o600)
        os.environ["SVETOVID_PASSPHRASE_FILE"] = str(secret)
        os.chdir(self.folder)
        try:
            self("manager serve --home manager --background")
            self(f"identity create alice bob carol rita olga {_PIN}")
            self(f"host init --home host --name lab1 --kind simulated-tee --operator olga {_PIN}")
            yield
        finally:
            for worker in self.workers:
                worker.kill()
                worker.wait()
            with contextlib.suppress(SystemExit):
                self("manager stop --home manager")
            os.chdir(before)

    def __call__(self, line: str, *, watched: bool = False) -> dict[str, Any]:
        """Run ``svetovid LINE``; what it answers, and with ``watched`` also what it says meanwhile.

        Raises:
            SystemExit: it failed; what it said is shown.
        """
        self.say(f"svetovid {line}")
        said, meanwhile = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.ExitStack() as quiet:
            if not watched:
                quiet.enter_context(contextlib.redirect_stderr(meanwhile))
            code = run([*line.split(), "--json"])
        if code:
            sys.exit(f"svetovid {line}\n{meanwhile.getvalue()}{said.getvalue()}")
        value: dict[str, Any] = json.loads(said.getvalue())
        return value

    def share(self, owner: str, what: Path, use: str) -> None:
        """Seal a file or folder, under a policy that lets it into masked jobs for rita."""
        into = self.folder / what.name
        if use == "code":
            into.mkdir()
            for name in ("train.py", "models.py"):
                shutil.copy(what / name, into / name)
        policy = {
            "version": "svetovid.policy/v1",
            "name": f"{owner}-policy",
            "profile": "test",
            "accepts": ["simulated", "launcher"],
            "anchors": {"document": "$anchors"},
            "references": [{"document": "$references"}],
            "operators": ["$olga"],
            "grants": [
                {
                    "asset": "$asset",
                    "use": use,
                    "code": [] if use == "code" else ["$masked"],
                    "modes": ["masked"],
                    "recipients": ["$rita"],
                    "collusion": 1,
                    "limits": {"runs": 1, "output_bytes": 1 << 30},
                }
            ],
        }
        (self.folder / f"{owner}.yaml").write_text(json.dumps(policy))  # JSON is YAML
        name = "masked" if use == "code" else f"{owner}-images"
        terms = f"--policy {owner}.yaml {_PAPERS}"
        self(f"share {into.name} --home {owner} --name {name} {terms}")

    def serve(self) -> list[dict[str, str]]:
        """Three workers; how a job names them."""
        named = []
        for number, operator in enumerate(OPERATORS, 1):
            file = f"worker{number}.pem"
            made = self(f"worker create {file}")
            line = f"worker serve {file} --host public/lab1.link.crt --listen 127.0.0.1:0"
            self.say(f"svetovid {line} &")
            command = [sys.executable, "-m", "svetovid.cli", *line.split(), "--json"]
            worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            self.workers.append(worker)
            port = self.heard(worker)["port"]
            named.append(
                {
                    "certificate": made["certificate"],
                    "operator": operator,
                    "url": f"tls://127.0.0.1:{port}",
                }
            )
        return named

    def heard(self, worker: subprocess.Popen[str]) -> dict[str, Any]:
        """The next that a worker says."""
        assert worker.stdout is not None
        line = worker.stdout.readline()
        if not line:
            sys.exit("a worker ended")
        value: dict[str, Any] = json.loads(line)
        return value

    def propose(
        self,
        owners: Mapping[str, str],
        parameters: Mapping[str, Any],
        tensors: Mapping[str, Any],
        bounds: Mapping[str, int],
    ) -> dict[str, Any]:
        """A job that all agree to; as ``job show`` has it, with the card.

        Args:
            owners: slot of data to its owner, whose file has its name.
            parameters: of the script.
            tensors: of the model.
            bounds: products and numbers that workers may be asked for.
        """
        slots = {slot: (f"{owner}-images", owner, "data") for slot, owner in owners.items()}
        slots["code"] = ("masked", "carol", "code")
        job = {
            "version": "svetovid.job/v1",
            "name": "clothes",
            "mode": "masked",
            "assets": {
                slot: {"manifest": f"${asset}", "owner": f"${owner}", "manager": "$manager"}
                | {"use": use}
                for slot, (asset, owner, use) in slots.items()
            },
            "entry": "train.py",
            "parameters": dict(parameters),
            "seed": 7,
            "environment": "$lab1-runtime",
            "outputs": {"model": {"tensors": dict(tensors)}},
            "metrics": {"loss": {"type": "float", "max_count": 100}},
            "recipients": ["$rita"],
            "limits": {"wall_s": 3600, "memory_mib": 4096, "output_bytes": 1 << 28},
            "offload": {"protocol": "coded", **bounds, "workers": self.serve()},
        }
        (self.folder / "job.yaml").write_text(json.dumps(job))
        self("job propose job.yaml --home rita")
        shown = self("job show public/clothes.job.json")
        for owner in dict.fromkeys(owner for _, owner, _ in slots.values()):
            self(f"job consent public/clothes.job.json --home {owner} --yes")
        return shown

    def train(self) -> tuple[Path, dict[str, Any]]:
        """Run the job; the opened model, and what the receipt says."""
        self(f"host run public/clothes.job.json --home host {_PIN}", watched=True)
        receipt = "out/clothes.receipt.json"
        to = "--to model.safetensors"
        self(f"output open out/clothes.model.sealed --home rita --receipt {receipt} {_PAPERS} {to}")
        return self.folder / "model.safetensors", self(f"receipt verify {receipt} {_PIN} {_PAPERS}")
