"""Write the README's figures from the committed results of the benchmarks; type none by hand.

Usage: ``python scripts/figures.py [--check]``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- figures: made by scripts/figures.py -->", "<!-- end of figures -->"

ROWS = [
    ("train", "ratio", "training step, sealed + attested + sandboxed over plain", "<= 1.05", ""),
    ("train", "attest_s", "start-up: attestation", "", " s"),
    ("train", "release_s", "start-up: release", "", " s"),
    ("train", "open_s", "start-up: opening the assets", "", " s"),
    ("seal", "open_ratio", "opening verified chunks over bare AES-GCM", ">= 0.7", ""),
    ("seal", "first_open_ratio", "first opening, with the hash, over bare AES-GCM", ">= 0.25", ""),
    ("seal", "vs_age", "opening with the hash over `age -d`, start-up left out", ">= 2", ""),
    ("seal", "random_1k_p50_us", "random 1 KiB record, median", "<= 60", " us"),
    ("seal", "rss_mb_4gib", "resident memory for 4 GiB", "< 200", " MB"),
    ("release", "p50_ms", "challenge to keys, TPM's time left out, median", "<= 15", " ms"),
    ("release", "p99_ms", "the same, 99th percentile", "", " ms"),
    ("release", "errors", "errors with 64 hosts at once", "0", ""),
    ("fleet", "hosts", "simulated hosts that attest every 10 s to one manager", ">= 2000", ""),
    ("fleet", "p99_ms", "their pushes, 99th percentile", "<= 100", " ms"),
    ("fleet", "lost", "of these, lost over a `kill -9` of the manager", "0", ""),
]


def met(value: float, goal: str) -> str:
    if not goal:
        return ""
    sign, _, bound = goal.rpartition(" ")
    limit = float(bound)
    good = {"<=": value <= limit, ">=": value >= limit, "<": value < limit, "": value == limit}
    return "yes" if good[sign] else "**no**"


def shown(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def table() -> str:
    lines = ["| what | measured | must reach | reached |", "|---|---|---|---|"]
    machines = set()
    for name, key, what, goal, unit in ROWS:
        path = ROOT / "benchmarks" / "results" / f"{name}.json"
        if not path.exists():
            lines.append(f"| {what} | not measured | {goal} | **no** |")
            continue
        result: dict[str, Any] = json.loads(path.read_text())
        machines.add(f"{result['machine']['cpu']}, {result['machine']['cores']} cores")
        value = float(result[key])
        lines.append(f"| {what} | {shown(value)}{unit} | {goal} | {met(value, goal)} |")
    lines += ["", f"On {' and '.join(sorted(machines))}; ranges are in `benchmarks/results`."]
    return "\n".join(lines)


def main() -> int:
    page = ROOT / "README.md"
    text = page.read_text()
    start, stop = text.index(BEGIN) + len(BEGIN), text.index(END)
    new = f"{text[:start]}\n{table()}\n{text[stop:]}"
    if "--check" in sys.argv:
        return int(new != text)
    page.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
