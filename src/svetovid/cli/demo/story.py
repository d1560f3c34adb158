"""The play itself: eight acts on real data, every party a process of its own.

1. Everybody makes keys; the manager starts; the operator's hosts enrol.
2. Two hospitals train one classifier of breast cancer, and only rita can open it.
3. Two shops train one classifier of clothes (Fashion-MNIST) together.
4. rita's model answers dora's questions inside a SIMULATED enclave.
5. vera, who took no part in the jobs, verifies their receipts.
6. What must be refused is refused, each time because bytes were changed or messages replayed.
7. Nothing that the operator can read, and nothing on the wire, holds plaintext or a key.
8. The sealed models are those of plain training, bit for bit.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from svetovid import stakeholder
from svetovid.cli.demo.canary import Needle, key_needles, needles_of, search
from svetovid.cli.demo.cast import Cast, job_yaml, policy_yaml
from svetovid.cli.demo.parties import Stage, fresh_folder, separate_uids
from svetovid.cli.demo.tasks import Arrays, Task, accuracy, train_plain
from svetovid.cli.demo.wiretap import Wiretap
from svetovid.errors import HostError, SvetovidError
from svetovid.host.runtime import build_runtime
from svetovid.stakeholder.keys import asset_key

__all__ = ["Result", "Story"]

Say = Callable[[str], None]
_OWNERS = ("alice", "bob", "carol", "rita", "dora")


@dataclass(slots=True)
class Result:
    """What the demo found out; becomes its JSON."""

    accuracy: dict[str, dict[str, float]] = field(default_factory=dict)
    identical_weights: dict[str, bool] = field(default_factory=dict)
    enclave_answers_agree: bool = False
    timings: dict[str, dict[str, float]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, Any] = field(default_factory=dict)
    canary: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Story:
    """Plays the demo in ``folder``; ``say`` hears what happens, line by line."""

    def __init__(self, folder: Path, say: Say, heading: Say) -> None:
        fresh_folder(folder)
        self.stage = Stage(folder.resolve())
        for place in (self.stage.public, self.stage.storage, self.stage.folder / "host-papers"):
            place.mkdir()
            place.chmod(0o1777)
        self.cast = Cast.gather(self.stage)
        for party in self.cast.parties.values():
            party.home.mkdir(mode=0o700)
            party.own(party.home)
        self.say = say
        self._heading = heading
        self.result = Result()
        self.tap: Wiretap | None = None
        self._pool = ThreadPoolExecutor(1)
        self._beside: list[Future[None]] = []
        self.port = 0
        self.again = Path()
        """The job that act six runs again and again."""
        self.secrets: dict[str, bytes] = {}
        self.hosts = {"tumours": "lab", "clothes": "lab", "answers": "tee"}

    @contextmanager
    def act(self, title: str) -> Iterator[None]:
        self._heading(title)
        begun = time.monotonic()
        yield
        self.result.seconds[title] = round(time.monotonic() - begun, 1)
        self.say(f"({self.result.seconds[title]} s)")

    @property
    def pin(self) -> Path:
        """The manager's pin with the operator's tap in front of it."""
        return self.stage.public / "manager.json"

    # -- act 1

    def open_house(self) -> None:
        """Manager, tap, identities, hosts."""
        cast = self.cast
        cast["manager"].acts("manager", "serve", "--background")
        pin = json.loads((cast["manager"].home / "manager.json").read_text())
        url = urlsplit(pin["url"])
        assert url.hostname is not None
        assert url.port is not None
        self.port = url.port
        self.tap = Wiretap((url.hostname, url.port), self.stage.folder / "wire.capture")
        pin["url"] = f"https://{url.hostname}:{self.tap.port}"
        self.pin.write_text(json.dumps(pin))
        self.pin.chmod(0o644)
        self.say("the manager runs; every connection to it passes through the operator's tap")
        if not separate_uids():
            self.say("uids are not separate here (not root, or others cannot read this Python)")
        self.together(self._create, *_OWNERS, "olga", "vera")
        self.say("seven parties made keys of their own and pinned the manager")
        build_runtime(self.stage.runtime)
        self.together(self.enrol, "lab", "tee")
        # Both machines show jobs the same tree, so one set of reference values holds for both.
        for file in ("lab.anchors.json", "tee.anchors.json", "lab.references.json"):
            document = Path(
                shutil.copy(self.stage.folder / "host-papers" / file, self.stage.public)
            )
            group = "reference" if "references" in file else "anchors"
            cast["vera"].acts(group, "publish", document)
        self.say("vera, an auditor, signed the reference values and anchors that owners may pin")
        self.say("host lab: TPM 2.0 (libtpms, a SOFTWARE TPM), files measured by the launcher")
        self.say("host tee: a SIMULATED TEE, which protects nothing and says so")

    def together(self, act: Callable[[str], object], *names: str) -> None:
        """Let several parties act at the same time, each in its own process."""
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(act, names))

    def _create(self, name: str) -> None:
        self.cast[name].run(
            "identity", "create", name, "--in", self.stage.folder, "--manager", self.pin
        )

    def enrol(self, name: str, runtime: Path | None = None, authority: Path | None = None) -> None:
        """Set up a host and enrol it under olga's statement."""
        cast = self.cast
        kind = "simulated-tee" if name == "tee" else "tpm"
        tree = runtime or self.stage.runtime
        papers = self.stage.folder / "host-papers"
        given = () if authority is None else ("--simulated-ca", authority)
        cast[name].acts(
            "host", "init", "--name", name, "--kind", kind, "--runtime", tree, "--public", papers,
            *given,
        )  # fmt: skip
        statement = self.stage.public / f"{name}.statement.json"
        cast["olga"].acts(
            "host", "sign", cast[name].home / "request.json", "--out", statement,
            "--machine-owner", "Olga's Machines",
        )  # fmt: skip
        cast[name].acts("host", "enrol", "--statement", statement, "--manager", self.pin)

    # -- acts 2 and 3

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
        return path

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

    def train(self, task: Task, *, runs: int) -> Path:
        """The whole main job for one task, with plain training beside it; rita's opened model."""
        train, test = task.load()
        first, second = task.halves(train)
        code = f"{task.name}-code"
        terms: dict[str, Any] = {"modes": ["attested"], "recipients": ["rita"]}
        bundle = task.bundle("train.py", self.stage.folder / "papers" / code)
        self.share("carol", bundle, code, policy_yaml(code, use="code", **terms))
        parts = {"alice": first, "bob": second}

        def bring(owner: str) -> None:
            asset = f"{task.name}-{owner}"
            text = policy_yaml(asset, use="data", code=[code], runs=runs, **terms)
            self.share(owner, self.save(owner, asset, parts[owner]), asset, text)

        self.together(bring, *parts)
        for owner, arrays in parts.items():
            for name, column in arrays.items():
                self.secrets[f"{name} of {owner}"] = column.tobytes()
        self.secrets[f"{task.name} code"] = (bundle / "train.py").read_bytes()
        self.say("alice and bob sealed their records, carol her code; their policies stand")
        job = self.propose(task, task.name)
        self.consent(job, "alice", "bob", "carol")
        self.say("rita proposed the job; alice, bob and carol agreed to its hash")
        self.result.timings[task.name] = self.run(job)["timings"]
        self.say(
            "olga's host proved itself, got the keys, trained in the sandbox, sealed the model"
        )
        model = self.open_output(task.name, "model", "rita", "lab")
        weights = model.read_bytes()
        header = 8 + int.from_bytes(weights[:8], "little")  # names and shapes stand in the job
        self.secrets[f"{task.name} model"] = weights[header:]
        # Plain training takes a while and touches nothing: it goes on beside the next acts.
        self._beside.append(self._pool.submit(self._compare, task, model, first, second, test))
        return model

    def open_output(self, job: str, output: str, who: str, host: str) -> Path:
        """A recipient verifies the receipt and opens an output; the plaintext's file."""
        target = self.cast[who].home / f"{job}.{output}.safetensors"
        public, storage = self.stage.public, self.stage.storage
        self.cast[who].acts(
            "output", "open", storage / f"{job}.{output}.sealed",
            "--receipt", storage / f"{job}.receipt.json",
            "--anchors", public / f"{host}.anchors.json",
            "--references", public / "lab.references.json",
            "--to", target,
        )  # fmt: skip
        return target

    def _compare(
        self, task: Task, model: Path, first: Arrays, second: Arrays, test: Arrays
    ) -> None:
        """The opened model next to plain training on all data, and on each owner's alone."""
        from safetensors.numpy import load_file

        sealed = load_file(model)
        plain, alice, bob = train_plain(
            task, [(first, second), task.halves(first), task.halves(second)]
        )
        self.result.identical_weights[task.name] = sealed.keys() == plain.keys() and all(
            sealed[k].tobytes() == plain[k].tobytes() for k in plain
        )
        ways = {"alice alone": alice, "bob alone": bob, "plain, shown": plain, "sealed": sealed}
        self.result.accuracy[task.title] = {
            way: accuracy(task, weights, test) for way, weights in ways.items()
        }

    def compare(self) -> None:
        """Wait for plain training, and say how the sealed models compare."""
        for done in self._beside:
            done.result()
        for task, same in self.result.identical_weights.items():
            how = "bit for bit" if same else "NOT"
            self.say(f"{task}: the sealed model's weights are {how} those of plain training")

    # -- act 4

    def ask_in_enclave(self, task: Task, model: Path) -> None:
        """rita's model answers dora's questions on the host with the SIMULATED TEE."""
        from safetensors.numpy import load_file

        test = task.load()[1]
        count = len(test[task.label])
        terms: dict[str, Any] = {"modes": ["enclave"], "recipients": ["dora"]}
        code, asset = f"{task.name}-answer", f"{task.name}-model"
        bundle = task.bundle("answer.py", self.stage.folder / "papers" / code)
        self.share("carol", bundle, code, policy_yaml(code, use="code", host="tee", **terms))
        text = policy_yaml(asset, use="model", code=[code], host="tee", **terms)
        self.share("rita", model, asset, text)
        questions = self.save("dora", "questions", {"image": test["image"]})
        text = policy_yaml("questions", use="data", code=[code], host="tee", **terms)
        self.share("dora", questions, "questions", text)
        paper = job_yaml(
            "answers",
            mode="enclave",
            assets={
                "code": (code, "carol", "code"),
                "model": (asset, "rita", "model"),
                "questions": ("questions", "dora", "data"),
            },
            entry="answer.py",
            environment="lab-runtime",
            outputs={"answers": {"label": ("int64", [count])}},
            recipients=["dora"],
        )
        file = self.cast.write("answers.job.yaml", paper)
        job = Path(self.cast["dora"].acts("job", "propose", file)["file"])
        self.consent(job, "carol", "rita", "dora")
        self.result.timings["answers"] = self.run(job, "tee")["timings"]
        answers = load_file(self.open_output("answers", "answers", "dora", "tee"))["label"]
        at_home = task.predict(load_file(model), test)
        self.result.enclave_answers_agree = bool((answers == at_home).all())
        right = 100 * float((answers == test[task.label]).mean())
        self.say(
            f"dora opened {count} answers; {right:.1f} % are right, and rita never saw a question"
        )

    # -- act 5

    def verify_receipts(self) -> None:
        """vera verifies each job's receipt with public files and her own clock alone."""
        public, storage = self.stage.public, self.stage.storage
        for job, host in self.hosts.items():
            verdict = self.cast["vera"].run(
                "receipt", "verify", storage / f"{job}.receipt.json",
                "--anchors", public / f"{host}.anchors.json",
                "--references", public / "lab.references.json",
                "--manager", self.pin,
            )  # fmt: skip
            self.result.verdicts[job] = verdict["words"]
            self.say(f"receipt of {job}: " + " ".join(verdict["words"]))

    # -- act 7

    def search_for_canaries(self) -> None:
        """Look for plaintext and keys in all that the operator can read, and on the wire."""
        assert self.tap is not None
        self.tap.flush()
        needles = [n for what, data in self.secrets.items() for n in needles_of(what, data)]
        needles += [n for name in _OWNERS for n in self._keys_of(name)]
        readable = [self.cast[n].home for n in ("olga", "lab", "tee", "manager")]
        roots = [
            *readable,
            self.stage.storage,
            self.stage.public,
            self.stage.folder / "wire.capture",
        ]
        planted = self.stage.folder / "planted"
        planted.write_bytes(b"-" * 100 + needles[0].data)
        found = search(roots, needles)
        self.result.canary = {
            "needles": len(needles),
            "wire_bytes": self.tap.bytes_seen,
            "hits": [f"{h.what} in {h.where}" for h in found],
            "planted_found": bool(search([planted], needles)),
        }
        planted.unlink()

    def close(self) -> None:
        """Stop what still runs."""
        self._pool.shutdown(cancel_futures=True)
        with contextlib.suppress(SvetovidError):
            self.cast["manager"].acts("manager", "stop")
        if self.tap is not None:
            self.tap.close()

    def check(self) -> None:
        """Refuse to call the main job ok where anything in it was not.

        Raises:
            HostError: ``demo.failed``.
        """
        r = self.result
        wrong = {
            "weights differ from plain training": not all(r.identical_weights.values()),
            "the enclave's answers differ": not r.enclave_answers_agree,
            f"a secret could be read: {r.canary['hits'][:3]}": bool(r.canary["hits"]),
            "the canary search is blind": not r.canary["planted_found"],
            "a receipt does not name the simulator": not all(
                any("simulat" in w.lower() for w in words) for words in r.verdicts.values()
            ),
        }
        if any(wrong.values()):
            raise HostError(
                "demo.failed",
                expected="every part of the demo to hold",
                observed="; ".join(k for k, v in wrong.items() if v),
                next_step="this is a defect: report it",
            )

    def _keys_of(self, name: str) -> list[Needle]:
        """Every asset key in a home, opened as its owner can."""
        home = self.cast[name].home
        who = stakeholder.load(home, self.cast[name].passphrase())
        return [
            needle
            for path in sorted((home / "keys").glob("*.json"))
            for needle in key_needles(
                f"an asset key of {name}", asset_key(who, f"sha256:{path.stem}").reveal()
            )
        ]
