"""Rounds on a quiet machine, and how sure a median of them is.

A round counts where others used little of the processor just before and just after it, and where
the hypervisor took little of it meanwhile (``steal``, proc(5)). A round that was disturbed is
measured again, whatever came of it: its figure is not looked at. What was repeated is counted, and
a machine that stays loaded is refused.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from svetovid.errors import HostError

__all__ = ["Quiet", "busy_share", "interval", "refuse_if_loaded", "width"]

T = TypeVar("T")

BUSY = 0.15
"""Greatest share of the cores' time that others may use before and after a round."""
STOLEN = 0.05
"""Greatest share that the hypervisor may take during one."""
SAMPLE_S = 0.25
NARROW = 0.10
"""Greatest :func:`width` of a median's 95 % interval: it is known within about 5 %."""

STAT = Path("/proc/stat")


class _Ticks(NamedTuple):
    """Clock ticks of all cores since boot."""

    total: int
    idle: int
    stolen: int


def _ticks(stat: Path) -> _Ticks:
    fields = [int(x) for x in stat.read_text().split("\n", 1)[0].split()[1:9]]
    return _Ticks(sum(fields), fields[3] + fields[4], fields[7])


def _share(part: int, whole: int) -> float:
    return part / whole if whole > 0 else 0.0


def busy_share(seconds: float = SAMPLE_S, stat: Path = STAT) -> float:
    """Share of all cores' time, 0 to 1, that others used while this process slept."""
    before = _ticks(stat)
    time.sleep(seconds)
    after = _ticks(stat)
    passed = after.total - before.total
    return _share(passed - (after.idle - before.idle), passed)


def refuse_if_loaded(
    threshold: float = BUSY, *, wait: float = 60.0, busy: Callable[[], float] = busy_share
) -> float:
    """Wait up to ``wait`` seconds for a quiet machine; refuse one that stays loaded.

    Args:
        threshold: the greatest share of the cores' time that others may use, 0 to 1.
        wait: seconds to wait for quiet.
        busy: measures that share.

    Returns:
        the share that others used.

    Raises:
        HostError: ``bench.loaded``.
    """
    end = time.monotonic() + wait
    while (share := busy()) > threshold:
        if time.monotonic() >= end:
            raise _loaded(threshold, f"{share:.0%}")
    return share


def _loaded(threshold: float, observed: str) -> HostError:
    load = Path("/proc/loadavg").read_text().split()[0]
    return HostError(
        "bench.loaded",
        expected=f"others to use at most {threshold:.0%} of the cores",
        observed=f"{observed}, load average {load}",
        next_step="stop what else runs on this machine, then run the benchmark again",
    )


class Quiet:
    """Takes rounds on a quiet machine, and tells how quiet it was.

    Args:
        quick: take them as the machine is; such figures mean nothing.
        tries: how often one round is measured before the machine is refused.
        busy: share of the cores' time that others use now.
        stat: ``/proc/stat``.
    """

    def __init__(
        self,
        quick: bool = False,
        *,
        tries: int = 4,
        busy: Callable[[], float] = busy_share,
        stat: Path = STAT,
    ) -> None:
        self._quick = quick
        self._tries = tries
        self._busy = busy
        self._stat = stat
        self._calm = False
        self._rounds = self._repeated = 0
        self._busiest = self._most_stolen = 0.0

    def round(self, once: Callable[[], T]) -> T:
        """What ``once`` gives, of a call that nothing disturbed.

        Raises:
            HostError: ``bench.loaded``.
        """
        if self._quick:
            self._rounds += 1
            return once()
        for _ in range(self._tries):
            if not self._calm:
                refuse_if_loaded(busy=self._busy)
            before = _ticks(self._stat)
            found = once()
            after = _ticks(self._stat)
            stolen = _share(after.stolen - before.stolen, after.total - before.total)
            share = self._busy()
            if share > BUSY:  # what a round leaves behind takes a moment to end
                share = self._busy()
            self._calm = share <= BUSY
            if self._calm and stolen <= STOLEN:
                self._rounds += 1
                self._busiest = max(self._busiest, share)
                self._most_stolen = max(self._most_stolen, stolen)
                return found
            self._repeated += 1
        raise _loaded(
            BUSY, f"a round disturbed {self._tries} times, {stolen:.0%} stolen in the last"
        )

    def require_narrow(self, figure: str, values: Sequence[float]) -> None:
        """Refuse a median that its rounds leave too unsure.

        Raises:
            HostError: ``bench.spread``.
        """
        if not self._quick and (found := width(values)) > NARROW:
            low, high = interval(values)
            raise HostError(
                "bench.spread",
                expected=f"{figure}: a median known within {NARROW / 2:.0%}",
                observed=f"{low:.4g} to {high:.4g} after {len(values)} rounds, {found / 2:.0%}",
                next_step="run it again on a machine that does nothing else",
            )

    def until_narrow(
        self,
        what: str,
        rounds: int,
        turn: Callable[[int], T],
        ratios: Callable[[list[T]], Mapping[str, list[float]]],
        *,
        most: int,
    ) -> list[T]:
        """Rounds until every ratio's median is known, each told on standard error.

        Args:
            what: is measured, for people.
            rounds: the fewest.
            turn: one round, given its number.
            ratios: of all rounds, round by round, by name.
            most: rounds.

        Raises:
            HostError: ``bench.loaded``, ``bench.spread``.
        """
        found: list[T] = []
        while len(found) < rounds or (
            not self._quick
            and len(found) < most
            and any(width(values) > NARROW for values in ratios(found).values())
        ):
            found.append(self.round(partial(turn, len(found))))
            last = {name: f"{values[-1]:.3g}" for name, values in ratios(found).items()}
            sys.stderr.write(f"{what}, round {len(found)}: {last}\n")
        for name, values in ratios(found).items():
            self.require_narrow(name, values)
        return found

    def facts(self) -> dict[str, float]:
        """Rounds that counted and that were repeated; the greatest shares that others used beside
        one that counted, and that the hypervisor took in one."""
        return {
            "rounds": self._rounds,
            "repeated": self._repeated,
            "busiest": self._busiest,
            "most_stolen": self._most_stolen,
        }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median of what ``values`` are drawn from, by order statistics: it
    supposes nothing of how they are spread. Of fewer than six there is none: all of them."""
    ordered, n = sorted(values), len(values)
    out, ways, below = 0, 1, 0  # how many are cut off at each end; of 2 ** n ways, how many hold
    while 40 * (below + ways) <= 2**n:
        below += ways
        ways = ways * (n - out) // (out + 1)
        out += 1
    first = max(out - 1, 0)
    return ordered[first], ordered[n - 1 - first]


def width(values: Sequence[float]) -> float:
    """How wide that interval is, over its middle."""
    low, high = interval(values)
    return 2 * (high - low) / (high + low)
