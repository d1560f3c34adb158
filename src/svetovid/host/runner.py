"""Runs one job's code in a sandbox, from decrypted assets to validated outputs.

Whatever happens, the sandbox is dead and the decrypted memory freed before this returns. ``stop``
(the end of a lease, T12) and the wall clock kill it from a thread of their own, so that neither a
slow callback nor a silent sandbox delays them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svetovid.assets import AssetReader
from svetovid.crypto import canonical
from svetovid.errors import LimitError, RefusalError, SvetovidError
from svetovid.host.channel import Channel
from svetovid.host.feed import Feed
from svetovid.host.inbox import Inbox
from svetovid.host.masking import Masking, Room
from svetovid.host.runtime import BOOTSTRAP, interpreter
from svetovid.host.sandbox import Confinement, Sandbox
from svetovid.host.sandbox.memory import frozen
from svetovid.policy.documents import JobLimits
from svetovid.policy.outputs import MetricSpec, OutputSpec

__all__ = ["SandboxJob", "SandboxResult", "run_sandboxed"]

_TICK_S = 0.05
_DONE_S = 10.0
"""How long an interpreter may take to end after it said that it is done."""


@dataclass(frozen=True, slots=True)
class SandboxJob:
    """What to run. Attributes are those of :class:`svetovid.policy.documents.Job`, opened.

    Attributes:
        runtime: tree from :func:`svetovid.host.runtime.build_runtime`.
        code: path to content; verified against the job before.
        entry: which of them to run.
        datasets, models: slot name to opened asset.
        resume: a checkpoint's bytes, or None to start afresh.
        threads: for numerical libraries; by default one for each processor this host may use.
        max_asset_bytes: bound of all decrypted assets together; by default four fifths of the free
            memory.
    """

    runtime: Path
    code: Mapping[str, bytes]
    entry: str
    outputs: Mapping[str, OutputSpec]
    arguments: tuple[str, ...] = ()
    parameters: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    seed: int = 0
    datasets: Mapping[str, AssetReader] = field(default_factory=dict)
    models: Mapping[str, AssetReader] = field(default_factory=dict)
    metrics: Mapping[str, MetricSpec] = field(default_factory=dict)
    limits: JobLimits = field(default_factory=JobLimits)
    devices: tuple[str, ...] = ()
    resume: bytes | None = None
    threads: int = 0
    max_asset_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """What came out, validated.

    Attributes:
        outputs: output name to canonical safetensors bytes.
        metrics: metric name to its values, in order.
        nan: output name to how many NaN are in it.
        timings: seconds: ``start_s`` until the first line of the job's code, ``decrypt_s`` for all
            assets, ``sandbox_s`` in all.
        bounds: what the kernel bounded for the job as a whole (``memory``, ``pids``).
        locked: whether decrypted memory was locked against swapping.
    """

    outputs: dict[str, bytes]
    metrics: dict[str, list[float]]
    nan: dict[str, int]
    timings: dict[str, float]
    bounds: tuple[str, ...]
    locked: bool


def _stopped() -> RefusalError:
    return RefusalError(
        "sandbox.stopped",
        expected="a lease that lasts as long as the job",
        observed="the job was told to stop",
        next_step="look at why the lease ended",
    )


class _Watch:
    """Kills the sandbox when the job must end; says why."""

    def __init__(
        self,
        sandbox: Sandbox,
        channel: Channel,
        feed: Feed,
        stop: threading.Event,
        deadline: float,
        masking: Masking | None,
    ) -> None:
        self._sandbox = sandbox
        self._channel = channel
        self._feed = feed
        self._stop = stop
        self._deadline = deadline
        self._masking = masking
        self._over = threading.Event()
        self.reason: SvetovidError | None = None
        self._thread = threading.Thread(target=self._keep, name="watch", daemon=True)

    def _why(self) -> SvetovidError | None:
        if self._stop.is_set():
            return _stopped()
        if time.monotonic() >= self._deadline:
            return LimitError(
                "sandbox.wall",
                expected="the job to end within its time",
                observed="it still runs",
                next_step="agree on a job with a larger limits.wall_s",
            )
        return self._feed.failed

    def _keep(self) -> None:
        while not self._over.is_set():
            reason = self._why()
            if reason is not None:
                self.reason = reason
                self._channel.end()
                if self._masking is not None:
                    self._masking.end()
                try:
                    self._sandbox.kill()
                except SvetovidError as e:
                    self.reason = e
                return
            self._stop.wait(_TICK_S)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def _config(
    job: SandboxJob, feed: Feed, channel: int, resume: int | None, room: Room | None
) -> bytes:
    slots: dict[str, object] = {}
    for slot, region in feed.regions.items():
        reader = job.datasets.get(slot) or job.models[slot]
        schema = reader.manifest.record_schema
        slots[slot] = {
            "data": region.data,
            "mark": region.mark,
            "size": region.size,
            "schema": None if schema is None else schema.to_json(),
        }
    return canonical(
        {
            "channel": channel,
            "entry": job.entry,
            "arguments": list(job.arguments),
            "parameters": dict(job.parameters),
            "seed": job.seed,
            "slots": slots,
            "metrics": {name: spec.type for name, spec in job.metrics.items()},
            "outputs": sorted(job.outputs),
            "masked": None if room is None else {"memory": room.fd, "size": room.size},
            "resume": None if resume is None else {"data": resume, "size": len(job.resume or b"")},
        }
    )


@contextlib.contextmanager
def _memory(name: str, data: bytes | None) -> Iterator[int | None]:
    if data is None:
        yield None
        return
    fd = frozen(name, data)
    try:
        yield fd
    finally:
        os.close(fd)


def _confinement(job: SandboxJob) -> Confinement:
    return Confinement(
        memory_mib=job.limits.memory_mib,
        processes=job.limits.processes,
        threads=job.threads or len(os.sched_getaffinity(0)),
        devices=job.devices,
    )


def run_sandboxed(
    job: SandboxJob,
    *,
    on_event: Callable[[Mapping[str, Any]], None] = lambda _: None,
    on_checkpoint: Callable[[bytes], None] = lambda _: None,
    stop: threading.Event | None = None,
    masking: Masking | None = None,
) -> SandboxResult:
    """Run a job's code to its end.

    Args:
        job: what to run.
        on_event: hears of progress, ``{"done": n, "total": n}``; for recipients' eyes (T9).
        on_checkpoint: keeps a checkpoint; the script goes on once it returns.
        stop: ends the job within a second of being set.
        masking: what answers the steps of a job in masked mode; its memory is the caller's.

    Raises:
        HostError: ``sandbox.*`` where this machine cannot confine; ``feed.*``.
        RefusalError: ``sandbox.stopped``, ``sandbox.script``, ``sandbox.died``, ``output.*``.
        LimitError: ``sandbox.wall``, ``sandbox.flood``, ``*.limit``.
        ParseError: ``sandbox.protocol``, ``output.malformed``.
        PolicyError: ``metric.*``.
        IntegrityError: ``asset.*`` where an asset proves altered while it is decrypted.
        SvetovidError: as of :meth:`Masking.take`.
    """
    stop = stop or threading.Event()
    if stop.is_set():  # not one byte is decrypted for a lease that is lost already
        raise _stopped()
    begun = time.monotonic()
    inbox = Inbox(job.outputs, job.metrics, job.limits, on_event, on_checkpoint, masking)
    room = None if masking is None else masking.room
    with contextlib.ExitStack() as stack:
        feed = stack.enter_context(
            Feed({**job.datasets, **job.models}, max_bytes=job.max_asset_bytes)
        )
        ours, theirs = socket.socketpair()
        channel = Channel(ours, inbox.room)
        stack.callback(channel.close)
        with theirs, _memory("resume", job.resume) as resume:
            config = stack.enter_context(
                _memory("config", _config(job, feed, theirs.fileno(), resume, room))
            )
            assert config is not None
            keep = [theirs.fileno(), config, *([] if resume is None else [resume])]
            keep += [] if room is None else [room.fd]
            for region in feed.regions.values():
                keep += [region.data, region.mark]
            sandbox = Sandbox(
                job.runtime,
                job.code,
                [str(interpreter()), "-I", "-S", "-B", str(BOOTSTRAP), str(config)],
                keep,
                _confinement(job),
            )
        stack.enter_context(sandbox)
        end = begun + job.limits.wall_s
        watch = _Watch(sandbox, channel, feed, stop, end, masking)
        stack.enter_context(watch)
        try:
            start_s = _listen(channel, sandbox, inbox) - begun
        except SvetovidError as e:
            if watch.reason is not None:
                raise watch.reason from None
            raise _without_words(e) if inbox.ready and e is not inbox.ours else e from None
        if watch.reason is not None:
            raise watch.reason
        return SandboxResult(
            outputs=inbox.outputs,
            metrics=inbox.metrics.values,
            nan=inbox.nan,
            timings={
                "start_s": start_s,
                "decrypt_s": feed.open_s,
                "sandbox_s": time.monotonic() - begun,
            },
            bounds=sandbox.bounds,
            locked=feed.locked,
        )


def _without_words(error: SvetovidError) -> SvetovidError:
    """The first reason's code, and constant words: which output, tensor or size it is about is the
    sandbox's choice, and would carry data to the operator (T9). So would the number of reasons. A
    failed script says one word of a fixed list."""
    reason = error.reason
    observed = reason.observed if reason.code == "sandbox.script" else ""
    return type(error)(
        reason.code,
        expected="code that keeps to what its job agreed on",
        observed=observed,
        next_step="run it on data of your own, with the job's limits: svetovid.training.local says "
        "more",
    )


def _listen(channel: Channel, sandbox: Sandbox, inbox: Inbox) -> float:
    """Hear the sandbox out; when its code began."""
    ready_at = 0.0
    while (message := channel.receive()) is not None:
        answer = inbox.take(message)
        if answer is not None:
            channel.answer(answer)
        if message.type == "ready":
            ready_at = time.monotonic()
            sandbox.hush()
        if message.type == "done":
            break
    if not inbox.ready:
        raise sandbox.why_not_started()
    if inbox.done:
        inbox.finish()
    else:
        status = sandbox.wait(_DONE_S)
        raise RefusalError(
            "sandbox.died",
            expected="the job's code to end well",
            observed="it closed its channel" if status is None else f"exit status {status}",
            next_step="agree on more memory or processes, or run the code on data of your own",
        )
    return ready_at
