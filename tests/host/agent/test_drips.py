"""A manager that answers byte by byte holds a host no longer than a lease (T12)."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from agentworld import House, World, children, plaintext_open, trained
from svetovid.errors import InputError, SvetovidError
from svetovid.host import agent
from svetovid.host.runner import SandboxResult

Make = Callable[..., World]
WELL = 4.0
"""Seconds that a busy machine may take on top of what is waited for."""


def outputs_held() -> int:
    """Outputs in the clear that this process still holds: none of them as far as anybody knows."""
    return sum(len(o.outputs) for o in gc.get_objects() if isinstance(o, SandboxResult))


class Drip(httpx.BaseTransport):
    """The way to a manager; from the ``after``-th request of a path on, to one that drips."""

    def __init__(self, house: House, path: str, after: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._http = httpx.HTTPTransport()
        self._path, self._left = path, after
        self._to, house.gate.to = house.gate.to, self
        self._ended = threading.Event()
        self.at = 0.0
        self.held = -1
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self._ended.is_set():
            taken, _ = self._listener.accept()
            threading.Thread(target=self._drip, args=(taken,), daemon=True).start()

    def _drip(self, taken: socket.socket) -> None:
        with taken:
            taken.recv(1 << 16)
            taken.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not self._ended.wait(0.1):
                taken.sendall(b" ")

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._left -= request.url.path == self._path
        if self._left > 0 or self._ended.is_set():
            return self._to.handle_request(request)
        if not self.at:
            self.at, self.held = time.monotonic(), outputs_held()
        host, port = self._listener.getsockname()
        request.url = request.url.copy_with(scheme="http", host=host, port=port)
        return self._http.handle_request(request)

    def end(self) -> None:
        self._ended.set()
        socket.create_connection(self._listener.getsockname()).close()
        while any(t.name in ("renewals", "request") for t in threading.enumerate()):
            time.sleep(0.02)


@contextmanager
def dripping(house: House, path: str, after: int = 1) -> Iterator[Drip]:
    drip = Drip(house, path, after)
    try:
        yield drip
    finally:
        drip.end()


def refused(world: World) -> SvetovidError:
    with pytest.raises(SvetovidError) as e:
        world.run()
    return e.value


def test_t12_a_manager_asked_later_holds_no_lease_of_one_asked_before(make: Make) -> None:
    """T12: keys of the first are there already; nobody renews its lease yet."""
    world = make(houses=2, lease_s=2)
    with dripping(max(world.all_houses, key=lambda h: h.key), "/v1/releases") as drip:
        assert refused(world).code == "lease.expired"
        assert time.monotonic() - drip.at < 2 + WELL
    assert [event.stage for event in world.events] == ["attesting"]


def test_t12_a_renewal_that_drips_ends_a_run_with_its_lease(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T12: a job that is done waits for the renewal under way, and for that no longer."""
    monkeypatch.setattr(agent, "_GIVE_BACK_S", 0.3)
    # No checkpoint: that would wait for the renewal as well, and the job would not come to its end.
    world = make(lease_s=3, script="import time\ntime.sleep(1.0)\nanswer(1)\n")
    with dripping(world.data_house, "/v1/renewals") as drip:
        assert refused(world).code == "lease.expired"
        assert time.monotonic() - drip.at < 2 + WELL
        assert (plaintext_open(), children(), outputs_held()) == (0, set(), 0)
    assert not list(world.out.glob("*receipt*"))


def test_t12_a_lease_is_given_back_without_waiting_for_an_answer(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T12: and before that, whatever failed has let go of what came out of the job."""
    monkeypatch.setattr(agent, "_GIVE_BACK_S", 0.3)
    deliver = agent.deliver

    def full(job: Any, name: str, *rest: Any) -> Any:
        if name != "answer":
            assert outputs_held() == 1
            raise InputError("file.write")
        return deliver(job, name, *rest)

    monkeypatch.setattr(agent, "deliver", full)
    world = make()
    with dripping(world.data_house, "/v1/lease-ends") as drip:
        assert refused(world).code == "file.write"
        over = time.monotonic()
        while not drip.at:  # nobody waits for it: on a busy machine it is sent afterwards
            assert time.monotonic() - over < 30
            time.sleep(0.01)
        assert over - drip.at < 0.3 + WELL
        assert drip.held == 0


def test_t12_what_is_sealed_is_forgotten_before_a_manager_is_asked(make: Make) -> None:
    """T12: the last evidence and the receipt may take as long as they take."""
    world = make()
    held: list[int] = []
    world.data_house.gate.tap = lambda r: held.append(outputs_held())
    assert world.answer(world.run()) == trained()
    assert world.data_house.gate.paths[-2:] == ["/v1/challenges", "/v1/finishes"]
    assert held[-2:] == [0, 0]
