"""F9, M2, M18, M19: a second recording of a host, behind one that was appraised.

The first is the world ``forged``: reset count 3, restart count 1, clock 1000, five entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from conformance.making.forged import Forged
from conformance.making.story import FILES, Story, file_line
from conformance.making.suite import GOOD, LIE, UNPROVEN, Case, Files
from conformance.making.worlds import kept, lied

FIRST = "worlds/forged"
_KNOWN = len(Story().measured())
_LIB0 = next(iter(FILES))
_MORE = file_line(_LIB0, FILES[_LIB0])
_EVIL = file_line("/tmp/evil", b"evil")
_LINES = tuple(Story().lines)


def _grown(*lines: bytes, skip: int = _KNOWN, late: Sequence[bytes] = (), **form: Any) -> Any:
    """The log grew by ``lines``; what is sent begins behind ``skip`` entries."""
    story = Story(lines=[*_LINES, *lines], late=late)
    sent = b"".join([*story.measured()[skip:], *late])

    def make(world: Files) -> Files:
        told = {"clock": 2000, **form}
        return kept(world, Forged().recorded(story, **told), **{"ima.bin": sent})

    return make


def _later(
    name: str, what: str, make: Any, *attacks: str, offset: int = _KNOWN, **more: Any
) -> Case:
    given = {"after": FIRST, "offset": offset, **LIE, **more}
    return Case(name, what, make, attacks, **given)


def _clock(name: str, what: str, **form: Any) -> Case:
    return _later(
        *(f"f9-{name}", what, lied(**form), "F9"),
        offset=0,
        reasons=("tpm.clock_rollback", UNPROVEN),
    )


_AHEAD = "cases/m19-ahead"
CASES = (
    _later(
        *("m18-increment", "The log grew by one listed file; only that line is sent."),
        *(_grown(_MORE), "M18"),
        **GOOD,
    ),
    _later(
        *("m18-nothing-new", "The log did not grow."),
        *(_grown(), "M18"),
        **GOOD,
    ),
    _later(
        *("m18-whole-log-again", "The reader asks for the whole log again."),
        *(_grown(_MORE, skip=0), "M18"),
        offset=0,
        **GOOD,
    ),
    _later(
        *("m18-unlisted-line", "The log grew by a file that the reader does not list."),
        *(_grown(_EVIL), "M18", "M17"),
        reasons=("ima.unlisted",),
    ),
    *(
        _later(
            f"m18-{name}",
            f"{what}, though {_KNOWN} are proven.",
            _grown(_MORE, skip=min(skip, _KNOWN + 1)),
            "M18",
            offset=skip,
            reasons=("ima.offset", UNPROVEN),
        )
        for name, what, skip in (
            ("overlap", "What is sent begins behind 4 entries", _KNOWN - 1),
            ("gap", "What is sent begins behind 6 entries", _KNOWN + 1),
            ("beyond", "What is sent begins behind 1,000,000 entries", 1_000_000),
        )
    ),
    _later(
        *("m18-overlap-unsaid", "What is sent begins with a line that is proven already."),
        *(_grown(_MORE, skip=_KNOWN - 1), "M18", "M3"),
        reasons=("ima.replay", UNPROVEN),
    ),
    _later(
        *("m18-gap-unsaid", "What is sent lacks the first line that is new."),
        *(_grown(_MORE, _MORE, skip=_KNOWN + 1), "M18", "M3"),
        reasons=("ima.replay", UNPROVEN),
    ),
    _later(
        *("m18-reset-between", "The machine was reset in between, and goes on with the old log."),
        *(_grown(_MORE, resets=4), "M18"),
        reasons=("ima.offset", UNPROVEN),
    ),
    Case(
        "m18-nothing-held",
        "What is sent begins behind five entries, and the reader holds none.",
        _grown(_MORE),
        ("M18",),
        **LIE,
        offset=_KNOWN,
        reasons=("ima.offset", UNPROVEN),
    ),
    _later(
        *("f9-reset", "The machine was reset in between, and sends its whole new log."),
        *(lied(resets=4, restarts=0, clock=10), "F9"),
        offset=0,
        **GOOD,
    ),
    _clock("reset-count", "The reset count went back.", resets=2, clock=9000),
    _clock("restart-count", "The restart count went back.", restarts=0, clock=9000),
    _clock("clock", "The clock went back with the same counts.", clock=999),
    _later(
        *("m2-older-quote", "An older quote with the log that it is of: one line shorter."),
        lambda world: kept(world, Forged().recorded(Story(lines=_LINES[:-1]), clock=500)),
        *("M2", "F9"),
        offset=0,
        reasons=("tpm.clock_rollback", UNPROVEN),
    ),
    _later(
        *("m1-shorter-log", "A newer quote of a log that is one line shorter, in the same boot."),
        lambda world: {
            **kept(world, Forged().recorded(Story(lines=_LINES[:-1]), clock=2000)),
            "ima.bin": b"",
        },
        *("M1", "M18"),
        reasons=("ima.replay", UNPROVEN),
    ),
    Case(
        "m19-ahead",
        "The log is one listed line ahead of the quote.",
        lied(Story(late=[_MORE])),
        ("M19",),
        **LIE,
        **GOOD,
    ),
    Case(
        "m19-caught-up",
        "The line that was ahead is proven by the next quote.",
        _grown(_MORE),
        ("M19",),
        **LIE,
        **GOOD,
        after=_AHEAD,
        offset=_KNOWN,
    ),
    Case(
        "m19-no-progress",
        "The line that was ahead is ahead again.",
        _grown(late=[_MORE]),
        ("M19",),
        **LIE,
        after=_AHEAD,
        offset=_KNOWN,
        reasons=("ima.no_progress", UNPROVEN),
    ),
)
