"""A release that comes when nobody waits for it any more (T12)."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from svetovid.errors import RefusalError
from svetovid.host.lease import boottime
from svetovid.host.link import ManagerLink


class Late:
    """A manager, and its way to this host, that answers when the test says so."""

    manager = "m"
    channel = "c"

    def __init__(self) -> None:
        self.challenged, self.released = threading.Event(), threading.Event()
        self.asked: list[str] = []
        self.done = threading.Event()

    def challenge(self, *_: object, **__: object) -> Any:
        assert self.challenged.wait(10)
        return Any

    def release(self, _: object) -> Any:
        self.asked.append("release")
        assert self.released.wait(10)

        class Found:
            class lease:  # noqa: N801 - as it is read
                id, seconds, renew_after = "L", 60, 20

        return Found

    def end_lease(self, lease: str, why: str, signer: object) -> None:
        self.asked.append(f"{lease} ended by {signer}: {why}")
        self.done.set()


class Job:
    @staticmethod
    def digest() -> str:
        return "job"


def link_to(client: Late, monkeypatch: pytest.MonkeyPatch) -> ManagerLink:
    class Attester:
        known: set[str] = set()

    class Keys:
        public = "p"

    parts: Any = (client, "h", Job, Keys, "ed25519:" + "1" * 64, Attester)
    monkeypatch.setattr("svetovid.host.link.JobKeys", lambda **_: None)
    link = ManagerLink(*parts)
    monkeypatch.setattr(link, "_proved", lambda *_: (boottime(), None, None))
    return link


def test_t12_a_lease_that_comes_late_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Late()
    client.challenged.set()
    link = link_to(client, monkeypatch)
    signer: Any = "job"
    with pytest.raises(RefusalError, match=r"lease\.expired"):
        link.ask(boottime() + 0.2, signer)
    client.released.set()
    assert client.done.wait(5)
    assert client.asked == ["release", "L ended by job: lease.expired"]
    assert not link.holds_lease


def test_t12_nothing_is_proven_when_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another job may be at the attester by then."""
    client = Late()
    link = link_to(client, monkeypatch)
    with pytest.raises(RefusalError, match=r"lease\.expired"):
        link.ask(boottime() + 0.2)
    client.challenged.set()
    end = time.monotonic() + 5
    while any(t.name == "request" for t in threading.enumerate()) and time.monotonic() < end:
        time.sleep(0.01)
    assert client.asked == []
