"""Who plays in the demo, and the papers they write: policies and jobs in YAML."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svetovid.cli.demo.parties import Party, Stage

__all__ = ["OWNERS", "STAKEHOLDERS", "Cast", "job_yaml", "policy_yaml"]

OWNERS = ("alice", "bob", "carol", "rita", "dora")
STAKEHOLDERS = (*OWNERS, "olga", "vera")
_SERVICES = ("manager", "lab", "lab2", "tee")


@dataclass(frozen=True, slots=True)
class Cast:
    """Everybody, by name.

    alice and bob own data, carol code; rita receives the model and then owns it; dora asks it
    questions, and is strict elsewhere. olga operates the machines ``lab``, ``lab2`` and ``tee``,
    and the network. vera audits. ``manager`` holds keys and decides.
    """

    stage: Stage
    parties: Mapping[str, Party]

    @classmethod
    def gather(cls, stage: Stage) -> Cast:
        names = (*STAKEHOLDERS, *_SERVICES)
        return cls(stage, {n: Party(stage, n, i) for i, n in enumerate(names)})

    def __getitem__(self, name: str) -> Party:
        return self.parties[name]

    def write(self, name: str, text: str) -> Path:
        """Put a YAML text where its writer can read it."""
        path = self.stage.folder / "papers" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
        return path

    def copy_of(self, asset: str) -> Path:
        """A copy of a sealed container outside the storage, for its operator to play with."""
        folder = self.stage.folder / "copies"
        folder.mkdir(exist_ok=True)
        return Path(shutil.copy(self.stage.storage / f"{asset}.sealed", folder))


def policy_yaml(
    name: str,
    *,
    use: str,
    modes: Sequence[str],
    recipients: Sequence[str],
    code: Sequence[str] = (),
    runs: int = 8,
    production: bool = False,
    host: str = "lab",
) -> str:
    """A policy over the asset that is being shared."""
    lines = {
        "version": "svetovid.policy/v1",
        "name": name,
        "profile": "production" if production else "test",
        "accepts": [] if production else ["simulated", "launcher"],
        "anchors": {"document": f"${host}-anchors"},
        "references": [{"document": "$lab-runtime"}],
        "operators": ["$olga"],
        "grants": [
            {
                "asset": "$asset",
                "use": use,
                "code": [f"${c}" for c in code],
                "modes": list(modes),
                "recipients": [f"${r}" for r in recipients],
                # Each run takes the job's 8 MB, its metrics and its progress, whatever comes of it.
                "limits": {"runs": runs, "output_bytes": runs * 10_000_000},
            }
        ],
    }
    return json.dumps(lines, indent=1)  # JSON is YAML


def job_yaml(
    name: str,
    *,
    mode: str,
    assets: Mapping[str, tuple[str, str, str]],
    entry: str,
    environment: str,
    outputs: Mapping[str, Mapping[str, tuple[str, Sequence[int]]]],
    recipients: Sequence[str],
    metrics: Mapping[str, tuple[str, int]] | None = None,
    parameters: Mapping[str, Any] | None = None,
    seed: int = 7,
    wall_s: int = 300,
) -> str:
    """A job. ``assets`` maps a slot to (asset name, owner, use)."""
    document = {
        "version": "svetovid.job/v1",
        "name": name,
        "mode": mode,
        "assets": {
            slot: {"manifest": f"${asset}", "owner": f"${owner}", "manager": "$manager", "use": use}
            for slot, (asset, owner, use) in assets.items()
        },
        "entry": entry,
        "parameters": dict(parameters or {}),
        "seed": seed,
        "environment": f"${environment}",
        "outputs": {
            output: {
                "tensors": {t: {"dtype": d, "shape": list(s)} for t, (d, s) in tensors.items()}
            }
            for output, tensors in outputs.items()
        },
        "metrics": {
            m: {"type": kind, "max_count": count} for m, (kind, count) in (metrics or {}).items()
        },
        "recipients": [f"${r}" for r in recipients],
        "limits": {"wall_s": wall_s, "memory_mib": 4096, "output_bytes": 8_000_000},
    }
    return json.dumps(document, indent=1)
