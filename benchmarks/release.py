"""What a release costs: from asking for a challenge to holding the opened keys, over real HTTPS.

The manager is a process of its own on loopback, its store on the disk. The host, in this process,
has libtpms as its TPM; its log has 5,000 entries that the manager knows, and three new ones each
time. The time that the TPM takes to quote is measured and subtracted (a hardware TPM takes its
own). Three owners, three keys; every owner's clauses are decided on, and the decision is on the
disk before a key leaves.

Top-level keys:
    p50_ms, p99_ms: challenge to opened keys, the TPM's own time subtracted.
    tpm_ms: the median quote.
    first_ms: the same for the first release, which sends and appraises the whole log.
    parallel_hosts: hosts that each took a release at the same time, twice, each with a log of its
        own, on the software TPMs of ``tests/softtpm.py``, as threads of this process.
    errors: how many of those failed.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks._harness import refuse_if_loaded, summary
from svetovid.crypto import Identity
from svetovid.errors import SvetovidError
from svetovid.host.tpm import LibtpmsTransport, Tpm, create_ca, issue_ek_certificate
from svetovid.policy.documents import JobLimits
from svetovid.protocol import ManagerClient, ManagerPin, Release, release_context

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from managerworld import SoftHost, World, sha
from softtpm import SoftTpm

ENTRIES = 5_000
NEW = 3
HOSTS = 64
PARALLEL_ENTRIES = 1_000

_SERVE = """
import sys
from pathlib import Path
from svetovid.crypto import Secret
from svetovid.manager import PassphraseSealer, Settings, serve
serve(Path(sys.argv[1]), PassphraseSealer(Secret(b"benchmark")), port=0,
      settings=Settings(lease_s=600), ready=lambda pin: print(pin.url, flush=True))
"""


class _LibTpm(SoftTpm):
    """libtpms behind the interface of the tests' software TPM, and the time its quotes took."""

    def __init__(self, folder: Path) -> None:
        self._tpm = Tpm(LibtpmsTransport(folder / "tpm"))
        self._tpm.startup()
        self.ca = create_ca(folder / "ca")
        self.ek_certificate = issue_ek_certificate(self.ca, self._tpm.ek())
        self.entries = []
        self.pcrs = [bytes(32)] * 24
        self.quote_s: list[float] = []

    @property
    def ek_public(self) -> bytes:
        return self._tpm.ek()

    @property
    def ak_public(self) -> bytes:
        return self._tpm.ak()

    def measure(self, path: str, content_digest: str) -> None:
        super().measure(path, content_digest)
        head = 4 + 20 + 4 + 6 + 4  # PCR, SHA-1 template digest, length, "ima-ng", length
        self._tpm.extend(10, hashlib.sha256(self.entries[-1][head:]).digest())

    def quote(self, qualifying: bytes, selection: tuple[int, ...]) -> tuple[bytes, bytes]:
        start = time.perf_counter()
        quote = self._tpm.quote(qualifying)
        self.quote_s.append(time.perf_counter() - start)
        for number, value in quote.pcrs.items():
            self.pcrs[number] = value
        return quote.attest, quote.signature

    def activate(self, credential: bytes, secret: bytes) -> bytes:
        return self._tpm.activate_credential(credential, secret).reveal()

    def close(self) -> None:
        self._tpm.close()


class _Served(World):
    """The tests' world around a manager that runs in a process of its own."""

    def __init__(self, pin: ManagerPin, files: dict[str, str], anchors: list[bytes]) -> None:
        self.pin = pin
        self.people()
        self.files = files
        self.anchor_ders += anchors

    @property
    def key_id(self) -> str:
        return self.pin.open().signing

    @property
    def now(self) -> int:
        return int(time.time())

    def client(self, identity: Identity, **more: Any) -> ManagerClient:
        return ManagerClient(self.pin, identity, **more)


def _open(host: SoftHost, job: str, release: Release, challenge: str) -> None:
    world = host.world
    for key in release.keys:
        name = world.assets[key.slot].manifest
        context = release_context(name, job, host.host_id, challenge, world.me)
        if host.keys.open(key.sealed, context) != world.keys[name]:
            raise AssertionError("another key")


def _once(host: SoftHost, job: str) -> tuple[float, str]:
    """Seconds from the request for a challenge to opened keys; the lease."""
    start = time.perf_counter()
    challenge = host.client.challenge(host.host_id, job, "release")
    release = host.client.release(host.evidence(challenge))
    _open(host, job, release, challenge.payload_digest())
    return time.perf_counter() - start, release.lease.id


def _alone(host: SoftHost, tpm: _LibTpm, job: str, rounds: int, late: list[str]) -> dict[str, Any]:
    host.boot()
    host.enrol()
    seconds, tpm_seconds, first = [], [], 0.0
    for turn in range(rounds + 1):
        for _ in range(NEW):
            path = late.pop()
            tpm.measure(path, _digest(path))
        passed, lease = _once(host, job)
        host.client.end_lease(lease, "measured", host.job_key)
        if turn == 0:
            first = passed - tpm.quote_s[-1]
            continue
        seconds.append(passed - tpm.quote_s[-1])
        tpm_seconds.append(tpm.quote_s[-1])
    host.client.close()
    ms = [s * 1e3 for s in seconds]
    return {
        "p50_ms": statistics.median(ms),
        "p99_ms": statistics.quantiles(ms, n=100)[98],
        "tpm_ms": statistics.median(tpm_seconds) * 1e3,
        "first_ms": first * 1e3,
        "range_ms": summary(ms),
        "log_entries": len(tpm.entries),
        "new_entries": NEW,
        "releases": len(ms),
    }


def _together(world: _Served, entries: int) -> dict[str, Any]:
    hosts, jobs = [], []
    names = list(world.files)[:entries]
    for n in range(HOSTS):
        host = SoftHost(world, f"soft-{n}", SoftTpm(world.ca))
        aggregate = hashlib.sha256(bytes(320)).hexdigest()
        host.tpm.measure("boot_aggregate", "sha256:" + aggregate)
        for name in names:
            host.tpm.measure(name, world.files[name])
        host.enrol()
        hosts.append(host)
        jobs.append(world.propose(world.job_document(limits=JobLimits(resumes=10))))
    errors: list[str] = []
    found: dict[str, list[float]] = {"cold": [], "warm": []}
    gate = threading.Barrier(HOSTS)

    def work(host: SoftHost, job: str) -> None:
        for kind in ("cold", "warm"):
            gate.wait()
            try:
                seconds, lease = _once(host, job)
                found[kind].append(seconds * 1e3)
                host.client.end_lease(lease, "measured", host.job_key)
            except SvetovidError as e:
                errors.append(e.code)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(hosts, jobs, strict=True)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "parallel_hosts": HOSTS,
        "errors": len(errors),
        "parallel": {
            "tpm": "software, tests/softtpm.py",
            "log_entries": entries + 1,
            "wall_s": time.perf_counter() - start,
            "error_codes": sorted(set(errors)),
            **{f"{k}_ms": summary(v) for k, v in found.items() if v},
        },
    }


def run(quick: bool = False) -> dict[str, Any]:
    """Measure; ``quick`` takes fewer rounds and a shorter log, for the tests."""
    rounds, entries = (10, 200) if quick else (300, ENTRIES)
    if not quick:
        refuse_if_loaded()
    files = {p: _digest(p) for p in (f"/opt/svetovid/lib/{n:05d}.py" for n in range(entries))}
    late = [f"/opt/svetovid/late/{n:05d}.py" for n in range(NEW * (rounds + 1))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-c", _SERVE, str(folder / "manager")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as manager:
            try:
                assert manager.stdout is not None
                manager.stdout.readline()
                pin = ManagerPin.parse((folder / "manager" / "manager.json").read_bytes())
                tpm = _LibTpm(folder)
                try:
                    return _measured(pin, tpm, files, late, rounds)
                finally:
                    tpm.close()
            finally:
                manager.terminate()
                manager.wait(10)


def _digest(path: str) -> str:
    """What stands for the content of a file that is measured."""
    return sha(path.encode())


def _measured(
    pin: ManagerPin, tpm: _LibTpm, files: dict[str, str], late: list[str], rounds: int
) -> dict[str, Any]:
    world = _Served(pin, files | {p: _digest(p) for p in late}, [tpm.ca.der])
    world.register()
    world.publish()
    world.seal()
    world.put_policies()
    job = world.propose(world.job_document(limits=JobLimits(resumes=1000)))
    world.files = files
    alone = _alone(SoftHost(world, "bench", tpm), tpm, job, rounds, late)
    return {**alone, **_together(world, min(len(files), PARALLEL_ENTRIES))}


if __name__ == "__main__":
    print(json.dumps(run(quick="--quick" in sys.argv), indent=2))
