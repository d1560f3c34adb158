"""What a job in masked mode has more than others: its workers."""

from __future__ import annotations

from typing import Any

from svetovid.crypto import digest
from svetovid.policy import Offload, OffloadWorker


def worker(number: int, operator: str, **change: Any) -> OffloadWorker:
    fields = {
        "certificate": digest(f"worker {number}".encode()),
        "operator": operator,
        "url": f"tls://worker-{number}.example:7401",
    }
    return OffloadWorker.from_json(fields | change)


def offload(*operators: str, **change: Any) -> Offload:
    """Workers of these operators, in order; of three different ones where none are named."""
    named = operators or ("Ada Ltd", "Bell Labs", "Cray & Sons")
    fields: dict[str, Any] = {
        "protocol": "coded",
        "workers": [worker(i, o).to_json() for i, o in enumerate(named)],
        "products": 70_000,
        "numbers": 9_000_000,
    }
    return Offload.from_json(fields | change)


def in_mode(mode: str) -> dict[str, Any]:
    """The fields of a job that make it one of this mode."""
    return {"mode": mode} | ({"offload": offload()} if mode == "masked" else {})
