"""The list of cases, and how each is written: only what differs from its world."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance.making.keys import NOW
from conformance.making.story import NONCE

Files = dict[str, bytes]
SHARED = ("references.json", "authorities.pem")
_ASKED = NONCE.hex()


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        make: the whole files of the case, from those of its world.
        recorded: a TPM signs in ``make``, so that its bytes are others in every run: they are
            kept unless they are to be recorded anew.
    """

    name: str
    what: str
    make: Callable[[Files], Mapping[str, bytes]]
    attacks: Sequence[str] = ()
    world: str = "tpm"
    origin: str = "libtpms"
    recorded: bool = False
    verdict: str = "refused"
    reasons: Sequence[str] = ()
    measurement: str = "launcher"
    simulated: bool = True
    claims: Mapping[str, bool | None] = field(default_factory=dict)
    now: int = NOW
    nonce: str | None = _ASKED
    ak: str | None = None
    references: Sequence[str] = SHARED[:1]
    authorities: str | None = SHARED[1]
    after: str | None = None
    offset: int | None = None

    def document(self, without: Sequence[str]) -> dict[str, Any]:
        """``case.json``."""
        given = {
            "now": self.now,
            "nonce": self.nonce,
            "ak": self.ak,
            "references": list(self.references),
            "authorities": self.authorities,
            "after": self.after,
            "offset": self.offset,
        }
        expected: dict[str, Any] = {"verdict": self.verdict, "reasons": list(self.reasons)}
        if self.verdict == "affirmed":
            expected |= {"measurement": self.measurement, "simulated": self.simulated}
        if self.claims:
            expected["claims"] = dict(self.claims)
        return {
            "attacks": list(self.attacks),
            "what": self.what,
            "origin": self.origin,
            **({"world": self.world} if self.world else {}),
            **({"without": list(without)} if without else {}),
            "given": {k: v for k, v in given.items() if v is not None},
            "expected": expected,
        }


def read(folder: Path) -> Files:
    """The files of a world, or of a case, without its ``case.json``."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "case.json"}


def write(case: Case, folder: Path, world: Files, kept: Path | None) -> None:
    """Write a case into ``folder``; from ``kept`` where it was recorded and is to stay."""
    if kept is not None:
        document = json.loads((kept / "case.json").read_text())
        own, without = read(kept), document.get("without", ())
    else:
        files = dict(case.make(world))
        own = {n: d for n, d in files.items() if world.get(n) != d}
        without = sorted(set(world) - set(files))
    folder.mkdir(parents=True)
    for name, data in own.items():
        (folder / name).write_bytes(data)
    text = json.dumps(case.document(without), indent=2, ensure_ascii=True)
    (folder / "case.json").write_text(text + "\n")


# Expectations that many cases share.
UNPROVEN = "recorded.unproven"
CUT: dict[str, Any] = {"verdict": "unreadable"}
LIE: dict[str, Any] = {"world": "forged", "origin": "forged", "simulated": False}
GOOD: dict[str, Any] = {"verdict": "affirmed", "measurement": "kernel"}
SIGNED: dict[str, Any] = {"recorded": True}


def refused(code: str) -> dict[str, Any]:
    """The quote does not hold, so nothing that rests on it is looked at."""
    return {"reasons": (code, UNPROVEN)}
