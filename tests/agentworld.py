"""A whole job in one process: owners, one or two real managers, an operator, a host that runs it.

Only the wire is short: managers answer in process, behind a gate that a test can shut. Evidence,
sandbox, containers and receipts are the real ones.
"""

from __future__ import annotations

import array
import contextlib
import functools
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx

from managers import LocalManager
from sandboxing import PRELUDE, small_runtime
from svetovid.assets import Manifest, open_asset, seal_bundle, seal_dataset
from svetovid.crypto import Identity, Secret, b64encode, sign
from svetovid.evidence.documents import ReferenceValues, TrustAnchor, TrustAnchors
from svetovid.host.agent import Event, JobOutcome, run_job
from svetovid.host.attester import Attester, TpmAttester
from svetovid.host.home import HostHome
from svetovid.host.measure import Launcher
from svetovid.host.runtime import reference_values
from svetovid.host.setup import init_host
from svetovid.host.tpm import create_ca
from svetovid.manager import Settings
from svetovid.policy.documents import Consent, Grant, Job, JobAsset, JobLimits, Pin, Policy
from svetovid.policy.outputs import MetricSpec, OutputSpec, Recipient, TensorSpec
from svetovid.protocol import ManagerClient
from svetovid.protocol.contexts import output_context
from svetovid.protocol.output import OutputPackage
from svetovid.transparency import MAX_BUNDLE_BYTES, ReceiptBundle, Verdict, verify_receipt

PASSPHRASE = Secret(b"passphrase")
DATA = array.array("q", [3, 1, 4, 1, 5, 9, 2, 6])
STEPS = len(DATA)

TRAIN = """
import time
content = session.content("data")
content.wait(len(content.buffer))
data = content.buffer.cast("q")
kept = session.resume()
step, w = struct.unpack("<qq", bytes(kept)) if kept is not None else (0, 1)
while step < len(data):
    w = (w * 31 + data[step]) % 1000003
    step += 1
    session.metric("n", w)
    session.progress(step, len(data))
    session.checkpoint(struct.pack("<qq", step, w))
    time.sleep(session.parameters.get("pause", 0) / 1000)
answer(w)
"""


SLOW = {"parameters": {"pause": 300}}
"""Changes to a job that make it take some seconds."""


def plaintext_open() -> int:
    """How much decrypted memory this process holds: regions."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if "memfd" in os.readlink(f"/proc/self/fd/{name}"):
                found.add(os.stat(f"/proc/self/fd/{name}").st_ino)
    return len(found)


def children() -> set[str]:
    """Processes that any thread of this one started and that still run."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found.update((task / "children").read_text().split())
    return found


def trained() -> int:
    """What :data:`TRAIN` comes to, undisturbed."""
    w = 1
    for x in DATA:
        w = (w * 31 + x) % 1000003
    return w


def now() -> int:
    return int(time.time())


@functools.cache
def _references(runtime: Path) -> ReferenceValues:
    return reference_values(runtime, "runtime", 1, roots=())


class Gate(httpx.BaseTransport):
    """The way to a manager. ``down`` makes it unreachable; ``tap`` sees every request first."""

    def __init__(self, to: httpx.BaseTransport) -> None:
        self.to = to
        self.down = False
        self.tap: Callable[[httpx.Request], None] = lambda _: None
        self.after: Callable[[httpx.Request], None] = lambda _: None
        self.paths: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.paths.append(request.url.path)
        self.tap(request)
        if self.down:
            raise httpx.ConnectError("down")
        response = self.to.handle_request(request)
        self.after(request)
        return response

    def close(self) -> None:
        return


class House(LocalManager):
    """A manager of its own, behind a gate."""

    def __init__(self, folder: Path, name: str, settings: Settings) -> None:
        self.ahead = 0
        path = folder / f"{name}.db"
        super().__init__(name, path, lambda: now() + self.ahead, settings=settings)
        self.transport = self.gate = Gate(self.transport)

    @property
    def key(self) -> str:
        return self.key_id

    def refusals(self, who: Identity) -> list[str]:
        entries = [r.entry for r in self.client(who).records().records if r.entry]
        return [str(c) for e in entries if e.kind == "refusal" for c in e.body["codes"]]


@dataclass
class World:
    """Alice's data, Carol's code, Rita receives, Olga operates; one manager or two."""

    folder: Path
    kind: Literal["tpm", "simulated-tee"] = "simulated-tee"
    script: str = TRAIN
    houses: int = 1
    lease_s: int = 60
    runtime: Path = field(default_factory=small_runtime)
    job_changes: dict[str, Any] = field(default_factory=dict)
    house: Callable[[Path, str, Settings], Any] = House

    def __post_init__(self) -> None:
        self.alice, self.carol, self.rita, self.olga = (
            Identity.generate(n) for n in ("alice", "carol", "rita", "olga")
        )
        settings = Settings(lease_s=self.lease_s)
        self.all_houses = [self.house(self.folder, f"m{i}", settings) for i in range(self.houses)]
        self.data_house, self.code_house = self.all_houses[0], self.all_houses[-1]
        self.storage_folder = self.folder / "storage"
        self.out = self.folder / "out"
        for folder in (self.storage_folder, self.out):
            folder.mkdir()
        self.events: list[Event] = []
        self.publish()
        self.make_host()
        self.seal()
        self.agree()

    # -- before the job

    def publish(self) -> None:
        ca = create_ca(self.folder / "ca", "tpm" if self.kind == "tpm" else "tee")
        self.anchors = TrustAnchors(
            product="anchors",
            version=1,
            anchors=(
                TrustAnchor(
                    kind="tpm-ek" if self.kind == "tpm" else "tee",
                    name="simulated",
                    certificate=b64encode(ca.der),
                    simulated=True,
                ),
            ),
        )
        self.references = _references(self.runtime)
        for house in self.all_houses:
            for who in (self.alice, self.carol, self.olga, self.rita):
                house.client(who).register_identity(who.signed_card())
            for document in (self.anchors, self.references):
                house.client(self.alice).publish(sign(document, self.alice))

    def make_host(self, name: str = "host") -> HostHome:
        path = self.folder / name
        request = init_host(
            path,
            name=name,
            runtime=self.runtime,
            passphrase=PASSPHRASE,
            kind=self.kind,
            simulated_ca=self.folder / "ca",
        ).request
        self.home = HostHome(path)
        self.agent = self.home.agent(PASSPHRASE)
        self.statement = sign(request.statement(self.olga.key_id, "olga", now()), self.olga)
        for house in self.all_houses:
            self.home.enrol(house.client(self.agent), self.statement)
        return self.home

    def bundle(self, script: str, name: str = "code") -> tuple[str, Manifest, Secret]:
        folder = self.folder / f"src-{name}"
        folder.mkdir()
        (folder / "main.py").write_text(PRELUDE + script)
        url = f"file://{self.storage_folder}/{name}"
        manifest, key = seal_bundle(
            url, folder, name="code", owner=self.carol.key_id, manager=self.code_house.key
        )
        return url, manifest, key

    def dataset(self, name: str = "data", version: int = 1) -> tuple[str, Manifest, Secret]:
        url = f"file://{self.storage_folder}/{name}"
        manifest, key = seal_dataset(
            url,
            {"x": DATA},
            name="data",
            owner=self.alice.key_id,
            manager=self.data_house.key,
            version=version,
            predecessor=None if version == 1 else self.assets["data"].manifest,
        )
        return url, manifest, key

    def seal(self) -> None:
        self.storage: dict[str, str] = {}
        self.keys: dict[str, Secret] = {}
        self.assets: dict[str, JobAsset] = {}
        for slot, who, house, made in (
            ("data", self.alice, self.data_house, self.dataset()),
            ("code", self.carol, self.code_house, self.bundle(self.script)),
        ):
            self.storage[slot], manifest, self.keys[slot] = made
            house.client(who).deposit_key(manifest, self.keys[slot])
            self.assets[slot] = JobAsset(
                manifest=manifest.digest(),
                owner=who.key_id,
                manager=house.key,
                use="code" if slot == "code" else "data",
            )

    def policy(self, who: Identity, slot: str) -> Policy:
        asset = self.assets[slot]
        mode: Any = "attested" if self.kind == "tpm" else "enclave"
        return Policy(
            version="svetovid.policy/v1",
            name="main",
            owner=who.key_id,
            sequence=1,
            manager=asset.manager,
            profile="test",
            accepts=("simulated", "launcher"),
            anchors=Pin(document=self.anchors.digest()),
            references=(Pin(document=self.references.digest()),),
            operators=(self.olga.key_id,),
            grants=(
                Grant(
                    asset=asset.manifest,
                    use=asset.use,
                    code=(self.assets["code"].manifest,),
                    modes=(mode,),
                    recipients=(self.rita.key_id,),
                ),
            ),
        )

    def agree(self) -> None:
        self.policies = {slot: self.policy(who, slot) for slot, who in self.owners().items()}
        for slot, who in self.owners().items():
            house = self.data_house if slot == "data" else self.code_house
            house.client(who).put_policy(sign(self.policies[slot], who))
        self.job = self.propose(**self.job_changes)

    def owners(self) -> dict[str, Identity]:
        return {"data": self.alice, "code": self.carol}

    def propose(self, **changes: Any) -> Job:
        """A consented job."""
        fields: dict[str, Any] = {
            "version": "svetovid.job/v1",
            "name": "train",
            "proposer": self.carol.key_id,
            "nonce": b64encode(secrets.token_bytes(16)),
            "mode": "attested" if self.kind == "tpm" else "enclave",
            "assets": self.assets,
            "entry": "main.py",
            "environment": self.references.digest(),
            "outputs": {"answer": OutputSpec(tensors={"x": TensorSpec(dtype="int64", shape=(1,))})},
            "metrics": {"n": MetricSpec(type="int", max_count=1000)},
            "recipients": (Recipient(card=self.rita.signed_card()),),
            "limits": JobLimits(
                wall_s=60, memory_mib=512, processes=32, output_bytes=1 << 16, resumes=9
            ),
        }
        job = Job(**(fields | changes))
        for house in self.all_houses:
            house.client(self.carol).put_job(sign(job, self.carol))
            for slot, who in self.owners().items():
                consent = Consent(
                    job=job.digest(),
                    policy=self.policies[slot].digest(),
                    owner=who.key_id,
                    slots=(slot,),
                    issued_at=now(),
                )
                house.client(who).consent(sign(consent, who))
        return job

    # -- the job

    def clients(self, *houses: House) -> list[ManagerClient]:
        return [h.client(self.agent) for h in houses or self.all_houses]

    @contextlib.contextmanager
    def attester(self) -> Iterator[Attester]:
        """This host's, without svetovid's own files: others may edit those while tests run."""
        if self.kind == "simulated-tee":
            yield self.home.attester()
            return
        tpm = self.home.open_tpm()
        log = self.home.path / "measurements.log"
        attester = TpmAttester(tpm, Launcher(tpm, self.runtime, log, roots=()), self.home.host_id)
        try:
            yield attester
        finally:
            attester.close()

    def run(
        self,
        job: Job | None = None,
        *,
        attester: Attester | None = None,
        trusted_mib: float | None = None,
    ) -> JobOutcome:
        with contextlib.ExitStack() as stack:
            return run_job(
                self.home,
                (job or self.job).digest(),
                self.clients(),
                storage=self.storage,
                outputs=f"file://{self.out}/",
                on_event=self.events.append,
                attester=attester or stack.enter_context(self.attester()),
                trusted_mib=trusted_mib,
            )

    # -- after the job

    def open(self, url: str, who: Identity) -> bytes:
        """An output in the clear, as its recipient opens it."""
        path = url.removeprefix("file://")
        package = OutputPackage.parse(Path(path + ".package.json").read_bytes())
        sealed = next(k.sealed for k in package.keys if k.recipient == self.rita.key_id)
        context = output_context(package.asset, package.job, self.rita.key_id)
        key = who.receiving.open(sealed, context)
        manifest = Manifest.from_json(package.manifest)
        with open_asset(url, manifest, key, expected=package.asset) as reader:
            return reader.read_at(0, reader.size)

    def answer(self, outcome: JobOutcome) -> int:
        data = self.open(outcome.outputs["answer"], self.rita)
        return int.from_bytes(data[-8:], "little", signed=True)

    def bundle_of(self, outcome: JobOutcome, house: House) -> ReceiptBundle:
        path = Path(outcome.bundles[house.key].removeprefix("file://"))
        return ReceiptBundle.parse(path.read_bytes(), max_bytes=MAX_BUNDLE_BYTES)

    def verify(self, bundle: ReceiptBundle, house: House | None = None) -> Verdict:
        return verify_receipt(
            bundle,
            anchors=self.anchors,
            references=[self.references],
            manager=(house or self.data_house).key,
            now=now(),
        )

    def state(self, job: Job | None = None) -> str:
        return self.data_house.client(self.carol).job((job or self.job).digest()).state

    def close(self) -> None:
        for house in self.all_houses:
            house.close()
