"""The benchmark of the kernels runs, and holds what it compares with to be the same work."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import _kernels
from benchmarks._quiet import Quiet


def test_every_figure_has_its_rounds() -> None:
    found = _kernels.kernel_rounds(Quiet(quick=True), 2, size=1 << 14)
    assert {"share", "share_goten", "combine", "check", "share_torch", "combine_in_place"} <= set(
        found
    )
    assert all(len(rounds) >= 2 and min(rounds) > 0 for rounds in found.values())


@pytest.mark.parametrize("baseline", [_kernels._Torch, _kernels._InPlace])
def test_a_baseline_that_does_other_work_is_noticed(baseline: type[_kernels._Torch]) -> None:
    native, by_torch = _kernels._Native(4096, None), baseline(4096)
    _kernels._same(native, by_torch)
    native.x[7] = np.float32(-native.x[7])
    with pytest.raises(AssertionError, match="another result"):
        _kernels._same(native, by_torch)
