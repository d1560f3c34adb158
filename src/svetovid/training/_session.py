"""What a script runs in: a sandbox, or a folder at home. One at a time in a process."""

from __future__ import annotations

import mmap
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from svetovid.training._wire import Wire

if TYPE_CHECKING:
    from svetovid.training._masked import StepMultiplier

__all__ = ["SandboxSession", "Session", "Shared", "current", "install"]

_POLL_S = 0.0005


class Bytes(Protocol):
    """Content that may still be arriving."""

    @property
    def buffer(self) -> memoryview: ...

    def wait(self, end: int) -> None: ...


class Session(Protocol):
    """What the public functions need; sandbox and local development each have one."""

    parameters: dict[str, Any]
    seed: int
    steps: int
    """Of masked mode, how many have begun."""

    def content(self, slot: str) -> Bytes: ...

    def schema(self, slot: str) -> Mapping[str, Any]: ...

    def save(self, name: str, data: bytes | bytearray) -> None: ...

    def checkpoint(self, data: bytes | bytearray) -> None: ...

    def resume(self) -> bytes | memoryview | None: ...

    def metric(self, name: str, value: float) -> None: ...

    def progress(self, done: int, total: int) -> None: ...

    def multiplier(self) -> StepMultiplier: ...


def _mapped(fd: int, size: int) -> memoryview:
    if size == 0:
        return memoryview(b"")
    return memoryview(mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ))


class Shared:
    """Memory that the host fills from its start; ``wait(end)`` until that much is there."""

    def __init__(self, data: int, mark: int, size: int) -> None:
        self.buffer = _mapped(data, size)
        self._mark = _mapped(mark, mmap.PAGESIZE)[:8].cast("Q")
        self._there = 0

    def wait(self, end: int) -> None:
        """Return once the first ``end`` bytes are verified plaintext.

        The host ends the job if that never happens.
        """
        while self._there < end:
            self._there = self._mark[0]
            if self._there < end:
                time.sleep(_POLL_S)


class SandboxSession:
    """The real thing, from the configuration that the bootstrap was handed."""

    def __init__(self, config: Mapping[str, Any], wire: Wire) -> None:
        self.parameters: dict[str, Any] = dict(config["parameters"])
        self.seed: int = config["seed"]
        self._wire = wire
        self._slots = config["slots"]
        self._metrics = config["metrics"]
        self._resume = config["resume"]
        self._masked = config["masked"]
        self._multiplier: StepMultiplier | None = None
        self._shared: dict[str, Shared] = {}

    def _slot(self, slot: str) -> Mapping[str, Any]:
        if slot not in self._slots:
            raise KeyError(f"no slot {slot!r}; this job has {', '.join(sorted(self._slots))}")
        found: Mapping[str, Any] = self._slots[slot]
        return found

    def content(self, slot: str) -> Shared:
        if slot not in self._shared:
            s = self._slot(slot)
            self._shared[slot] = Shared(s["data"], s["mark"], s["size"])
        return self._shared[slot]

    def schema(self, slot: str) -> Mapping[str, Any]:
        schema: Mapping[str, Any] | None = self._slot(slot)["schema"]
        if schema is None:
            raise TypeError(f"slot {slot!r} holds no records")
        return schema

    def save(self, name: str, data: bytes | bytearray) -> None:
        self._wire.ask("output", data, name=name)

    def checkpoint(self, data: bytes | bytearray) -> None:
        self._wire.ask("checkpoint", data)

    def resume(self) -> memoryview | None:
        if self._resume is None:
            return None
        return _mapped(self._resume["data"], self._resume["size"])

    def metric(self, name: str, value: float) -> None:
        if name not in self._metrics:
            raise KeyError(f"metric {name!r} was not agreed")
        self._wire.send(
            "metric", name=name, value=int(value) if self._metrics[name] == "int" else float(value)
        )

    def progress(self, done: int, total: int) -> None:
        self._wire.send("progress", done=done, total=total)

    def multiplier(self) -> StepMultiplier:
        from svetovid.training._masked import HostMultiplier

        if self._multiplier is None:
            if self._masked is None:
                raise RuntimeError("this job has no workers: its mode is not masked")
            memory = mmap.mmap(self._masked["memory"], self._masked["size"])
            self._multiplier = HostMultiplier(self._wire.ask, memoryview(memory))
        return self._multiplier

    @property
    def steps(self) -> int:
        return 0 if self._multiplier is None else self._multiplier.steps

    @steps.setter
    def steps(self, value: int) -> None:
        if value:
            self.multiplier().steps = value


_current: Session | None = None


def install(session: Session | None) -> None:
    """Make ``session`` the one that the public functions use."""
    global _current
    _current = session


def current() -> Session:
    """The session of this process.

    Raises:
        RuntimeError: outside a sandbox, where ``svetovid.training.local`` was not called.
    """
    if _current is None:
        raise RuntimeError(
            "not in a sandbox: call svetovid.training.local(...) first to try a script at home"
        )
    return _current
