"""What one worker sees cannot be told from random numbers; what two see is everything (T17)."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier

from offload.memory_link import MemoryLink
from offload.test_masking import masker
from svetovid.offload.field import M31
from svetovid.offload.protocols import CODED, GOTEN, PACKED, SCHEMES, Scheme

ROWS, WIDTH = 20_000, 12
TENSORS = {
    "zeros": torch.zeros(ROWS, WIDTH),
    "greatest": torch.full((ROWS, WIDTH), 127.99),
    "real": torch.relu(torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1))),
}
FALSE_ALARM = 1e-7
"""Of one test on truly random numbers."""


def views(
    folder: Path, scheme: Scheme, value: torch.Tensor, *, cut: bool = True
) -> list[np.ndarray]:
    """For each worker, the points of a tensor that it was given: ``[points, rows, width]``.

    Args:
        cut: a packed scheme has half as many rows, of a batch; or all, of a weight.
    """
    folder.mkdir(exist_ok=True, parents=True)
    trusted = masker(folder, scheme)
    trusted.begin(0)
    operand = trusted.operand("x", value)
    if not scheme.at_once:
        cut = cut and scheme.blocks > 1
        size = value.numel() // (scheme.blocks if cut else 1)
        operand.take(tuple(value.shape), size, cut, scheme.blocks)
        trusted._share_quantised(operand)
    found = []
    for link in trusted.links:
        assert isinstance(link, MemoryLink)
        found.append(np.stack([seen.reshape(-1, value.shape[-1]) for _, seen in link.seen]))
    return found


@pytest.mark.parametrize("scheme", list(SCHEMES.values()), ids=lambda s: s.name)
@pytest.mark.parametrize("name", sorted(TENSORS))
def test_one_workers_view_is_uniform(tmp_path: Path, scheme: Scheme, name: str) -> None:
    given = views(tmp_path, scheme, TENSORS[name])
    if scheme.blocks > 1:
        given += views(tmp_path / "weight", scheme, TENSORS[name], cut=False)
    for seen in given:
        for point in seen.astype(np.int64):
            flat = point.reshape(-1)
            for counts in (
                np.bincount(flat >> 23, minlength=256),
                np.bincount(flat & 255, minlength=256),
                np.bincount(flat % 3, minlength=3),
                np.bincount(flat % 257, minlength=257),
            ):
                assert stats.chisquare(counts).pvalue > FALSE_ALARM
            steps = np.diff(np.concatenate([flat, flat[:1]])) % M31.p
            assert stats.chisquare(np.bincount(steps >> 23, minlength=256)).pvalue > FALSE_ALARM
        for one, other in combinations(seen, 2):  # points of one worker say nothing together either
            apart = (one.astype(np.int64) - other).reshape(-1) % M31.p
            assert stats.chisquare(np.bincount(apart >> 23, minlength=256)).pvalue > FALSE_ALARM


def features(seen: np.ndarray) -> np.ndarray:
    rows = seen.transpose(1, 0, 2).reshape(seen.shape[1], -1).astype(np.int64)
    return np.concatenate([rows / M31.p - 0.5, rows & 1, (rows >> 7) & 1, rows % 128 / 64 - 1], 1)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("scheme", [CODED, GOTEN, PACKED], ids=lambda s: s.name)
def test_a_trained_distinguisher_does_no_better_than_chance(tmp_path: Path, scheme: Scheme) -> None:
    """All zeros against a real batch, by what one worker sees; the same learner tells the tensors
    themselves apart. By chance alone 0.52 is reached once in two million times."""
    values = {name: torch.cat([TENSORS[name]] * scheme.blocks) for name in ("zeros", "real")}
    zeros, real = (views(tmp_path / name, scheme, values[name]) for name in ("zeros", "real"))
    label = np.repeat([0, 1], ROWS)
    learn = np.arange(2 * ROWS) % 2 == 0
    for ours, theirs in zip(zeros, real, strict=True):
        given = np.concatenate([features(ours), features(theirs)])
        for learner in (
            LogisticRegression(max_iter=50),
            MLPClassifier((24,), max_iter=4, batch_size=500, random_state=0),
        ):
            learner.fit(given[learn], label[learn])
            guessed = learner.predict_proba(given[~learn])[:, 1]
            assert roc_auc_score(label[~learn], guessed) <= 0.52
    plain = np.concatenate([TENSORS["zeros"].numpy(), TENSORS["real"].numpy()])
    learner = LogisticRegression(max_iter=50).fit(plain[learn], label[learn])
    assert roc_auc_score(label[~learn], learner.predict_proba(plain[~learn])[:, 1]) > 0.99


def test_t17_two_workers_together_have_the_tensor(tmp_path: Path) -> None:
    """The bound is honest: 2 x(1) - x(2) is what the tensor was quantised to."""
    value = TENSORS["real"]
    one, two, three = (v[0].astype(np.int64) for v in views(tmp_path, CODED, value))
    for found in (2 * one - two, 3 * two - 2 * three, (3 * one - three) * pow(2, -1, M31.p)):
        q = found % M31.p
        q = np.where(q > M31.half, q - M31.p, q)
        assert np.abs(q).max() <= 128
        scale = 128 / 2 ** np.ceil(np.log2(float(value.max())))
        assert np.abs(q / scale - value.numpy()).max() <= 1 / scale


def test_t17_two_workers_have_a_sum_of_two_blocks_and_three_all_of_them(tmp_path: Path) -> None:
    """What the card says of a packed batch, of points 2 and -1, and with infinity."""
    value = TENSORS["real"]
    p, scale = M31.p, 128 / 2 ** np.ceil(np.log2(float(value.max())))
    seen = [v[0].astype(np.int64) for v in views(tmp_path, PACKED, value)]
    first, second = np.split(value.numpy(), 2)

    def centred(sum_: np.ndarray) -> np.ndarray:
        residue = sum_ % p
        return np.where(residue > M31.half, residue - p, residue)

    apart = (centred(seen[1] - seen[2])) / 3  # 3 (q1 - q0)
    assert np.abs(apart / scale - (second - first)).max() <= 2 / scale
    both = centred(2 * (seen[1] - 2 * seen[0]) + seen[2] - 2 * seen[0])  # 3 q1
    assert np.abs(both / 3 / scale - second).max() <= 1 / scale


def test_nothing_repeats_between_steps_attempts_and_runs(tmp_path: Path) -> None:
    """The same tensor, masked again, has nothing in common with itself."""
    value = TENSORS["zeros"][:100]
    trusted = masker(tmp_path, CODED)
    seen = []
    for step in range(3):
        trusted.begin(step)
        trusted.operand("x", value)
        trusted.operand("y", value)
    for link in trusted.links[:1]:
        assert isinstance(link, MemoryLink)
        seen += [given for _, given in link.seen]
    seen += [views(tmp_path / str(life), CODED, value)[0][0].reshape(-1) for life in range(3)]
    for one, other in combinations(seen, 2):
        assert (one == other).mean() < 0.01
