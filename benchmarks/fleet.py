"""Many hosts that attest at an interval to one manager, over real HTTPS, which is killed.

The manager is a process of its own on loopback, its store on the disk. The hosts are SIMULATED:
software TPMs of ``tests/softtpm.py`` whose quotes are real signatures, in one process that also
takes its share of the machine. Each holds a connection of its own, as agents do; they come up one
after the other over some intervals. Every push brings one new line of the measurement log.

Then the manager is killed (SIGKILL) and started again over its store. A push that
fails is tried again a second or more later, with a new challenge and the whole log. So pushes are
lost over a kill, ``retried`` says how many; hosts must not be.

Top-level keys:
    hosts, interval_s: how many, and how often each attests.
    p50_ms, p99_ms: from sending a push to its whole answer, while all hosts attest, up to the kill.
    p99_by_interval_ms: the 99th percentile of each interval of those.
    lost: hosts that were not heard within ``patience_s`` after the kill, that the manager did not
        hold for fresh at the end, or that it refused at any time.
    pushes: answered, in all. ``retried``: failed because of the kill, and were tried again.
    away_s: from the kill to the first answer after it. ``recovered_s``: until every host was heard.
        ``drained_s``: until an interval passed in which no push took a second.
    after_ms: pushes in the intervals after that.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import random
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._harness import summary
from benchmarks._quiet import Quiet
from svetovid.crypto import Envelope, b64decode, b64encode, sign
from svetovid.evidence.documents import NO_JOB, TpmEvidence
from svetovid.manager import admit
from svetovid.protocol import ManagerPin
from svetovid.protocol.hosts import ChallengeRequest
from svetovid.protocol.messages import EvidenceRequest
from svetovid.protocol.wire import pinned_context

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from benchmarks.release import _Served
from managerworld import SoftHost, World, sha
from softtpm import SoftTpm

HOSTS = 2_000
INTERVAL_S = 10
INTERVALS = 6
"""That are measured; as many pass after all hosts are heard again."""
_COMING_UP = 12
"""Intervals over which hosts come up, and one more before anything is measured."""
_PATIENCE_S = 240
ENTRIES = 100
_SPREAD = 0.1
"""Agents come up to a tenth of the interval early, so that no two of them stay in step."""

_SERVE = """
import sys
from pathlib import Path
from svetovid.crypto import Secret
from svetovid.manager import PassphraseSealer, Settings, serve
serve(Path(sys.argv[1]), PassphraseSealer(Secret(b"benchmark")), port=int(sys.argv[2]),
      settings=Settings(interval_s=int(sys.argv[3])), ready=lambda pin: print(pin.url, flush=True))
"""


@dataclass
class _Result:
    """What came of all pushes so far: (when it was answered, seconds it took)."""

    answered: list[tuple[float, float]] = field(default_factory=list)
    retried: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    heard: dict[str, float] = field(default_factory=dict)
    done: bool = False

    def swift(self, seconds: float) -> bool:
        """Whether no push of the last ``seconds`` took a second."""
        since = time.monotonic() - seconds
        return all(took < 1 for at, took in reversed(self.answered) if at > since)

    def all_heard(self, hosts: int, since: float) -> bool:
        return sum(at > since for at in self.heard.values()) == hosts


class _Wire:
    """One host's connection; HTTP/1.1 as a plain agent speaks it."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port = port
        self._context = context
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def post(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and the JSON of the answer. Raises OSError where the manager is away."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(
                    "127.0.0.1", self._port, ssl=self._context, server_hostname=""
                )
            reader, writer = self._streams
            head = f"POST {path} HTTP/1.1\r\nHost: manager\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            header = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = int(header.split("content-length:")[1].split("\r\n")[0])
            answer = json.loads(await reader.readexactly(size))
        except (OSError, EOFError, ssl.SSLError) as e:
            self.close()
            raise OSError("away") from e
        status = int(header.split(" ", 2)[1])
        if status == 200:
            answer = json.loads(base64.b64decode(answer["payload"]))["body"]
        return status, answer


class _Host:
    """One simulated host: a software TPM, an agent's key, a connection."""

    def __init__(self, soft: SoftHost, wire: _Wire, result: _Result) -> None:
        self._soft = soft
        self._wire = wire
        self._result = result
        self._challenge: Envelope | None = None
        self._lines = 0

    async def attest(self, start: float, interval: float) -> None:
        await asyncio.sleep(max(0.0, start - time.monotonic()))
        while not self._result.done:
            begun = time.monotonic()
            try:
                status, answer = await self._push()
            except OSError:
                self._result.retried += 1
                self._challenge = None
                await asyncio.sleep(random.uniform(1.0, 0.3 * interval + 1.0))
                continue
            if status == 200:
                self._challenge = Envelope.from_json(answer["challenge"])
            else:
                self._challenge = None
                if answer["error"] != "challenge.unknown":
                    self._result.refused[self._soft.host_id] = answer["error"]
            wait = interval * random.uniform(1 - _SPREAD, 1)
            await asyncio.sleep(max(0.0, begun + wait - time.monotonic()))
        self._wire.close()

    async def _push(self) -> tuple[int, dict[str, Any]]:
        soft = self._soft
        if self._challenge is None:
            status, body = await self._wire.post("/v1/challenges", self._request())
            if status != 200:
                return status, body
            self._challenge = Envelope.from_json(body)
        self._lines += 1
        name = f"/opt/late/{self._lines}"
        soft.tpm.measure(name, sha(name.encode()))
        evidence: TpmEvidence = soft.evidence(self._challenge)
        body = EvidenceRequest(evidence=evidence).canonical()
        begun = time.monotonic()
        status, answer = await self._wire.post("/v1/attestations", body)
        now = time.monotonic()
        if status == 200:
            self._result.answered.append((now, now - begun))
            self._result.heard[soft.host_id] = now
        return status, answer

    def _request(self) -> bytes:
        soft = self._soft
        request = ChallengeRequest(
            manager=soft.world.me,
            host=soft.host_id,
            job=NO_JOB,
            role="attest",
            fresh=True,
            issued_at=int(time.time()),
            nonce=b64encode(random.randbytes(16)),
        )
        return sign(request, soft.agent).canonical()


@contextmanager
def _manager(folder: Path, port: int, interval: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _SERVE, str(folder / "manager"), str(port), str(interval)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise AssertionError("the manager did not start")
            yield process
        finally:
            process.kill()
            process.wait(10)


@asynccontextmanager
async def _background(work: list[Any]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(w) for w in work]
    try:
        yield
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _enrolled(world: World, count: int) -> list[SoftHost]:
    files = [(f"/opt/svetovid/{n:04d}.py", sha(str(n).encode())) for n in range(ENTRIES)]
    world.files = dict(files)
    hosts = []
    for n in range(count):
        host = SoftHost(world, f"fleet-{n}", SoftTpm(world.ca))
        host.boot()
        host.enrol()
        host.client.close()
        hosts.append(host)
    return hosts


def _unfresh(hosts: list[SoftHost]) -> set[str]:
    """Hosts that the manager holds for anything but fresh, while they go on."""
    client = hosts[0].world.clients["operator"]
    return {h.host_id for h in hosts if client.standing(h.host_id).standing != "fresh"}


async def _run(
    folder: Path, port: int, hosts: list[SoftHost], context: ssl.SSLContext, interval: int, n: int
) -> dict[str, Any]:
    result = _Result()
    gc.collect()
    gc.freeze()  # 2,000 hosts are many objects, and each is one machine's in the field
    first, second = (_manager(folder, port, interval) for _ in range(2))
    process = first.__enter__()
    begun = time.monotonic()
    settled = begun + (_COMING_UP + 1) * interval
    half = settled + n * interval
    starts = [begun + _COMING_UP * interval * i / len(hosts) for i in range(len(hosts))]
    pushing = [
        _Host(host, _Wire(port, context), result).attest(start, interval)
        for host, start in zip(hosts, starts, strict=True)
    ]
    async with _background(pushing):
        await asyncio.sleep(half - time.monotonic())
        process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        first.__exit__(None, None, None)
        await asyncio.to_thread(second.__enter__)
        patience = time.monotonic() + _PATIENCE_S
        away = 0.0
        while not result.all_heard(len(hosts), killed) and time.monotonic() < patience:
            if not away and any(at > killed for at in result.heard.values()):
                away = time.monotonic() - killed
            await asyncio.sleep(0.05)
        recovered = time.monotonic() - killed
        silent = {h.host_id for h in hosts if result.heard.get(h.host_id, 0.0) <= killed}
        while not result.swift(interval) and time.monotonic() < patience:
            await asyncio.sleep(0.5)
        drained = time.monotonic() - killed
        await asyncio.sleep(n * interval)
        end = time.monotonic()
        unfresh = await asyncio.to_thread(_unfresh, hosts)
        result.done = True
    second.__exit__(None, None, None)
    steady = [s * 1e3 for at, s in result.answered if settled <= at < half]
    by_interval: list[list[float]] = [[] for _ in range(n)]
    for at, s in result.answered:
        if settled <= at < half:
            by_interval[int((at - settled) / interval)].append(s * 1e3)
    after = [s * 1e3 for at, s in result.answered if killed + drained < at < end]
    lost = silent | unfresh | {*result.refused}
    return {
        "hosts": len(hosts),
        "interval_s": interval,
        "p50_ms": statistics.median(steady),
        "p99_ms": statistics.quantiles(steady, n=100)[98],
        "p99_by_interval_ms": [statistics.quantiles(ms, n=100)[98] for ms in by_interval],
        "lost": len(lost),
        "patience_s": _PATIENCE_S,
        "refused": sorted(set(result.refused.values())),
        "pushes": len(result.answered),
        "pushes_per_s": len(steady) / (half - settled),
        "retried": result.retried,
        "away_s": away,
        "recovered_s": recovered,
        "drained_s": drained,
        "steady_ms": summary(steady),
        "after_ms": summary(after) if after else {},
        "log_entries": ENTRIES + 1,
    }


def run(quick: bool = False) -> dict[str, Any]:
    """Measure; ``quick`` takes fewer hosts and a shorter interval, for the tests.

    Raises:
        HostError: ``bench.loaded``, before or after these minutes: nothing is repeated.
    """
    count, interval, n = (20, 2, 3) if quick else (HOSTS, INTERVAL_S, INTERVALS)
    quiet = Quiet(quick, tries=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with _manager(folder, port, interval):
            pin = ManagerPin.parse((folder / "manager" / "manager.json").read_bytes())
            world = _Served(pin, {}, [])
            admit(folder / "manager", [world.operator.card])
            world.clients["operator"].register_identity(world.operator.signed_card())
            hosts = _enrolled(world, count)
        context = pinned_context(b64decode(pin.tls_certificate))
        found = quiet.round(lambda: asyncio.run(_run(folder, port, hosts, context, interval, n)))
    return found | {"quiet": quiet.facts()}


if __name__ == "__main__":
    print(json.dumps(run(quick="--quick" in sys.argv), indent=2))
