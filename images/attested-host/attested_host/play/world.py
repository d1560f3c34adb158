"""Owners, an operator, an auditor, a manager, and one virtual machine that runs the image.

Everybody acts through the command line, in a process of their own. The machine's folder is the
operator's: its disks, its TPM's memory, its network.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from safetensors.numpy import load_file

from attested_host.datadisk import make_data_disk, read_folder
from attested_host.lock import BuildError
from attested_host.machine import (
    FIRMWARE,
    GUEST_ADDRESS,
    MANAGER_ADDRESS,
    Machine,
    Vm,
    make_tpm,
    start_swtpm,
)
from attested_host.play.firmware import kept_values, propose
from attested_host.play.people import Person
from attested_host.references import values_in
from attested_host.rootfs import RUNTIME
from svetovid.errors import SvetovidError
from svetovid.evidence.documents import ReferenceValues
from svetovid.host.home import HostConfig

__all__ = ["World"]

_PEOPLE = ("alice", "bob", "carol", "rita", "olga", "vera")
_JOBS = {"numpy": "job.py", "torch": "job_torch.py"}
_ENTRY = "loud.py"
_JOB_MIB = {"numpy": 512, "torch": 1024}
_BOOT_S = 600.0
_EPOCHS = 50
_NAMED = 7


@dataclass(frozen=True, slots=True)
class Result:
    """What a boot left on the data disk."""

    console: str
    out: Mapping[str, bytes]

    def of_job(self, name: str) -> dict[str, Any]:
        found = json.loads(self.out[f"{name}.result.json"])
        assert isinstance(found, dict)
        return found

    def reasons(self, name: str) -> list[dict[str, str]]:
        """What the host was told of why the job was refused; empty where it ran."""
        found = self.of_job(name).get("reasons", [])
        assert isinstance(found, list)
        return found


class World:
    """Everything that comes before the first boot.

    Args:
        folder: new or empty.
        image: folder of a built image.
    """

    def __init__(self, folder: Path, image: Path) -> None:
        self.folder = folder
        self.image = image
        for name in ("public", "storage", "papers", "vm"):
            (folder / name).mkdir()
        self.people = {n: Person(folder, n) for n in (*_PEOPLE, "manager", "host")}
        self._variant = str(json.loads((image / "manifest.json").read_bytes())["variant"])
        self.machine = Machine(folder / "vm")
        self.port = 0
        self._products: list[str] = []

    def __getitem__(self, name: str) -> Person:
        return self.people[name]

    @property
    def public(self) -> Path:
        return self.folder / "public"

    def close(self) -> None:
        with contextlib.suppress(SvetovidError):
            self["manager"].acts("manager", "stop")

    # -- before the machine is switched on

    def open_house(self) -> None:
        """The manager, everybody's keys, the machine's TPM, the operator's word on it."""
        self["manager"].acts("manager", "serve", "--background")
        pin = self["manager"].home / "manager.json"
        self.port = urlsplit(json.loads(pin.read_text())["url"]).port or 0
        shutil.copy(pin, self.public / "manager.json")

        def create(name: str) -> None:
            self[name].run("identity", "create", name, "--in", self.folder, "--manager", pin)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(create, _PEOPLE))
        self._set_up_host()

    def _set_up_host(self) -> None:
        """The operator makes the host's home beside its TPM, before the machine has booted."""
        runtime = self.folder / "papers" / "runtime"
        runtime.mkdir()
        make_tpm(self.machine.tpm_state)
        socket = self.folder / "vm" / "s"
        options = ["--server", f"type=unixio,path={socket}", "--flags", "not-need-init"]
        with start_swtpm(self.machine.tpm_state, *options, listens=socket):
            self["host"].acts(
                "host", "init", "--name", "vm", "--tpm", f"swtpm:unix:{socket}",
                "--runtime", runtime, "--public", self.folder / "papers",
            )  # fmt: skip
        path = self["host"].home / "host.json"
        config = HostConfig.parse(path.read_bytes())
        there = {"tpm": "device:/dev/tpmrm0", "runtime": f"/{RUNTIME}"}
        path.write_bytes(config.model_copy(update=there).canonical())
        self["olga"].acts(
            "host", "sign", self["host"].home / "request.json",
            "--out", self.folder / "papers" / "statement.json", "--machine-owner", "Olga",
        )  # fmt: skip
        shutil.copy(self.folder / "papers" / "vm.anchors.json", self.public)
        self["vera"].acts("anchors", "publish", self.public / "vm.anchors.json")

    def publish_references(self, further: Sequence[ReferenceValues] = ()) -> None:
        """vera signs what the image implies, and what was seen of the machine's firmware."""
        kept = kept_values(FIRMWARE, self.machine.memory_mib)
        if not kept.exists():
            log = self.boot([]).out["boot.log"]
            proposed = propose(log, "firmware", "proposed from one boot of this firmware")
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(proposed.canonical())
        shutil.copy(kept, self.public / "firmware.references.json")
        for number, path in enumerate(values_in(self.image), 1):
            shutil.copy(path, self.public / f"image-{number}.references.json")
        for values in further:
            path = self.public / f"{values.product}.references.json"
            path.write_bytes(values.canonical())
        for path in sorted(self.public.glob("*.references.json")):
            self["vera"].acts("reference", "publish", path)
            self._products.append(str(json.loads(path.read_bytes())["product"]))

    # -- the owners

    def share(self) -> None:
        """alice and bob seal their records, carol her code; each under a policy of their own."""
        random = np.random.default_rng(3)
        truth = random.normal(size=8)
        code = self.folder / "papers" / "code"
        code.mkdir()
        here = Path(__file__)
        shutil.copy(here.with_name(_JOBS[self._variant]), code / "train.py")
        shutil.copy(here.with_name(_ENTRY), code)
        self._share("carol", code, "train", self._policy("carol", "code", []))
        shares = []
        for owner in ("alice", "bob"):
            x = random.normal(size=(200, 8)).astype(np.float32)
            path = self[owner].home / "records.npz"
            np.savez(path, features=x, label=(x @ truth > 0).astype(np.uint8))
            policy = self._policy(owner, "data", ["$train"])
            shares.append((owner, path, f"{owner}-records", policy))
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda share: self._share(*share), shares))

    def _share(self, owner: str, source: Path, asset: str, policy: dict[str, Any]) -> None:
        paper = self.folder / "papers" / f"{asset}.yaml"
        paper.write_text(json.dumps(policy))
        self[owner].acts(
            "share", source, "--name", asset, "--policy", paper,
            "--to", self.folder / "storage" / f"{asset}.sealed",
        )  # fmt: skip

    def _policy(self, owner: str, use: str, code: list[str]) -> dict[str, Any]:
        """No ``launcher``: the kernel itself must have measured, and it must be proven (T4)."""
        grant = {
            "asset": "$asset", "use": use, "code": code, "modes": ["attested"],
            "recipients": ["$rita"], "limits": {"runs": 20, "output_bytes": 20_000_000},
        }  # fmt: skip
        return {
            "version": "svetovid.policy/v1",
            "name": f"{owner}-policy",
            "profile": "test",
            "accepts": ["simulated"],
            "anchors": {"document": "$vm-anchors"},
            "references": [{"document": f"${product}"} for product in self._products],
            "operators": ["$olga"],
            "grants": [grant],
        }

    def propose(self, name: str) -> None:
        """rita proposes a job, the owners agree to it."""
        product = json.loads((self.image / "references.json").read_bytes())["product"]
        slots = {"a": ("alice-records", "alice", "data"), "b": ("bob-records", "bob", "data")}
        slots["code"] = ("train", "carol", "code")
        job = {
            "version": "svetovid.job/v1",
            "name": name,
            "mode": "attested",
            "assets": {
                slot: {"manifest": f"${a}", "owner": f"${o}", "manager": "$manager", "use": use}
                for slot, (a, o, use) in slots.items()
            },
            "entry": _ENTRY,
            "parameters": {"epochs": _EPOCHS},
            "seed": 7,
            "environment": f"${product}",
            "outputs": {
                "model": {
                    "tensors": {
                        "weight": {"dtype": "float32", "shape": [8]},
                        "bias": {"dtype": "float32", "shape": [1]},
                    }
                }
            },
            "metrics": {"loss": {"type": "float", "max_count": _EPOCHS}},
            "recipients": ["$rita"],
            "limits": {
                "wall_s": 480,
                "memory_mib": _JOB_MIB[self._variant],
                "output_bytes": 100_000,
            },
        }
        paper = self.folder / "papers" / f"{name}.job.yaml"
        paper.write_text(json.dumps(job))
        file = self["rita"].acts("job", "propose", paper)["file"]
        with ThreadPoolExecutor(2) as pool:
            owners = ("alice", "bob", "carol")
            list(pool.map(lambda o: self[o].acts("job", "consent", file, "--yes"), owners))

    # -- the machine

    def data_disk(self, jobs: list[str]) -> Path:
        """What the operator puts on the data disk."""
        source = self.folder / "vm" / "data"
        shutil.rmtree(source, ignore_errors=True)
        for name in ("managers", "jobs", "storage"):
            (source / name).mkdir(parents=True)
        network = {"interface": "eth0", "address": GUEST_ADDRESS, "prefix": "24"}
        (source / "service.json").write_text(json.dumps({"power_off": True}))
        if jobs:
            shutil.copytree(self["host"].home, source / "host")
            shutil.copy(self["host"].passphrase, source / "passphrase")
            shutil.copy(self.folder / "papers" / "statement.json", source)
            shutil.copytree(self.folder / "storage", source / "storage", dirs_exist_ok=True)
            pin = json.loads((self.public / "manager.json").read_text())
            pin["url"] = f"https://{MANAGER_ADDRESS}:{self.port}"
            (source / "managers" / "manager.json").write_text(json.dumps(pin))
            (source / "network.json").write_text(json.dumps(network))
        for name in jobs:
            shutil.copy(self.public / f"{name}.job.json", source / "jobs")
        disk = self.folder / "vm" / "data.img"
        make_data_disk(disk, source)
        return disk

    @contextlib.contextmanager
    def running(self, jobs: list[str], **more: Any) -> Iterator[Vm]:
        """The machine, switched on."""
        disks = more.pop("disks", [self.image / "attested-host.img"])
        port = self.port or None
        with self.machine.boot(disks, self.data_disk(jobs), manager_port=port, **more) as vm:
            yield vm

    def boot(self, jobs: list[str], **more: Any) -> Result:
        """Switch the machine on, let it run its jobs, and wait until it is off."""
        with self.running(jobs, **more) as vm:
            vm.wait_off(_BOOT_S)
        return self.result()

    def result(self) -> Result:
        """What the last boot left."""
        console = (self.folder / "vm" / "console.log").read_text(errors="replace")
        return Result(console, read_folder(self.folder / "vm" / "data.img", "out"))

    # -- afterwards

    def first_record(self) -> str:
        """What ``loud.py`` calls a process: the first bytes of alice's data."""
        records = np.load(self["alice"].home / "records.npz")["features"]
        return str(records[0].tobytes()[:_NAMED].hex())

    def told(self, owner: str) -> list[dict[str, str]]:
        """Why an owner's manager refused last, as it tells that owner and nobody else."""
        records = self[owner].acts("job", "records")["records"]
        last = [r for r in records if r["entry"] and r["entry"]["kind"] == "refusal"][-1]
        found = last["private"]["reasons"]
        assert isinstance(found, list)
        return found

    def open_model(self, job: str, result: Result) -> list[str]:
        """rita verifies the receipt, opens the model, and finds it to be the one she would have
        got from plain data.

        Returns:
            the receipt's verdict in words.

        Raises:
            BuildError: where the weights differ.
        """
        out = self.folder / "out"
        out.mkdir(exist_ok=True)
        for name, data in result.out.items():
            (out / name).write_bytes(data)
        references = sorted(self.public.glob("*.references.json"))
        target = self["rita"].home / f"{job}.safetensors"
        opened = self["rita"].acts(
            "output", "open", out / f"{job}.model.sealed", "--receipt", out / f"{job}.receipt.json",
            "--anchors", self.public / "vm.anchors.json", "--to", target,
            *(part for path in references for part in ("--references", path)),
        )  # fmt: skip
        parts = [np.load(self[o].home / "records.npz") for o in ("alice", "bob")]
        expected = train_at_home(parts, _EPOCHS)
        found = load_file(target)
        if any(not np.allclose(found[k], v, rtol=0, atol=1e-6) for k, v in expected.items()):
            raise BuildError("the sealed model is not that of plain training")
        verdict = opened["verdict"]
        return [f"measurement: {verdict['measurement']}", *verdict["words"]]


def train_at_home(parts: Sequence[Any], epochs: int) -> dict[str, Any]:
    """The job's own arithmetic on plain data."""
    x = np.concatenate([p["features"] for p in parts]).astype(np.float64)
    y = np.concatenate([p["label"] for p in parts]).astype(np.float64)
    weight, bias = np.zeros(x.shape[1]), 0.0
    for _ in range(epochs):
        guess = 1 / (1 + np.exp(-(x @ weight + bias)))
        weight -= x.T @ (guess - y) / len(y)
        bias -= float(np.mean(guess - y))
    return {"weight": weight.astype(np.float32), "bias": np.array([bias], np.float32)}
