"""Refuses tracked files that name a machine's own paths, a package registry or a private key.

``make lint`` runs it, and ``tests/test_project.py`` does. Prints ``FILE:LINE: what`` and exits 1.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Written in pieces, so that this file passes its own check.
BANNED = {
    "a path of one machine": r"(?<![\w.])/(?:ho" r"me/\w|ro" r"ot/\w)",
    "a package registry": r"(?:py" r"pi\.org|python" r"hosted\.org|download\.py" r"torch\.org)",
    "a package index": r"--(?:extra-)?in" r"dex-url|--find-" r"links",
    "a private key": r"-----BEGIN [A-Z ]*PRIV" r"ATE KEY-----",
}
_PATTERN = re.compile("|".join(f"({p})" for p in BANNED.values()))
_TEXT_LIMIT = 2 << 20


def tracked() -> list[Path]:
    """Every file git knows, as absolute paths."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True
    ).stdout.decode()
    return [ROOT / n for n in names.split("\0") if n and (ROOT / n).is_file()]


def findings(paths: list[Path]) -> Iterator[str]:
    """One line for each place where a banned word stands; binary files are skipped."""
    kinds = list(BANNED)
    for path in paths:
        data = path.read_bytes()[:_TEXT_LIMIT]
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            for match in _PATTERN.finditer(line):
                kind = kinds[(match.lastindex or 1) - 1]
                yield f"{path.relative_to(ROOT)}:{number}: {kind}: {match.group()}"


def main() -> int:
    found = list(findings(tracked()))
    print("\n".join(found) or "names: nothing that belongs to one machine only")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
