"""Each clause of a decision: a world where only it fails, and everything else holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from policy.policy_world import (
    ALICE,
    BOB,
    CARA,
    CODE,
    FACTS,
    HOST,
    IMAGES,
    LABELS,
    MALLORY,
    MANAGER,
    NOW,
    OPAL,
    OTHER,
    RITA,
    RUNTIME,
    FakeAppraisal,
    World,
    condition,
    grant,
    job,
    policy,
)
from svetovid.crypto import digest, sign
from svetovid.errors import PolicyError, Reason
from svetovid.policy import (
    Consent,
    Export,
    GrantUse,
    History,
    Import,
    JobAsset,
    Limits,
    Recipient,
    consents,
    decide,
)

World_ = Callable[[World], None]
CASES: dict[str, tuple[World_, set[str]]] = {}


def case(*codes: str) -> Callable[[World_], World_]:
    def add(change: World_) -> World_:
        CASES[change.__name__] = (change, set(codes))
        return change

    return add


def alice(w: World, *grants, **change) -> None:
    w.policies[ALICE.key_id] = policy(ALICE, *(grants or (grant(IMAGES, "data"),)), **change)


@case("release.purpose")
def other_role(w):  # K2
    w.role = "renew"


@case("release.purpose")
def other_job(w):  # K2
    w.evidence_job = digest(b"another job")


@case("job.live")
def second_instance(w):  # T11
    w.history = History(live=True)


@case("host.live")
def another_job_on_this_host(w):  # T8
    w.history = History(busy=True)


@case("job.finished")
def finished(w):
    w.history = History(finished=True)


@case("limit.resumes")
def too_many_resumes(w):  # T11
    w.history = History(started=True, resumes=1)


@case("mode.plain", "grant.mode")
def plain(w):
    w.job = job(mode="plain")


@case("recipient.card", "grant.recipient")
def forged_card(w):
    card = sign(RITA.card.model_copy(update={"signing": MALLORY.key_id}), RITA)
    w.job = job(recipients=(Recipient(card=card),))


@case("recipient.revoked")
def recipient_revoked(w):  # V6
    w.revoked = frozenset({RITA.key_id})


@case("asset.manager")
def nothing_here(w):  # T1
    w.manager = OTHER.key_id
    w.job = job()


@case("asset.unknown")
def never_deposited(w):
    del w.deposits[IMAGES]


@case("asset.owner")
def someone_elses_asset(w):
    """Mallory names herself as the owner of Bob's labels, and consents to everything."""
    w.deposits[IMAGES] = BOB.key_id


@case("consent.missing")
def no_consent(w):  # T5
    w.consents = w.all_consents()[1:]


@case("consent.missing")
def consent_of_a_stranger(w):
    w.consents = [w.consent(MALLORY, "images"), *w.all_consents()[1:]]


@case("consent.signature")
def forged_consent(w):
    payload = w.consent(ALICE, "images").peek(Consent)
    w.consents = [sign(payload, MALLORY), *w.all_consents()[1:]]


@case("consent.scope")
def consent_to_another_job(w):  # V3
    w.consents = [w.consent(ALICE, "images", job=digest(b"x")), *w.all_consents()[1:]]


@case("consent.scope")
def consent_to_another_slot(w):  # V3
    w.consents = [w.consent(ALICE, "labels"), *w.all_consents()[1:]]


@case("consent.stale")
def policy_changed_since(w):
    before = w.all_consents()
    old = w.policies[ALICE.key_id]
    alice(w, sequence=2, predecessor=old.digest())
    w.consents = before


@case("consent.time")
def consent_from_the_future(w):  # A5
    w.consents = [w.consent(ALICE, "images", issued_at=NOW + 301), *w.all_consents()[1:]]


@case("consent.revoked", "policy.key")
def owner_revoked(w):  # V6
    w.revoked = frozenset({ALICE.key_id})


@case("policy.missing")
def no_policy(w):
    del w.policies[ALICE.key_id]


@case("policy.manager")
def policy_for_another_manager(w):  # T1
    alice(w, manager=OTHER.key_id)


@case("policy.manager")
def policy_of_somebody_else_under_her_key(w):
    w.policies[ALICE.key_id] = w.policies[ALICE.key_id].model_copy(update={"owner": BOB.key_id})


@case("policy.appraisal")
def not_appraised(w):
    del w.appraisals[ALICE.key_id]


@case("policy.appraisal")
def silently_not_affirmed(w):  # V9
    w.appraisals[ALICE.key_id].affirmed = False


@case("ima.unlisted")
def unlisted_file(w):
    w.appraisals[ALICE.key_id] = FakeAppraisal(
        affirmed=False, why=[Reason("ima.unlisted", "a listed file", "/opt/evil.so", "rebuild")]
    )


@case("ima.unlisted")
def affirmed_with_reasons(w):  # fail closed
    w.appraisals[ALICE.key_id].why = [Reason("ima.unlisted")]


@case("policy.simulated")
def simulator(w):  # T4
    w.appraisals[ALICE.key_id].values["simulated"] = True


@case("policy.simulated")
def simulator_though_accepted_in_production(w):  # T4
    alice(w, accepts=("simulated",))
    w.appraisals[ALICE.key_id].values["simulated"] = True


@case("policy.simulated")
def simulated_unsaid(w):  # V9
    del w.appraisals[ALICE.key_id].values["simulated"]


@case("policy.launcher")
def launcher(w):  # T4
    alice(w, profile="test", accepts=("simulated",))
    w.appraisals[ALICE.key_id].values["measurement"] = "launcher"


@case("policy.launcher")
def launcher_though_accepted_in_production(w):  # T4
    alice(w, accepts=("launcher",))
    w.appraisals[ALICE.key_id].values["measurement"] = "launcher"


@case("policy.launcher")
def unknown_measurement(w):  # V9
    alice(w, profile="test", accepts=("simulated", "launcher"))
    w.appraisals[ALICE.key_id].values["measurement"] = "trust-me"


@case("mode.evidence")
def enclave_job_on_a_tpm_host(w):
    w.job = job(mode="enclave")
    modes = ("enclave", "attested")
    w.policies = {
        ALICE.key_id: policy(ALICE, grant(IMAGES, "data", modes=modes)),
        BOB.key_id: policy(BOB, grant(LABELS, "data", modes=modes)),
        CARA.key_id: policy(CARA, grant(CODE, "code", modes=modes)),
    }


@case("policy.host")
def other_operator(w):  # T3
    alice(w, operators=(MALLORY.key_id,))


@case("policy.host")
def other_host(w):  # T3
    alice(w, operators=(), hosts=(digest(b"another host"),))


@case("policy.host")
def right_operator_other_host(w):
    alice(w, hosts=(digest(b"another host"),))


@case("policy.host")
def nobody_named(w):  # T3
    alice(w, operators=())


@case("host.revoked")
def operator_revoked(w):  # V6
    w.revoked = frozenset({OPAL.key_id})


@case("host.revoked")
def operator_unsaid(w):  # V9
    host = w.appraisals[ALICE.key_id].values["host"]
    alice(w, operators=(), hosts=(host,))
    del w.appraisals[ALICE.key_id].values["operator"]


@case("policy.environment")
def other_environment(w):
    w.references[ALICE.key_id] = frozenset()


@case("policy.grant")
def no_grant(w):
    alice(w, grant(LABELS, "data"))


@case("policy.grant")
def granted_as_a_model(w):  # K2
    alice(w, grant(IMAGES, "model"))


@case("grant.code")
def changed_code(w):
    alice(w, grant(IMAGES, "data", code=(digest(b"reviewed"),)))


@case("grant.code")
def any_code(w):
    alice(w, grant(IMAGES, "data", code=()))


@case("grant.mode")
def other_mode(w):
    alice(w, grant(IMAGES, "data", modes=("masked",)))


@case("grant.recipient")
def other_recipient(w):  # K10
    alice(w, grant(IMAGES, "data", recipients=(BOB.key_id,)))


@case("grant.recipient")
def one_recipient_more(w):  # K10
    w.job = job(recipients=tuple(Recipient(card=i.signed_card()) for i in (RITA, MALLORY)))


@case("grant.device")
def accelerator(w):  # T8
    w.job = job(devices=("/dev/nvidia0",))


@case("policy.condition")
def condition_false(w):
    alice(w, grant(IMAGES, "data", conditions=(condition("job.parameters.epochs <= 2"),)))


@case("policy.error")
def condition_missing_claim(w):  # V9 V11
    alice(w, grant(IMAGES, "data", conditions=(condition('claims.gpu == "h100" || true'),)))


@case("policy.error")
def condition_not_bool(w):  # V9
    alice(w, grant(IMAGES, "data", conditions=(condition("1"),)))


@case("limit.expired")
def expired(w):
    w.now = NOW + 1000


@case("limit.runs")
def runs_used_up(w):
    w.history = History(uses={(ALICE.key_id, IMAGES, ""): GrantUse(runs=3)})


@case("limit.runs")
def runs_used_up_by_resumes(w):  # T11
    w.history = History(started=True, uses={(ALICE.key_id, IMAGES, ""): GrantUse(runs=3)})


@case("limit.output_bytes")
def output_budget(w):  # L5
    used = 100_000 - w.job.bytes_out + 1
    w.history = History(uses={(ALICE.key_id, IMAGES, ""): GrantUse(output_bytes=used)})


@case("consent.missing", "policy.grant")
def import_without_consent(w):
    w.export_images_to_bob()
    w.consents = [*w.consents[1:], w.consent(BOB, "labels")]


@case("policy.import")
def import_of_an_older_policy(w):
    w.export_images_to_bob()
    w.policies[ALICE.key_id] = w.policies[ALICE.key_id].model_copy(update={"sequence": 2})


@case("policy.grant")
def import_never_exported(w):
    a = policy(ALICE, grant(IMAGES, "data"))
    w.policies[BOB.key_id] = policy(
        BOB, grant(LABELS, "data"), imports=(Import(policy=a.digest(), asset=IMAGES),)
    )
    w.consents = [w.consent(BOB, "images", "labels"), w.consent(CARA, "code")]


@case("policy.condition")
def export_condition(w):
    c = {"name": "few", "cel": "job.parameters.epochs < 1"}
    w.export_images_to_bob(conditions=[c])


@case("grant.mode")
def importer_narrows(w):
    w.export_images_to_bob()
    bob = w.policies[BOB.key_id]
    more = (*bob.grants, grant(IMAGES, "data", modes=("masked",)))
    w.policies[BOB.key_id] = bob.model_copy(update={"grants": more})
    w.consents = [w.consent(BOB, "images", "labels"), w.consent(CARA, "code")]


@pytest.mark.parametrize("name", sorted(CASES))
def test_only_this_clause_refuses(name: str) -> None:
    change, codes = CASES[name]
    w = World()
    change(w)
    decision = decide(w.request())
    assert not decision.granted
    assert decision.assets == ()
    assert {r.code for r in decision.reasons} == codes
    for r in decision.reasons:
        assert r.next_step or name == "affirmed_with_reasons"
        assert r.clause
    with pytest.raises(PolicyError) as e:
        decision.require()
    assert e.value.reasons == decision.reasons
    assert decide(w.request()) == decision  # deterministic


def test_everything_granted() -> None:
    decision = decide(World().request())
    assert decision.granted
    assert decision.assets == tuple(sorted([IMAGES, LABELS, CODE]))
    assert decision.reasons == ()
    assert decision.require() is decision
    assert decision.to_dict()["granted"] is True


def test_an_import_is_granted_in_the_exporters_stead() -> None:
    w = World()
    w.export_images_to_bob()
    assert decide(w.request()).granted


def test_t5_the_importer_whose_own_policy_holds_is_chosen() -> None:
    """Whoever comes first by key and whose own policy refuses the host keeps no other out."""
    w = World()
    fields = grant(IMAGES, "data").to_json()
    importers = sorted((BOB, MALLORY), key=lambda i: i.key_id)
    exports = tuple(Export.from_json(fields | {"to": i.key_id}) for i in importers)
    w.policies[ALICE.key_id] = exporter = policy(ALICE, exports=exports)
    imported = (Import(policy=exporter.digest(), asset=IMAGES),)
    for importer, own in zip(importers, ((), (OPAL.key_id,)), strict=True):
        labels = (grant(LABELS, "data"),) if importer is BOB else ()
        w.policies[importer.key_id] = policy(importer, *labels, imports=imported, operators=own)
        w.appraisals[importer.key_id] = FakeAppraisal()
        w.references[importer.key_id] = frozenset({RUNTIME})
    w.job = job(assets={k: v for k, v in w.job.assets.items() if k != "labels"})
    w.consents = [w.consent(i, "images") for i in importers] + [w.consent(CARA, "code")]
    decision = decide(w.request())
    assert decision.granted
    assert decision.importers == {"images": importers[1].key_id}


def test_t13_a_policy_behind_an_import_fits_into_a_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    w = World()
    w.export_images_to_bob()
    largest = max(w.request().policy_bytes[k.key_id] for k in (ALICE, BOB))
    monkeypatch.setattr(consents, "_MAX_IMPORT_BYTES", 2 * largest)
    assert decide(w.request()).granted
    monkeypatch.setattr(consents, "_MAX_IMPORT_BYTES", 2 * largest - 1)
    assert {r.code for r in decide(w.request()).reasons} == {"receipt.policies"}


def test_a_test_profile_accepts_what_it_names() -> None:
    w = World()
    for owner, p in w.policies.items():
        changed = {"profile": "test", "accepts": ("simulated", "launcher")}
        w.policies[owner] = p.model_copy(update=changed)
        w.appraisals[owner].values |= {"simulated": True, "measurement": "launcher"}
    assert decide(w.request()).granted


def test_an_enclave_job_runs_in_an_enclave() -> None:
    w = World()
    w.job = job(mode="enclave")
    for owner, p in w.policies.items():
        grants = tuple(g.model_copy(update={"modes": ("enclave",)}) for g in p.grants)
        w.policies[owner] = p.model_copy(update={"grants": grants})
        w.appraisals[owner].values |= {"measurement": "enclave", "kind": "simulated-tee"}
    assert decide(w.request()).granted


def test_one_of_two_grants_is_enough_and_both_explain_a_refusal() -> None:
    w = World()
    wrong = grant(IMAGES, "data", modes=("masked",))
    alice(w, wrong, grant(IMAGES, "data"))
    assert decide(w.request()).granted
    alice(w, wrong, grant(IMAGES, "data", recipients=()))
    clauses = {r.clause for r in decide(w.request()).reasons}
    assert clauses == {"policy alice grants[0].modes", "policy alice grants[1].recipients"}


def test_every_failing_clause_is_listed_with_its_place() -> None:
    w = World()
    no = condition("claims.log_entries < 5", "small-log")
    yes = condition("claims.kind == 'tpm'", "tpm")
    alice(w, grant(IMAGES, "data", modes=("masked",), conditions=(yes, no)), operators=())
    w.consents = w.all_consents()[:2]
    reasons = decide(w.request()).reasons
    assert {r.code for r in reasons} == {
        "consent.missing",
        "policy.host",
        "grant.mode",
        "policy.condition",
    }
    (shown,) = [r for r in reasons if r.code == "policy.condition"]
    assert shown.clause == 'policy alice grants[0].conditions[1] "small-log"'
    assert shown.observed == "claims.log_entries = 100"
    assert shown.expected == "claims.log_entries < 5"
    assert shown.owner == ALICE.key_id


def test_the_host_sees_neither_expected_nor_observed() -> None:
    w = World()
    alice(w, grant(IMAGES, "data", conditions=(condition("claims.log_entries < 5"),)))
    public = [reason.public() for reason in decide(w.request()).reasons]
    assert [r.code for r in public] == ["policy.condition"]
    assert all(not (r.expected or r.observed or r.clause) for r in public)


def test_assets_of_another_manager_need_their_owners_consent_only() -> None:
    w = World()
    far = JobAsset(manifest=LABELS, owner=BOB.key_id, manager=OTHER.key_id, use="data")
    w.job = job(assets={**w.job.assets, "labels": far})
    for held in (w.policies, w.appraisals, w.references):
        del held[BOB.key_id]
    decision = decide(w.request())
    assert decision.granted
    assert decision.assets == tuple(sorted([IMAGES, CODE]))
    w.consents = [w.consent(ALICE, "images"), w.consent(CARA, "code")]
    assert [r.code for r in decide(w.request()).reasons] == ["consent.missing"]


def test_a_run_limit_is_exact_over_many_requests() -> None:
    """K3, the pure part: deciding and counting in one transaction grants exactly the limit."""
    w, granted = World(), 0
    request = w.request()
    for _ in range(20):
        uses = {(ALICE.key_id, IMAGES, ""): GrantUse(runs=granted)}
        granted += decide(replace(request, history=History(uses=uses))).granted
    assert granted == 3


def test_l5_all_that_a_release_lets_out_is_charged_to_the_byte() -> None:
    """L5, T9: outputs, metrics and progress; the owner is told the sum that would do."""
    w = World()
    limits = w.job.limits
    progress = 16 * (limits.wall_s + 1)
    metrics = 128 + 8 + len("loss") + 26 * 10
    assert w.job.bytes_out == limits.output_bytes + metrics + progress
    used = 100_000 - w.job.bytes_out
    uses = {(ALICE.key_id, IMAGES, ""): GrantUse(output_bytes=used)}
    w.history = History(uses=uses)
    assert decide(w.request()).granted
    w.job = w.job.model_copy(
        update={"limits": limits.model_copy(update={"output_bytes": limits.output_bytes + 1})}
    )
    w.consents = w.all_consents()
    (reason,) = decide(w.request()).reasons
    assert reason.code == "limit.output_bytes"
    assert reason.observed == f"{used} used by earlier releases, {w.job.bytes_out} asked for"
    assert "100001 would admit this release" in reason.expected
    assert f"each further one takes {w.job.bytes_out} more" in reason.expected
    assert not any(c.isdigit() for c in reason.next_step)  # what others used is the owner's alone


def test_a_grant_without_limits_is_not_limited() -> None:
    w = World()
    alice(w, grant(IMAGES, "data", limits=Limits()))
    w.history = History(uses={(ALICE.key_id, IMAGES, ""): GrantUse(runs=10**6, output_bytes=2**50)})
    assert decide(w.request()).granted


def test_consents_that_are_no_consents_count_for_nothing() -> None:
    """C1-like: a signed policy is no consent, whoever sends it."""
    w = World()
    junk = sign(w.policies[ALICE.key_id], ALICE)
    w.consents = [junk, *w.all_consents()[1:]]
    assert [r.code for r in decide(w.request()).reasons] == ["consent.missing"]
    w.consents = [junk, *w.all_consents()]
    assert decide(w.request()).granted


def test_named_hosts_are_enough() -> None:
    w = World()
    alice(w, operators=(), hosts=(HOST,))
    assert decide(w.request()).granted
    assert FACTS["host"] == HOST
    assert MANAGER.key_id == w.manager
    assert CODE in w.deposits
