"""Keys (attacks K), one instance and its checkpoints (T11), leases (T12)."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from typing import Any

import pytest

import svetovid.manager.freshness as freshness
from svetovid.crypto import ReceivingKey, sign
from svetovid.errors import InputError, IntegrityError, SvetovidError
from svetovid.evidence.documents import TrustAnchors
from svetovid.policy.documents import Job, JobLimits, Pin
from svetovid.protocol import EvidenceRequest
from svetovid.protocol.contexts import output_context, release_context
from world.world import OWNERS, World


@pytest.mark.parametrize(
    "name",
    [
        "a/../b",
        "a%2Fb",
        "..",
        "",
        "sha256:" + "A" * 64,
        "sha256:" + "0" * 63,
        "sha256:" + "\u0660" * 64,
    ],
)
def test_k1_an_asset_has_one_name(world: World, name: str) -> None:
    """K1: the digest of its manifest, in one spelling; nothing else is looked up."""
    text = world.job().canonical().decode()
    bad = text.replace(world.assets["left"].manifest, name)
    with pytest.raises(InputError):
        Job.parse(bad.encode())
    with pytest.raises(SvetovidError) as e:
        world.client("alice").document(name or "%20")
    assert e.value.exit_code in (2, 3)
    assert world.released() == 0


def test_k1_a_job_that_names_the_wrong_owner(world: World) -> None:
    """K1: who deposited the key owns it, whatever a job says."""
    left = world.assets["left"].model_copy(update={"owner": world.key("carol")})
    job = world.propose(assets={**world.assets, "left": left})
    world.consent("bob", job)
    world.consent("carol", job)
    with world.refuses("asset.owner"):
        world.run(job)


def test_k1_an_asset_nobody_deposited(world: World) -> None:
    left = world.assets["left"].model_copy(update={"manifest": "sha256:" + "8" * 64})
    world.assets["left"] = left
    with world.refuses("asset.unknown"):
        world.run(world.agreed())


def test_k2_evidence_for_another_purpose(world: World) -> None:
    """K2: a renewal releases nothing, and a release renews nothing."""
    run = world.run(world.agreed())
    renewal = world.evidence(run, "renew")
    with world.refuses("challenge.scope", records=0):
        world.replay(renewal)
    other = world.evidence(world.start(world.agreed()))
    with world.refuses("challenge.scope", records=0):
        run.main.client.renew(run.main.lease_id, other)


def test_k2_another_instances_lease(world: World) -> None:
    """K2: keys that are not in the lease's evidence do not renew it."""
    job = world.agreed()
    run = world.run(job)
    stranger = world.start(job)
    evidence = world.evidence(stranger, "renew")
    with world.refuses("lease.scope"):
        run.main.client.renew(run.main.lease_id, evidence)


def test_k3_one_run_under_a_hundred_at_once(world: World) -> None:
    """K3: exactly one is granted, and each of the others is recorded."""
    world.policy("alice", runs=1)
    bodies = []
    for _ in range(10):
        run = world.start(world.agreed())
        for _ in range(10):
            bodies.append(EvidenceRequest(evidence=world.evidence(run)).canonical())
    size = world.manager.size
    handle = world.manager.manager.changes["/v1/releases"]
    outcomes: list[frozenset[str]] = []

    def go(body: bytes) -> None:
        try:
            handle(body)
            outcomes.append(frozenset())
        except SvetovidError as e:
            outcomes.append(frozenset(r.code for r in e.reasons))

    threads = [threading.Thread(target=go, args=(b,)) for b in bodies]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(outcomes) == 100
    assert sum(not o for o in outcomes) == 1
    assert all("limit.runs" in o for o in outcomes if o)
    kinds = Counter(e.kind for e in world.manager.entries(size))
    assert kinds == {"release": 1, "refusal": 99}


def test_k4_t12_renewed_by_worse_evidence(world: World) -> None:
    """K4: what an owner has since learnt of this kind of device ends the lease."""
    pin = Pin(signer=world.key("alice"), product="anchors", min_version=1)
    believed = world.anchors_of(world.ca, simulated=False)
    world.anchors["alice"] = TrustAnchors(product="anchors", version=2, anchors=believed.anchors)
    world.publish("alice")
    world.policy("alice", anchors=pin)
    run = world.run(world.agreed())
    run.renew()
    worse = world.anchors_of(world.ca, simulated=True).model_copy(update={"version": 3})
    world.client("alice").publish(sign(worse, world.people["alice"]))
    with world.refuses("renew.weaker") as refusal:
        run.renew()
    assert {r.owner for r in refusal.error.reasons} == {world.key("alice")}
    with world.refuses("lease.none", records=0):
        run.renew()


def test_k5_a_verdict_is_as_old_as_its_challenge(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K5: between verdict and release no more time passes than the challenge has."""
    evidence = world.evidence(world.start(world.agreed()))
    verify = freshness.verify_evidence

    def slow(*args: Any, **more: Any) -> Any:
        proven = verify(*args, **more)
        world.clock.advance(60)
        return proven

    monkeypatch.setattr(freshness, "verify_evidence", slow)
    with world.refuses("challenge.expired"):
        world.replay(evidence)


def test_k8_a_key_for_one_opens_for_no_other(world: World) -> None:
    """K8: released keys and output keys are sealed to one receiver in one context."""
    job = world.agreed()
    run = world.run(job)
    (sealed,) = [k.sealed for k in run.main.release.keys if k.slot == "left"]
    asset, me = world.assets["left"].manifest, world.manager.key_id
    challenge = run.main.start.challenge.payload_digest()
    context = release_context(asset, job.digest(), world.host.host_id, challenge, me)
    assert run.receiving.open(sealed, context) == world.keys[asset]
    with pytest.raises(IntegrityError, match=r"hpke\.open"):
        ReceivingKey.generate().open(sealed, context)
    for field in context:
        with pytest.raises(IntegrityError, match=r"hpke\.open"):
            run.receiving.open(sealed, {**context, field: "sha256:" + "9" * 64})
    run.finish()
    package = run.packages["model"]
    mine = output_context(package.asset, job.digest(), world.key("rita"))
    with pytest.raises(IntegrityError, match=r"hpke\.open"):
        world.people["alice"].receiving.open(package.keys[0].sealed, mine)
    world.people["rita"].receiving.open(package.keys[0].sealed, mine)


def test_l3_another_container_under_the_agreed_name(world: World) -> None:
    """K7, L3: the host holds what it reads against the agreed manifest."""
    run = world.run(world.agreed())
    left, right = (world.urls[world.assets[s].manifest] for s in ("left", "right"))
    shutil.copy(right.removeprefix("file://"), left.removeprefix("file://"))
    with pytest.raises(SvetovidError) as e:
        run.open()
    assert e.value.code.startswith("asset.")


# -- T11


def test_t11_one_live_instance(world: World) -> None:
    job = world.agreed()
    run = world.run(job)
    two = world.machine("host-2")
    with world.refuses("job.live"):
        world.run(job, two)
    with world.refuses("job.live"):
        world.run(job)
    run.give_back()
    world.run(job, two)


def test_t8_one_live_job_a_host(world: World) -> None:
    """T8: a second job waits until the first one's lease is over, or its machine was restarted."""
    first, second = world.agreed(), world.agreed()
    run = world.run(first)
    with world.refuses("host.live"):
        world.run(second)
    world.manager.restart()
    with world.refuses("host.live"):
        world.run(second)
    two = world.machine("host-2")
    world.run(second, two).give_back()
    run.give_back()
    world.run(second)
    with world.refuses("host.live"):
        world.run(first)
    world.host.reset()
    world.run(first)


def test_t8_no_longer_than_the_lease(world: World) -> None:
    world.run(world.agreed())
    second = world.agreed()
    world.clock.advance(59)
    with world.refuses("host.live"):
        world.run(second)
    world.clock.advance(1)
    world.run(second)


def test_t11_a_resume_takes_the_recorded_head_only(world: World) -> None:
    """T11: an older, a foreign and a lost checkpoint are each refused."""
    job = world.agreed()
    run = world.run(job)
    store = run.checkpoints()
    assert store.load() is None
    run.save(store, b"one")
    old = {p: p.read_bytes() for p in world.folder.glob("*.checkpoint.1*")}
    assert old
    run.save(store, b"two")
    run.give_back()
    again = world.run(job)
    assert again.main.release.head is not None
    assert again.main.release.head.sequence == 2
    assert again.checkpoints().load() == b"two"
    for path, data in old.items():
        path.with_name(path.name.replace(".checkpoint.1", ".checkpoint.2")).write_bytes(data)
    with pytest.raises(IntegrityError, match=r"checkpoint\.head"):
        again.checkpoints().load()
    for path in world.folder.glob("*.checkpoint.2*"):
        path.unlink()
    with pytest.raises(SvetovidError, match=r"checkpoint\.missing"):
        again.checkpoints().load()


def test_t11_a_head_follows_the_head_before(world: World) -> None:
    run = world.run(world.agreed())
    store = run.checkpoints()
    head = run.save(store, b"one")
    for change, code in (
        ({"sequence": 3, "predecessor": head.checkpoint}, "checkpoint.sequence"),
        ({"sequence": 2, "predecessor": "sha256:" + "1" * 64}, "checkpoint.predecessor"),
    ):
        with world.refuses(code, records=0):
            run.record(head.model_copy(update=change))


def test_t11_limits_count_over_resumes(world: World) -> None:
    world.policy("bob", runs=2)
    job = world.agreed()
    for _ in range(2):
        world.run(job).give_back()
    with world.refuses("limit.runs"):
        world.run(job)
    with world.refuses("limit.runs"):
        world.run(world.agreed())


def test_t11_a_job_has_so_many_resumes(world: World) -> None:
    job = world.agreed(limits=JobLimits(resumes=1))
    for _ in range(2):
        world.run(job).give_back()
    with world.refuses("limit.resumes"):
        world.run(job)


def test_t11_a_finished_job_is_over(world: World) -> None:
    job = world.agreed()
    world.run(job).finish()
    with world.refuses("job.finished", records=0):
        world.run(job)


# -- T12


def test_t12_a_lease_goes_on_while_the_host_stands(world: World) -> None:
    job = world.agreed()
    run = world.run(job)
    for _ in range(5):
        world.clock.advance(40)
        run.renew()
    with world.refuses("job.live"):
        world.run(job)


def test_t12_a_host_gone_bad_is_not_renewed(world: World) -> None:
    """T12: nor later, when it looks well again; what was granted ends by itself."""
    job = world.agreed()
    run = world.run(job)
    world.host.log.append("/tmp/evil.so")
    with world.refuses("ima.unlisted"):
        run.renew()
    with world.refuses("lease.none", records=0):
        run.renew()
    two = world.machine("host-2")
    with world.refuses("job.live"):
        world.run(job, two)
    world.clock.advance(60)
    world.run(job, two)


def test_t12_a_reset_ends_a_lease(world: World) -> None:
    """T12: what ran before is gone; the job starts again from its checkpoint."""
    job = world.agreed()
    run = world.run(job)
    world.host.reset()
    asked = run.main.client.challenge(world.host.host_id, job.digest(), "renew", fresh=True)
    evidence = run.attester.evidence(
        asked, run.main._keys, run.main.client.channel, "sha256:" + "0" * 64
    )
    with world.refuses("renew.reset"):
        run.main.client.renew(run.main.lease_id, evidence)
    again = world.start(job)
    again.ask()
    assert world.released() == 2


def test_t12_a_lease_expires(world: World) -> None:
    job = world.agreed()
    run = world.run(job)
    world.clock.advance(60)
    with world.refuses("lease.none", records=0):
        run.renew()
    with world.refuses("lease.none", records=0):
        run.save(run.checkpoints(), b"late")
    with world.refuses("lease.none", records=0):
        run.finish()


@pytest.mark.parametrize("owner", OWNERS)
def test_t12_an_owner_takes_back_what_it_granted(world: World, owner: str) -> None:
    run = world.run(world.agreed())
    world.policy(owner, grants=())
    with world.refuses("policy.grant"):
        run.renew()
