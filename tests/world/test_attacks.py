"""The table of attacks names tests that are there, and every attack once."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("attacks.md")
FAMILIES = {
    "F": 11,
    "I": 10,
    "T": 9,
    "P": 9,
    "M": 21,
    "C": 10,
    "V": 15,
    "K": 11,
    "A": 7,
    "D": 5,
    "L": 7,
}


def rows() -> dict[str, str]:
    return dict(re.findall(r"^\| ([A-Z]\d+) \| (.*) \|$", TABLE.read_text(), re.MULTILINE))


def test_every_attack_has_its_line() -> None:
    wanted = [f"{family}{n + 1}" for family, count in FAMILIES.items() for n in range(count)]
    assert list(rows()) == wanted


def test_every_named_test_is_there() -> None:
    missing = []
    for attack, shown in rows().items():
        if re.fullmatch(r"later: [a-z]+", shown):
            continue
        named = re.fullmatch(r"`(tests/[^`:]+)::(test_\w+)`", shown)
        assert named, f"{attack}: {shown}"
        path = ROOT / named[1]
        if not path.is_file() or f"def {named[2]}(" not in path.read_text():
            missing.append(f"{attack}: {shown}")
    assert missing == []
