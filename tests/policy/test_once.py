"""One decision ends soon, whoever wrote its policies and its job (V10, D2)."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from policy.policy_world import (
    ALICE,
    BOB,
    CARA,
    IMAGES,
    MANAGER,
    RUNTIME,
    FakeAppraisal,
    World,
    condition,
    grant,
    job,
    policy,
    who,
)
from svetovid.crypto import Identity
from svetovid.policy import (
    Condition,
    Decision,
    Export,
    Grant,
    Import,
    JobAsset,
    decide,
    grant_clauses,
    lint,
    once,
)
from svetovid.policy.conditions import work
from svetovid.policy.decide import choose
from svetovid.policy.once import MAX_ALTERNATIVES, MAX_OWNERS_WORK, MAX_POLICY_WORK, policy_work
from svetovid.policy.request import Held

OWNERS = [who(f"owner-{i:02d}") for i in range(20)]
LONG = 'job.seed == 0 && "' + "x" * 960


def long_conditions(count: int) -> tuple[Condition, ...]:
    """True ones of 1000 characters, each another."""
    return tuple(condition(f'{LONG}{i:02d}" != ""'.ljust(1000), f"c{i}") for i in range(count))


def data(owner: Identity) -> JobAsset:
    return JobAsset(manifest=IMAGES, owner=owner.key_id, manager=MANAGER.key_id, use="data")


def give(w: World, owner: Identity, *grants: Grant, **change: Any) -> None:
    w.policies[owner.key_id] = policy(owner, *grants, **change)
    w.appraisals[owner.key_id] = FakeAppraisal()
    w.references[owner.key_id] = frozenset({RUNTIME})


def world(slots: dict[str, Identity], **change: Any) -> World:
    """Slots that all hold the images, each of an owner; the consents are the owners' own."""
    w = World()
    assets = {name: data(owner) for name, owner in slots.items()}
    w.job = job(assets={**assets, "code": w.job.assets["code"]}, **change)
    w.policies = {CARA.key_id: w.policies[CARA.key_id]}
    return w


def agree(w: World, *owners: Identity) -> None:
    slots = [s for s in w.job.assets if s != "code"]
    w.consents = [w.consent(o, *slots) for o in owners] + [w.consent(CARA, "code")]


def importing(w: World, importers: list[Identity], *grants: Grant) -> None:
    """Alice exports the images to all of them, and only they consent."""
    base = grant(IMAGES, "data").to_json()
    give(w, ALICE, exports=tuple(Export.from_json(base | {"to": i.key_id}) for i in importers))
    pin = Import(policy=w.policies[ALICE.key_id].digest(), asset=IMAGES)
    for importer in importers:
        give(w, importer, *grants, imports=(pin,))
    agree(w, *importers)


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each condition was evaluated."""
    count: Counter[str] = Counter()
    real = once.evaluate

    def counted(source: str, *args: Any) -> Any:
        count[source] += 1
        return real(source, *args)

    monkeypatch.setattr(once, "evaluate", counted)
    return count


def codes(d: Decision) -> set[str]:
    return {r.code for r in d.reasons}


def test_a_condition_is_evaluated_once_for_each_owner(evaluated: Counter[str]) -> None:
    """However many slots and grants bring it up."""
    w = world({f"s{i}": ALICE for i in range(40)})
    checks = (condition("claims.kind == 'tpm'"), condition("job.seed == 1", "other"))
    give(w, ALICE, *[grant(IMAGES, "data", conditions=checks)] * 30)
    agree(w, ALICE)
    assert "policy.condition" in codes(decide(w.request()))
    assert evaluated == {"claims.kind == 'tpm'": 1, "job.seed == 1": 1}


def test_owners_do_not_share_what_their_conditions_came_to() -> None:
    """Each sees the host by its own appraisal (T2)."""
    w = World()
    for owner in (ALICE, BOB):
        old = w.policies[owner.key_id].grants[0]
        give(w, owner, old.model_copy(update={"conditions": (condition("claims.secure_boot"),)}))
    w.appraisals[BOB.key_id].values["secure_boot"] = False
    d = decide(w.request())
    assert [(r.owner, r.code) for r in d.reasons] == [(BOB.key_id, "policy.condition")]


def test_importers_are_tried_once_for_an_asset(
    evaluated: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: Counter[str | None] = Counter()
    real = grant_clauses._slot

    def counted(book: Any, ctx: Any, asset: JobAsset, importer: str | None) -> None:
        tried[importer] += 1
        real(book, ctx, asset, importer)

    monkeypatch.setattr(grant_clauses, "_slot", counted)
    w = world({f"s{i}": ALICE for i in range(40)})
    importers = OWNERS[:4]
    importing(w, importers, grant(IMAGES, "data", conditions=(condition("job.seed == 1"),)))
    assert "policy.condition" in codes(decide(w.request()))
    assert evaluated == {"job.seed == 1": 4}
    first = min(i.key_id for i in importers)
    assert tried == {None: 1, first: 1}, "the others refuse by clauses of their own"
    exported = grant(IMAGES, "data", modes=("enclave",)).to_json()
    give(w, ALICE, exports=tuple(Export.from_json(exported | {"to": i.key_id}) for i in importers))
    pin = Import(policy=w.policies[ALICE.key_id].digest(), asset=IMAGES)
    for importer in importers:
        give(w, importer, imports=(pin,))
    agree(w, *importers)
    tried.clear()
    assert "grant.mode" in codes(decide(w.request()))
    assert tried == {None: 1, **{i.key_id: 1 for i in importers}}


def test_slots_of_one_asset_note_its_clauses_once() -> None:
    one, many = world({"a": ALICE}), world({f"s{i}": ALICE for i in range(40)})
    for w in (one, many):
        give(w, ALICE, grant(IMAGES, "data", modes=("enclave",)))
        agree(w, ALICE)
    first, second = (
        sorted(c.clause for c in decide(w.request()).clauses if "grants" in c.clause)
        for w in (one, many)
    )
    assert first == second


def test_where_no_grant_holds_the_nearest_explain_it() -> None:
    w = world({"a": ALICE})
    far = grant(IMAGES, "data", modes=("enclave",), recipients=())
    near = grant(IMAGES, "data", modes=("enclave",))
    give(w, ALICE, *[far] * 20, near)
    agree(w, ALICE)
    told = {r.clause.split(".")[0] for r in decide(w.request()).reasons}
    assert told == {f"policy alice grants[{i}]" for i in (*range(7), 20)}


def test_a_policys_conditions_are_bounded(evaluated: Counter[str]) -> None:
    """By the linter, and at a decision all the same."""
    fits = MAX_POLICY_WORK // 1000
    w = world({"a": ALICE})
    give(w, ALICE, grant(IMAGES, "data", conditions=long_conditions(fits)))
    agree(w, ALICE)
    assert codes(decide(w.request())) == set()
    assert policy_work(w.policies[ALICE.key_id]) == 1000 * fits
    give(w, ALICE, grant(IMAGES, "data", conditions=long_conditions(fits + 1)))
    agree(w, ALICE)
    evaluated.clear()
    d = decide(w.request())
    assert codes(d) == {"limit.conditions"}
    assert evaluated.total() == fits
    found = lint(w.policies[ALICE.key_id], warnings=False)
    assert ("error", "lint.conditions") in {(f.severity, f.code) for f in found}


def test_a_condition_that_is_none_counts_as_well() -> None:
    w = world({"a": ALICE})
    bad = tuple(condition("(" * 17 + "x" * 900 + f" {i}", f"b{i}") for i in range(8))
    give(w, ALICE, grant(IMAGES, "data", conditions=bad))
    agree(w, ALICE)
    assert codes(decide(w.request())) == {"policy.error", "limit.conditions"}
    assert "lint.conditions" not in {f.code for f in lint(w.policies[ALICE.key_id])}


def test_reading_a_whole_list_or_map_counts_more() -> None:
    assert work("job.seed == 1") == len("job.seed == 1")
    assert work("job.parameters.a == job.limits.wall_s") == 37
    assert work("job.parameters == job.offload || has(job.outputs)") == 49 + 3 * 128
    assert work("'a' in job.offload.operators") == 28 + 128


def test_all_owners_together_are_bounded(evaluated: Counter[str]) -> None:
    each = MAX_POLICY_WORK // 1000
    most = MAX_OWNERS_WORK // 1000 // each
    owners = OWNERS[: most + 1]
    for count, refused in ((most, False), (most + 1, True)):
        w = world({o.name: o for o in owners[:count]})
        for owner in owners[:count]:
            give(w, owner, grant(IMAGES, "data", conditions=long_conditions(each)))
        agree(w, *owners[:count])
        evaluated.clear()
        assert ("limit.conditions" in codes(decide(w.request()))) is refused
        assert evaluated.total() <= MAX_OWNERS_WORK // 1000


def test_an_importer_uses_up_what_is_its_own_only() -> None:
    """It can refuse for itself, and not for the others."""
    w = world({"a": ALICE})
    first, *others = sorted(OWNERS, key=lambda o: o.key_id)
    importing(w, [first, *others], grant(IMAGES, "data", conditions=long_conditions(5)))
    last = others[-1]
    pin = w.policies[last.key_id].imports
    give(w, last, grant(IMAGES, "data", conditions=long_conditions(4)), imports=pin)
    agree(w, first, *others)
    w.deposits = {**w.deposits, IMAGES: ALICE.key_id}
    d = decide(w.request())
    assert codes(d) == set()
    assert d.importers == {"a": last.key_id}


def test_grants_of_one_asset_are_bounded() -> None:
    """By the linter, and at a decision all the same; exports to others do not count."""
    w = world({"a": ALICE})
    for count, refused in ((MAX_ALTERNATIVES, False), (MAX_ALTERNATIVES + 1, True)):
        give(w, ALICE, *[grant(IMAGES, "data")] * count)
        agree(w, ALICE)
        assert ("limit.grants" in codes(decide(w.request()))) is refused
        found = {(f.severity, f.code) for f in lint(w.policies[ALICE.key_id], warnings=False)}
        assert (("error", "lint.grants") in found) is refused
    base = grant(IMAGES, "data").to_json()
    to = [o.key_id for o in OWNERS] * 4
    spread = policy(ALICE, exports=tuple(Export.from_json(base | {"to": t}) for t in to))
    assert "lint.grants" not in {f.code for f in lint(spread, warnings=False)}


def test_a_loop_has_a_code_of_its_own_to_the_linter() -> None:
    p = policy(ALICE, grant(IMAGES, "data", conditions=(condition("job.offload.all(x, x + x)"),)))
    assert "lint.cel_loop" in {f.code for f in lint(p) if f.severity == "error"}


def test_the_dearest_decision_ends_soon() -> None:
    """Twenty importers, each with as many dear conditions as fit, for many slots of a big job."""
    w = world(
        {f"s{i:02d}": ALICE for i in range(63)},
        parameters={f"p{i}": "x" * 100 for i in range(128)},
        arguments=["x" * 300] * 64,
    )
    body = " && ".join(["y != 'a'"] * 30)
    loop = f"job.parameters.all(y, {body}) && job.arguments != [] && job.offload != job.outputs"
    dear = tuple(condition(f"{loop} && job.seed != {i}", f"c{i}") for i in range(1, 5))
    importing(w, OWNERS, *[grant(IMAGES, "data", modes=("enclave",), conditions=dear)] * 64)
    begin = time.process_time()
    assert "grant.mode" in codes(decide(w.request()))
    assert time.process_time() - begin < 5


def test_the_dearest_choice_ends_soon(evaluated: Counter[str]) -> None:
    """Twenty importers, each with clauses of its own, and eighty policies that export to all of
    them: the work is the sum of all these policies, and an importer's own is asked once."""
    w = world({f"s{i:02d}": ALICE for i in range(63)})
    base = grant(IMAGES, "data", modes=("enclave",), conditions=(condition("job.seed == 0"),))
    to = [o.key_id for o in OWNERS]
    exports = tuple(Export.from_json(base.to_json() | {"to": t}) for t in to * 8)
    held = [
        Held(policy(ALICE, name=f"a{n}", exports=exports), FakeAppraisal(), frozenset({RUNTIME}))
        for n in range(80)
    ]
    w.policies[ALICE.key_id] = held[0].policy
    pins = tuple(Import(policy=h.policy.digest(), asset=IMAGES) for h in held)
    mine = grant(IMAGES, "data", conditions=(condition("job.seed >= 0"),))
    for importer in OWNERS:
        give(w, importer, mine, imports=pins)
    agree(w, *OWNERS)
    request = w.request()
    begin = time.process_time()
    assert choose(request, ALICE.key_id, held, counting=True) == 0
    assert time.process_time() - begin < 5
    assert evaluated == {"job.seed == 0": len(held), "job.seed >= 0": len(OWNERS)}


def test_a_choice_sees_the_host_as_each_policy_does() -> None:
    """T2: one whose pins are not there, or that refuses the host, is not taken."""
    w = world({"a": ALICE})
    importer = OWNERS[0]
    base = grant(IMAGES, "data").to_json()
    export = Export.from_json(base | {"to": importer.key_id})
    policies = [policy(ALICE, name=f"a{n}", exports=(export,)) for n in range(4)]
    runtime = frozenset({RUNTIME})
    held = [
        Held(policies[0], None, frozenset()),
        Held(policies[1], FakeAppraisal(affirmed=False), runtime),
        Held(policies[2], FakeAppraisal(), frozenset()),
        Held(policies[3], FakeAppraisal(), runtime),
    ]
    give(w, importer, imports=tuple(Import(policy=p.digest(), asset=IMAGES) for p in policies))
    w.policies[ALICE.key_id] = policies[0]
    agree(w, importer)
    assert choose(w.request(), ALICE.key_id, held, counting=True) == 3
    assert choose(w.request(), ALICE.key_id, held[:3], counting=True) == 0
