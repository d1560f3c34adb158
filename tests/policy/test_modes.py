"""Modes that are not built: refused when proposed, when decided on, and named by the linter."""

from __future__ import annotations

import pytest

from maskedjob import in_mode
from policy.policy_world import ALICE, IMAGES, NOW, World, grant, job, policy
from svetovid.errors import PolicyError
from svetovid.policy import decide, lint, require_available
from svetovid.policy.modes import NOT_BUILT


@pytest.mark.parametrize("mode", sorted(NOT_BUILT))
def test_a_mode_that_is_not_built_releases_nothing(mode: str) -> None:
    """T17: even where every owner granted it."""
    w = World()
    w.job = job(**in_mode(mode))
    decision = decide(w.request())
    assert not decision.granted
    assert decision.assets == ()
    (reason,) = [r for r in decision.reasons if r.code == "mode.unavailable"]
    assert reason.observed == mode
    assert reason.next_step
    with pytest.raises(PolicyError, match=r"mode\.unavailable"):
        require_available(w.job)


@pytest.mark.parametrize("mode", ["attested", "enclave"])
def test_what_is_built_passes(mode: str) -> None:
    require_available(job(mode=mode))
    assert "mode.unavailable" not in {r.code for r in decide(World().request()).reasons}


def test_the_linter_warns_of_a_grant_nobody_can_use_yet() -> None:
    found = lint(policy(ALICE, grant(IMAGES, "data", modes=("attested", "permuted"))), now=NOW)
    assert [(f.severity, f.code) for f in found] == [("warning", "lint.unavailable")]
