"""A masked job in one process: the world of ``agentworld``, and workers behind TLS on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentworld import World
from svetovid.crypto import digest
from svetovid.errors import SvetovidError
from svetovid.offload.links import make_certificate
from svetovid.offload.recorder import Recorder
from svetovid.offload.wire import Limits
from svetovid.offload.worker.listener import Listener
from svetovid.policy import Policy


@dataclass
class Worker:
    """Serves one host, connection after connection, in threads.

    Attributes:
        seen: all that came and went, of every connection.
        stalls: it answers nothing any more.
        lies: it answers something else.
    """

    folder: Path
    name: str
    host: Path
    """The host's certificate."""
    stalls: bool = False
    lies: bool = False
    seen: Recorder = field(default_factory=Recorder)
    ended: list[SvetovidError] = field(default_factory=list)

    def __post_init__(self) -> None:
        own = self.folder / f"{self.name}.pem"
        self.certificate = make_certificate(own)
        pem = self.host.read_text()
        import ssl

        identity = digest(ssl.PEM_cert_to_DER_cert(pem))
        self._listener = Listener("127.0.0.1", 0, own=own, peer=self.host, identity=identity)
        self._open = True
        threading.Thread(target=self._serve, name="worker", daemon=True).start()

    @property
    def port(self) -> int:
        return self._listener.port

    def _serve(self) -> None:
        from svetovid.offload.worker.engine import Engine
        from svetovid.offload.worker.session import serve

        worker = self

        class Ours(Engine):
            def compute(self, work: Any, held: Any, into: Any) -> None:
                stall = threading.Event()
                while worker.stalls and worker._open:
                    stall.wait(0.05)
                super().compute(work, held, into)
                if worker.lies:
                    into[0] ^= 1

        with contextlib.suppress(OSError, ValueError):  # closed
            while self._open:
                channel = self._listener.accept()
                self.ended.append(serve(channel, Ours(), Limits(), observer=self.seen))

    def to_json(self, operator: str = "") -> dict[str, Any]:
        return {
            "certificate": self.certificate,
            "operator": operator or f"{self.name} Ltd",
            "url": f"tls://127.0.0.1:{self.port}",
        }

    def close(self) -> None:
        self._open = False
        self._listener.close()

    def plain(self) -> bytes:
        """Everything it was sent, as bytes."""
        parts = [
            seen.header + (b"" if seen.numbers is None else seen.numbers.tobytes())
            for seen in self.seen.seen
        ]
        return b"\n".join(parts)


class MaskedWorld(World):
    """Owners who grant masked mode."""

    def policy(self, who: Any, slot: str) -> Policy:
        plain = super().policy(who, slot)
        grants = [g.to_json() | {"modes": ["masked"]} for g in plain.grants]
        return Policy.from_json(plain.to_json() | {"grants": grants})

    def agree(self) -> None:
        """The policies; the job waits until its workers are there."""
        self.policies = {slot: self.policy(who, slot) for slot, who in self.owners().items()}
        from svetovid.crypto import sign

        for slot, who in self.owners().items():
            self.data_house.client(who).put_policy(sign(self.policies[slot], who))

    def masked(self, workers: list[Worker], **changes: Any) -> None:
        """Agree on a job with these workers."""
        offload = {
            "protocol": "coded",
            "workers": [w.to_json() for w in workers],
            "products": 1000,
            "numbers": 1_000_000,
        } | changes.pop("offload", {})
        from svetovid.policy import Offload

        given = {"mode": "masked", "offload": Offload.from_json(offload)}
        self.job = self.propose(**(given | self.job_changes | changes))

    @property
    def link(self) -> Path:
        return self.home.path / "link.crt"


@contextlib.contextmanager
def workers(world: World, count: int) -> Iterator[list[Worker]]:
    """Workers of this world's host."""
    folder = world.folder / "workers"
    folder.mkdir(exist_ok=True)
    made = [Worker(folder, f"w{i}", world.home.path / "link.crt") for i in range(count)]
    try:
        yield made
    finally:
        for one in made:
            one.close()


@contextlib.contextmanager
def deaf() -> Iterator[int]:
    """A port where somebody listens and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield int(sock.getsockname()[1])
