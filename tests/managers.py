"""A real manager in this process: the one that every world of the tests has, one or more of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from inprocess import InProcess
from softtpm import SoftCa
from svetovid.crypto import Identity, Secret, b64encode
from svetovid.manager import Door, Manager, PassphraseSealer, RootKey, Settings, make_app
from svetovid.protocol import ManagerClient, ManagerPin


class LocalManager:
    """A manager over a store in a file. ``stop``, ``start`` and ``restart`` keep the store.

    Args:
        store: the file.
        clock: Unix seconds.
        sealer: of its root key; under a passphrase by default.
        more: passed on when it is started first.

    Attributes:
        settings, door: whatever they are when it is started counts.
        transport: the way to the one that runs now.
    """

    def __init__(
        self,
        name: str,
        store: Path,
        clock: Callable[[], int],
        *,
        settings: Settings | None = None,
        sealer: Any = None,
        **more: Any,
    ) -> None:
        self.identity = Identity.generate(name)
        self.store = store
        self.clock = clock
        self.settings = settings or Settings()
        self.door = Door()
        self.root_secret = Secret.random(32)
        self.sealer = sealer or PassphraseSealer(Secret(b"passphrase"))
        self.pin = ManagerPin(
            card=self.identity.signed_card(),
            tls_certificate=b64encode(SoftCa(f"{name}'s TLS").der),
            url=f"https://{name}.test",
        )
        self._begun = False
        self._started: list[InProcess] = []
        self.transport: httpx.BaseTransport = _Current(self._started)
        self.start(**more)

    @property
    def key_id(self) -> str:
        return self.identity.key_id

    def open(self, **more: Any) -> Manager:
        """Another manager process over the same store: a replica."""
        return Manager(
            self.store,
            self.identity,
            RootKey(self.root_secret),
            self.sealer,
            channel=self.pin.channel,
            clock=self.clock,
            settings=self.settings,
            door=lambda: self.door,
            begun=self._begun,
            **more,
        )

    def start(self, **more: Any) -> None:
        self.manager = self.open(**more)
        self._begun = True
        self.app = make_app(self.manager)
        self._started.append(InProcess(self.app))

    def stop(self) -> None:
        self.manager.close()

    def restart(self, **more: Any) -> None:
        """As after a crash: the same store, nothing in memory."""
        self.stop()
        self.start(**more)

    def close(self) -> None:
        self.stop()
        for transport in self._started:
            transport.close()

    def client(self, who: Identity, **more: Any) -> ManagerClient:
        given = {"transport": self.transport, "clock": self.clock, **more}
        return ManagerClient(self.pin, who, **given)


class _Current(httpx.BaseTransport):
    """To whichever manager was started last."""

    def __init__(self, started: list[InProcess]) -> None:
        self._started = started

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._started[-1].handle_request(request)

    def close(self) -> None:
        return
