"""What comes out of a sandbox, message by message, held against what the job agreed on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from svetovid.errors import (
    IntegrityError,
    LimitError,
    ParseError,
    RefusalError,
    SvetovidError,
    TransportError,
)
from svetovid.host.channel import Answer, Message, protocol_error
from svetovid.host.masking import Masking
from svetovid.host.outputs import MAX_HEADER_BYTES, Metrics, rebuild, size_of
from svetovid.policy.documents import JobLimits
from svetovid.policy.outputs import MetricSpec, OutputSpec

__all__ = ["Inbox"]

_MAX_PROGRESS = 1_000_000
_MAX_CHECKPOINTS = 100_000


class Inbox:
    """What a sandbox has said so far.

    Args:
        outputs, metrics, limits: as the job agreed on them.
        on_event: hears of progress, ``{"done": n, "total": n}``.
        on_checkpoint: keeps a checkpoint.
        masking: of a job in masked mode.

    Attributes:
        outputs: name to canonical safetensors bytes, written anew.
        nan: output name to how many NaN are in it.
        metrics: what was said of each.
        ready, done: whether the script's first line was reached, and its last.
        ours: what failed on our side: a checkpoint could not be kept, or a worker failed and none
            is left.
    """

    def __init__(
        self,
        outputs: Mapping[str, OutputSpec],
        metrics: Mapping[str, MetricSpec],
        limits: JobLimits,
        on_event: Callable[[Mapping[str, Any]], None],
        on_checkpoint: Callable[[bytes], None],
        masking: Masking | None = None,
    ) -> None:
        self._agreed = outputs
        self._limits = limits
        self._on_event = on_event
        self._on_checkpoint = on_checkpoint
        self._masking = masking
        self._counts = {"progress": 0, "checkpoint": 0}
        self.metrics = Metrics(metrics)
        self.outputs: dict[str, bytes] = {}
        self.nan: dict[str, int] = {}
        self.ready = self.done = False
        self.ours: SvetovidError | None = None

    def room(self, kind: str, name: str) -> int:
        """Bytes that a payload may have, before any of it is read.

        Raises:
            RefusalError: ``output.unknown``, ``output.repeated``.
        """
        if kind == "checkpoint":
            return self._limits.checkpoint_bytes
        spec = self._agreed.get(name)
        if spec is None or name in self.outputs:
            raise RefusalError(
                "output.unknown" if spec is None else "output.repeated",
                expected=f"each of {', '.join(sorted(self._agreed))} once",
                observed="a name that was not agreed" if spec is None else f"{name} again",
                next_step="save what the job's outputs name, each once",
            )
        left = self._limits.output_bytes - sum(map(len, self.outputs.values()))
        return min(left, size_of(spec) + MAX_HEADER_BYTES + 8)

    def take(self, message: Message) -> Answer | None:
        """Handle one message; the answer, where the sandbox waits for one.

        Raises:
            ParseError: ``sandbox.protocol``, ``output.malformed``.
            RefusalError: ``sandbox.script``, ``output.*``.
            LimitError: ``sandbox.flood``, ``output.limit``.
            PolicyError: ``metric.*``.
            SvetovidError: as of :meth:`Masking.take`.
        """
        if (message.type == "ready") == self.ready or self.done:
            raise ParseError(
                "sandbox.protocol",
                expected="ready first and once, done last",
                observed=message.type,
                next_step="let the job's code speak through svetovid.training only",
            )
        self._count(message.type)
        match message.type:
            case "ready":
                self.ready = True
            case "progress":
                self._on_event({"done": message.done, "total": message.total})
            case "metric":
                self.metrics.add(message.name, message.value)
            case "output":
                data, nan = rebuild(message.payload, self._agreed[message.name])
                self.outputs[message.name], self.nan[message.name] = data, nan
                self._in_budget()
            case "checkpoint":
                try:
                    self._on_checkpoint(message.payload)
                except SvetovidError as e:
                    self.ours = e
                    raise
            case "begin" | "operand" | "multiply" | "end":
                return self._masked(message)
            case "done":
                self.done = True
            case "failed":
                raise RefusalError(
                    "sandbox.script",
                    expected="the job's code to end well",
                    observed=message.kind,
                    next_step="run it on data of your own: svetovid.training.local",
                )
        return "taken" if message.type in ("output", "checkpoint") else None

    def _masked(self, message: Message) -> Answer:
        if self._masking is None:
            raise protocol_error("no steps in a job that is not in masked mode")
        try:
            return self._masking.take(message)
        except (IntegrityError, TransportError) as e:
            self.ours = e
            raise

    def _in_budget(self) -> None:
        """What leaves is what was written anew, and that is what managers count."""
        total, limit = sum(map(len, self.outputs.values())), self._limits.output_bytes
        if total > limit:
            raise LimitError(
                "output.limit",
                expected=f"at most {limit} bytes of outputs, headers included",
                observed=f"{total} bytes",
                next_step="agree on a job with a larger limits.output_bytes",
            )

    def _count(self, kind: str) -> None:
        if kind not in self._counts:
            return
        self._counts[kind] += 1
        limit = _MAX_PROGRESS if kind == "progress" else _MAX_CHECKPOINTS
        if self._counts[kind] > limit:
            raise LimitError(
                "sandbox.flood",
                expected=f"at most {limit} messages of {kind}",
                observed="one more",
                next_step=f"report {kind} less often",
            )

    def finish(self) -> None:
        """Refuse an end without every agreed output: RefusalError ``output.missing``."""
        missing = sorted(self._agreed.keys() - self.outputs.keys())
        if missing:
            raise RefusalError(
                "output.missing",
                expected="every agreed output",
                observed=f"no {', '.join(missing)}",
                next_step="save it with svetovid.training.save",
            )
