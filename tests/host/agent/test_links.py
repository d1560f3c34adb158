"""A link to a manager that forgets, restarts or falls silent (T12)."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from agentworld import SLOW, World, children, plaintext_open, trained
from svetovid.crypto import b64decode
from svetovid.errors import EvidenceError, RefusalError, SvetovidError
from svetovid.evidence.ima import build_entry, parse_log
from svetovid.host.link import ManagerLink, once_more

Make = Callable[..., World]


def asked(request: httpx.Request) -> tuple[str, bool] | None:
    """Role and ``fresh`` of a request for a challenge."""
    if request.url.path != "/v1/challenges":
        return None
    message = json.loads(b64decode(json.loads(request.content)["payload"]))
    return message["role"], message["fresh"]


class Forgetful:
    """Restarts the manager between a challenge and its answer."""

    def __init__(self, world: World, role: str, times: int = 1) -> None:
        self.asked: list[tuple[str, bool]] = []
        self._world, self._role, self.left = world, role, times
        world.data_house.gate.after = self.after

    def after(self, request: httpx.Request) -> None:
        found = asked(request)
        if found is None:
            return
        self.asked.append(found)
        if found[0] == self._role and self.left:
            self.left -= 1
            self._world.data_house.restart()

    def of(self, role: str) -> list[bool]:
        return [fresh for r, fresh in self.asked if r == role]


@pytest.mark.parametrize("role", ["renew", "finish"])
def test_t12_a_manager_restarted_before_an_answer_ends_nothing(make: Make, role: str) -> None:
    """T12: it forgot how far it knew the log; nothing is recorded, and the whole log is sent."""
    world = make(kind="tpm", lease_s=3, job_changes=SLOW)
    forgetful = Forgetful(world, role)
    outcome = world.run()
    assert world.answer(outcome) == trained()
    assert world.verify(world.bundle_of(outcome, world.data_house)).affirmed
    assert world.data_house.refusals(world.carol) == []
    assert forgetful.of(role)[:2] == [False, True]


def test_f9_the_first_evidence_of_an_attester_brings_its_whole_log(make: Make) -> None:
    """Later evidence of the same attester brings what is new, as long as the manager knows it."""
    world = make(kind="tpm")
    tap = Forgetful(world, "release", times=0)
    with world.attester() as attester:
        for n in range(2):
            world.run(attester=attester)
            world.job = world.propose(name=f"again-{n}")
        tap.left = 1
        world.run(attester=attester)
        world.job = world.propose(name="later")
    assert tap.of("release") == [True, False, False, True]
    world.run()
    assert tap.of("release")[4:] == [True]
    assert world.data_house.refusals(world.carol) == []


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        ("challenge.unknown", [False, True]),
        ("policy.changed", [False, True]),
        ("challenge.used", [False]),
        ("ima.offset", [False]),
    ],
)
def test_t12_what_was_forgotten_is_asked_once_more_and_no_more(
    code: str, asked: list[bool]
) -> None:
    got: list[bool] = []

    def ask(*, fresh: bool) -> None:
        got.append(fresh)
        raise EvidenceError(code)

    with pytest.raises(EvidenceError) as e:
        once_more(ask)
    assert e.value.code == code
    assert got == asked


# -- a manager that takes a request and never answers


class Silence(httpx.BaseTransport):
    """The way to a manager; from the second checkpoint on, to a socket that accepts and is mute."""

    def __init__(self, world: World, path: str = "/v1/heads", after: int = 2) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._http = httpx.HTTPTransport()
        self._path, self._left = path, after
        self.gate = world.data_house.gate
        self.to, self.gate.to = self.gate.to, self
        self.at = 0.0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._left -= request.url.path == self._path
        if self._left > 0:
            return self.to.handle_request(request)
        self.at = self.at or time.monotonic()
        host, port = self._listener.getsockname()
        assert request.extensions["timeout"]["read"] >= 30
        request.url = request.url.copy_with(scheme="http", host=host, port=port)
        return self._http.handle_request(request)

    def end(self) -> None:
        """Every connection is reset: whoever still waits learns that nobody is there."""
        self.gate.to = self.to
        self._listener.close()
        self._http.close()


@pytest.mark.parametrize("path", ["/v1/heads", "/v1/challenges", "/v1/finishes"])
def test_t12_silence_ends_a_run_with_its_lease(make: Make, path: str) -> None:
    """T12: no reset, no answer: the request would hang for 30 s, and plaintext with it."""
    world = make(lease_s=3, job_changes=SLOW)
    silence = Silence(world, path, after=1 if path == "/v1/finishes" else 2)
    codes: list[str] = []

    def go() -> None:
        try:
            world.run()
        except SvetovidError as e:
            codes.append(e.code)

    thread = threading.Thread(target=go)
    thread.start()
    try:
        while not silence.at:
            time.sleep(0.05)
        assert thread.is_alive()
        while any(left := (plaintext_open(), children())):
            # 3 s at the most, and what ending takes
            assert time.monotonic() - silence.at < 5, left
            time.sleep(0.05)
        if path == "/v1/finishes":  # nothing is renewed any more: the lease is all there is
            thread.join(5)
            assert not thread.is_alive()
    finally:
        silence.end()
        thread.join(40)
    assert codes == ["lease.expired"]
    assert not list(world.out.glob("*receipt*"))


@pytest.mark.parametrize("late", [False, True], ids=["at-a-checkpoint", "at-the-end"])
def test_t9_what_foreign_code_had_measured_is_seen_before_anything_leaves(
    make: Make, late: bool
) -> None:
    """Neither a checkpoint nor an output nor evidence: such a log is public."""
    world = make(kind="tpm")
    with world.attester() as attester:
        caller = "_execute" if late else "save"

        def look_back() -> None:
            if sys._getframe(1).f_code.co_name == caller:
                raise RefusalError("measure.grew")

        attester.look_back = look_back  # type: ignore[method-assign]
        with pytest.raises(RefusalError) as e:
            world.run(attester=attester)
    assert e.value.code == "measure.grew"
    stages = [event.stage for event in world.events]
    assert stages[-1] == "running"
    assert not list(world.out.glob("*.sealed"))
    assert late == bool(list(world.out.glob("*checkpoint*")))


def test_t13_what_is_measured_between_the_log_and_the_last_quote_is_in_both(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of the host reads a file in that moment: the receipt holds all the same."""
    world = make(kind="tpm")
    final, asked = ManagerLink.final, 0
    with world.attester() as attester:

        def late(self: ManagerLink, subject: str, **more: bool) -> Any:
            nonlocal asked
            asked += 1
            if asked == 1:
                launcher: Any = attester._log  # type: ignore[attr-defined]
                listed = parse_log(attester.log())[1]
                launcher._enter([build_entry(listed.path, listed.named_digest)])
            return final(self, subject, **more)

        monkeypatch.setattr(ManagerLink, "final", late)
        outcome = world.run(attester=attester)
    assert asked == 2
    assert world.verify(world.bundle_of(outcome, world.data_house)).affirmed
