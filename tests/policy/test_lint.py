"""The linter finds what an owner did not mean (V11, T3)."""

from __future__ import annotations

import pytest

from policy.policy_world import (
    ALICE,
    BOB,
    CODE,
    IMAGES,
    NOW,
    OPAL,
    condition,
    grant,
    policy,
)
from svetovid.errors import PolicyError
from svetovid.policy import Export, Limits, Pin, Policy, lint, require_sound

GOOD = grant(IMAGES, "data")


def codes(p: Policy, **kw: int) -> set[tuple[str, str]]:
    return {(f.severity, f.code) for f in lint(p, **kw)}


def with_condition(cel: str, **change: object) -> Policy:
    return policy(ALICE, grant(IMAGES, "data", conditions=(condition(cel),)), **change)


def test_a_sound_policy_has_no_findings() -> None:
    p = policy(ALICE, GOOD)
    assert lint(p, now=NOW) == []
    require_sound(p, now=NOW)


@pytest.mark.parametrize(
    ("p", "severity", "code"),
    [
        (policy(ALICE, GOOD, operators=()), "error", "lint.any_tpm"),
        (policy(ALICE, GOOD, accepts=("simulated",)), "error", "lint.accepts"),
        (policy(ALICE, grant(IMAGES, "data", code=())), "error", "lint.any_code"),
        (policy(ALICE, grant(IMAGES, "model", code=())), "error", "lint.any_code"),
        (policy(ALICE, grant(IMAGES, "data", recipients=())), "error", "lint.no_recipients"),
        (policy(ALICE, grant(IMAGES, "data", modes=("plain",))), "error", "lint.plain"),
        (
            policy(ALICE, grant(IMAGES, "data", modes=("attested", "enclave"))),
            "warning",
            "lint.mode",
        ),
        (policy(ALICE, grant(IMAGES, "data", limits=Limits())), "warning", "lint.no_limits"),
        (policy(ALICE, GOOD, GOOD), "warning", "lint.duplicate"),
        (policy(ALICE), "warning", "lint.no_grants"),
        (
            policy(ALICE, exports=(Export.from_json(GOOD.to_json() | {"to": ALICE.key_id}),)),
            "error",
            "lint.self_export",
        ),
        (
            policy(
                ALICE,
                GOOD,
                anchors=Pin(signer=OPAL.key_id, product="anchors", min_version=1),
            ),
            "warning",
            "lint.pinned_by_signer",
        ),
        (with_condition("claims.gpu == 'h100'"), "error", "lint.unknown_claim"),
        (with_condition("has(claims.gpu)"), "error", "lint.unknown_claim"),
        (with_condition("claims.host.deeper == 1"), "error", "lint.unknown_claim"),
        (with_condition("job.nosuch == 1"), "error", "lint.unknown_field"),
        (with_condition("job.limits.nosuch == 1"), "error", "lint.unknown_field"),
        (with_condition("claims.host =="), "error", "lint.cel"),
        (with_condition("[1].map(x, x) == [1]"), "error", "lint.cel"),
        (with_condition("1 == 2"), "error", "lint.never"),
        (with_condition("claims.simulated"), "error", "lint.never"),
        (with_condition("claims.simulated == 'false'"), "error", "lint.never"),
        (with_condition("claims.measurement == 'Kernel'"), "error", "lint.never"),
        (with_condition("job.mode == 'plain'"), "error", "lint.never"),
        (
            with_condition("claims.log_entries < 5 && claims.log_entries > 9"),
            "warning",
            "lint.never",
        ),
        (with_condition("job.mode == 1"), "error", "lint.never"),
        (with_condition("claims.log_entries == '5'"), "warning", "lint.never"),
        (with_condition("true"), "warning", "lint.always"),
        (with_condition("claims.simulated || !claims.simulated"), "warning", "lint.always"),
        (with_condition("claims.host != '' || true"), "warning", "lint.always"),
    ],
)
def test_finding(p: Policy, severity: str, code: str) -> None:
    found = lint(p, now=NOW)
    assert [(f.severity, f.code) for f in found] == [(severity, code)]
    assert found[0].message
    assert found[0].next_step
    if severity == "error":
        with pytest.raises(PolicyError) as e:
            require_sound(p)
        assert e.value.code == code
    else:
        require_sound(p)


@pytest.mark.parametrize(
    "cel",
    [
        "claims.measurement == 'kernel'",
        "!claims.simulated",
        "claims.log_entries < 100000",
        "job.parameters.epochs <= 10",
        "job.parameters['learning-rate'] < 0.5",
        "job.name.startsWith('train')",
        "claims.host == 'a' || claims.host == 'b'",
        "claims.operator in ['x', 'y']",
        "job.arguments.all(a, a != '--leak')",
        "'--safe' in job.arguments",
        "size(job.recipients) == 1",
        "job.limits.wall_s <= 3600 && job.limits.resumes == 0",
        "job.outputs.model.bytes < 100000",
        "has(job.parameters.noise)",
        "'epochs' in job.parameters",
        "job.parameters.private == true",
        "claims.reset_count == 3",
        "job.seed == 7",
    ],
)
def test_conditions_that_say_something(cel: str) -> None:
    assert lint(with_condition(cel)) == []


def test_a_condition_that_only_the_profile_makes_false() -> None:
    p = with_condition("claims.measurement == 'launcher'")
    assert codes(p) == {("error", "lint.never")}
    p = with_condition(
        "claims.measurement == 'launcher' && claims.simulated",
        profile="test",
        accepts=("launcher", "simulated"),
    )
    assert codes(p) == set()


def test_expiry_needs_a_clock() -> None:
    p = policy(ALICE, GOOD)
    assert codes(p, now=NOW + 1000) == {("warning", "lint.expired")}
    assert codes(p) == set()


def test_code_may_grant_itself_and_exports_to_two_are_no_duplicates() -> None:
    two = tuple(Export.from_json(GOOD.to_json() | {"to": k.key_id}) for k in (BOB, OPAL))
    assert codes(policy(ALICE, grant(CODE, "code"), exports=two)) == set()


def test_errors_come_first_and_all_at_once() -> None:
    p = policy(ALICE, grant(IMAGES, "data", code=(), limits=Limits()), operators=())
    assert [f.code for f in lint(p)] == ["lint.any_code", "lint.any_tpm", "lint.no_limits"]
    with pytest.raises(PolicyError) as e:
        require_sound(p)
    assert [r.code for r in e.value.reasons] == ["lint.any_code", "lint.any_tpm"]
