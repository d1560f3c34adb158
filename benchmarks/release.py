"""What a release costs: from asking for a challenge to holding the opened keys, over real HTTPS.

The manager is a process of its own on loopback, its store on the disk. The host, in this process,
has libtpms as its TPM; its log has 5,000 entries that the manager knows, and three new ones each
time. The time that the TPM takes to quote is measured and subtracted (a hardware TPM takes its
own). Three owners, three keys; every owner's clauses are decided on, and the decision is on the
disk before a key leaves.

Two agents are measured. One keeps its attester and its connection, as an agent does that runs job
after job: its evidence goes on where the manager stopped reading. The other is new, as the agent
is that each ``svetovid host run`` starts: it connects, and sends its whole log.

Top-level keys:
    p50_ms, p99_ms: the agent that stays: challenge to opened keys, the TPM's own time subtracted.
    first_ms: the same for a new agent: median.
    cold_ms: the same for the very first request that the manager ever gets, once.
    manager_cpu_ms: processor time of the manager for one release of the agent that stays, with
        the end of its lease.
    tpm_ms: the median quote.
    parallel_hosts: hosts that each took a release at the same time, twice, each with a log of its
        own, on the software TPMs of ``tests/softtpm.py``, as threads of this process.
    errors: how many of those failed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks._harness import summary
from benchmarks._quiet import Quiet
from svetovid.crypto import Identity
from svetovid.errors import SvetovidError
from svetovid.host.tpm import LibtpmsTransport, Tpm, create_ca, issue_ek_certificate
from svetovid.manager import admit
from svetovid.policy.documents import JobLimits
from svetovid.protocol import ManagerClient, ManagerPin, Release, release_context

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from managerworld import SoftHost, World, sha
from softtpm import SoftTpm

ENTRIES = 5_000
NEW = 3
BLOCKS, BLOCK = 31, 20
"""Releases are taken in so many rounds of so many each."""
FIRSTS = 15
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
        self._key_id = pin.open().signing
        self.people()
        self.files = files
        self.anchor_ders += anchors

    @property
    def key_id(self) -> str:
        return self._key_id

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


def _once(host: SoftHost, job: str, *, fresh: bool = False) -> tuple[float, str]:
    """Seconds from the request for a challenge to opened keys; the lease."""
    start = time.perf_counter()
    challenge = host.client.challenge(host.host_id, job, "release", fresh=fresh)
    release = host.client.release(host.evidence(challenge))
    _open(host, job, release, challenge.payload_digest())
    return time.perf_counter() - start, release.lease.id


class _Alone:
    """One host on libtpms, whose log grows by some lines before each release.

    Args:
        late: paths of those lines, without end.
        manager: its process id.
    """

    def __init__(
        self, host: SoftHost, tpm: _LibTpm, job: str, late: Iterator[str], manager: int
    ) -> None:
        self._host = host
        self._tpm = tpm
        self._job = job
        self._late = late
        self._manager = manager
        self.quotes: list[float] = []
        host.boot()
        host.enrol()

    def first(self) -> float:
        """Seconds of a new agent's first release, connecting included."""
        self._host.client.close()
        self._host.client = self._host.world.client(self._host.agent)
        return self._take(fresh=True)

    def block(self, releases: int) -> tuple[list[float], float]:
        """Seconds of each; the manager's processor seconds a release."""
        before = _cpu_s(self._manager)
        seconds = [self._take() for _ in range(releases)]
        return seconds, (_cpu_s(self._manager) - before) / releases

    def _take(self, *, fresh: bool = False) -> float:
        for path in itertools.islice(self._late, NEW):
            self._tpm.measure(path, _digest(path))
        passed, lease = _once(self._host, self._job, fresh=fresh)
        self._host.client.end_lease(lease, "measured", self._host.job_key)
        self.quotes.append(self._tpm.quote_s[-1])
        return passed - self._tpm.quote_s[-1]


def _cpu_s(process: int) -> float:
    """Seconds of processor that a process took so far, its threads together (proc(5))."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _alone(alone: _Alone, quick: bool, quiet: Quiet) -> dict[str, Any]:
    blocks, block, firsts = (2, 5, 2) if quick else (BLOCKS, BLOCK, FIRSTS)
    cold = alone.first()
    alone.block(3)  # warms up
    taken = [quiet.round(lambda: alone.block(block)) for _ in range(blocks)]
    new = [quiet.round(alone.first) * 1e3 for _ in range(firsts)]
    ms = [s * 1e3 for seconds, _ in taken for s in seconds]
    medians = [statistics.median(seconds) * 1e3 for seconds, _ in taken]
    quiet.require_narrow("p50_ms", medians)
    quiet.require_narrow("first_ms", new)
    return {
        "p50_ms": statistics.median(ms),
        "p99_ms": statistics.quantiles(ms, n=100)[98],
        "first_ms": statistics.median(new),
        "cold_ms": cold * 1e3,
        "manager_cpu_ms": statistics.median(cpu for _, cpu in taken) * 1e3,
        "tpm_ms": statistics.median(alone.quotes) * 1e3,
        "range_ms": summary(ms),
        "block_ms": summary(medians),
        "first_range_ms": summary(new),
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
    """Measure; ``quick`` takes fewer rounds and a shorter log, for the tests.

    Raises:
        HostError: ``bench.loaded``, ``bench.spread``.
    """
    entries = 200 if quick else ENTRIES
    files = {p: _digest(p) for p in (f"/opt/svetovid/lib/{n:05d}.py" for n in range(entries))}
    late = [f"/opt/svetovid/late/{n:05d}.py" for n in range(NEW * (BLOCKS * BLOCK + FIRSTS + 4))]
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
                    return _measured(pin, folder, tpm, files, late, manager.pid, quick)
                finally:
                    tpm.close()
            finally:
                manager.terminate()
                manager.wait(10)


def _digest(path: str) -> str:
    """What stands for the content of a file that is measured."""
    return sha(path.encode())


def _measured(
    pin: ManagerPin,
    folder: Path,
    tpm: _LibTpm,
    files: dict[str, str],
    late: list[str],
    manager: int,
    quick: bool,
) -> dict[str, Any]:
    world = _Served(pin, files | {p: _digest(p) for p in late}, [tpm.ca.der])
    admit(folder / "manager", [world.operator.card])  # a stranger's hosts may keep less than this
    world.register()
    world.publish()
    world.seal()
    world.put_policies()
    job = world.propose(world.job_document(limits=JobLimits(resumes=1000)))
    world.files = files
    quiet = Quiet(quick)
    # Repeated rounds begin the late files again, which a log may well hold twice.
    alone = _Alone(SoftHost(world, "bench", tpm), tpm, job, itertools.cycle(late), manager)
    found = _alone(alone, quick, quiet) | {"log_entries": len(tpm.entries)}
    entries = min(len(files), PARALLEL_ENTRIES)
    return found | quiet.round(lambda: _together(world, entries)) | {"quiet": quiet.facts()}


if __name__ == "__main__":
    print(json.dumps(run(quick="--quick" in sys.argv), indent=2))
