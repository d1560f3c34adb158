"""What the demo found out, and whether all of it is as it must be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from svetovid.errors import HostError

__all__ = ["Findings"]


@dataclass(slots=True)
class Findings:
    """Becomes the demo's JSON."""

    accuracy: dict[str, dict[str, float]] = field(default_factory=dict)
    identical_weights: dict[str, bool] = field(default_factory=dict)
    enclave_answers_agree: bool = False
    timings: dict[str, dict[str, float]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, Any] = field(default_factory=dict)
    canary: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse to call the main job ok where anything in it was not.

        Raises:
            HostError: ``demo.failed``.
        """
        wrong = {
            "weights differ from plain training": not all(self.identical_weights.values()),
            "the enclave's answers differ": not self.enclave_answers_agree,
            f"a secret could be read: {self.canary['hits'][:3]}": bool(self.canary["hits"]),
            f"not its owner's alone: {self.canary['open'][:3]}": bool(self.canary["open"]),
            "the canary search is blind": not self.canary["planted_found"],
            "a receipt does not name the simulator": not all(
                any("simulat" in w.lower() for w in words) for words in self.verdicts.values()
            ),
        }
        if any(wrong.values()):
            raise HostError(
                "demo.failed",
                expected="every part of the demo to hold",
                observed="; ".join(k for k, v in wrong.items() if v),
                next_step="this is a defect: report it",
            )
