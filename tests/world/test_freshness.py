"""Old, foreign and doubled evidence (attacks F): fresh is what this manager asked for, just now."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest

import svetovid.manager.freshness as freshness
from svetovid.crypto import Identity, b64encode, sign
from svetovid.errors import SvetovidError
from svetovid.evidence.documents import Challenge
from svetovid.protocol import EvidenceRequest
from world.world import World


def test_f1_a_replayed_quote(world: World) -> None:
    """F1, C7: whatever connection the same bytes come over."""
    run = world.run(world.agreed())
    with world.refuses("challenge.used", records=0):
        world.replay(run.main.start)  # type: ignore[arg-type]


def test_f1_a_refused_quote_is_used_up_as_well(world: World) -> None:
    run = world.start(world.propose())
    evidence = world.evidence(run)
    with world.refuses("consent.missing"):
        world.replay(evidence)
    with world.refuses("challenge.used", records=0):
        world.replay(evidence)


def test_f2_after_a_restart_and_on_a_replica(world: World) -> None:
    evidence = world.run(world.agreed()).main.start
    world.manager.restart()
    with world.refuses("challenge.used", records=0):
        world.replay(evidence)  # type: ignore[arg-type]
    replica = world.manager.open()
    body = EvidenceRequest(evidence=evidence).canonical()
    with world.refuses("challenge.used", records=0):
        replica.changes["/v1/releases"](body)
    replica.close()


def test_f4_a_challenge_of_the_provers_choice(world: World) -> None:
    """F4, F7: signed by nobody, by itself, or with a nonce that was never given out."""
    evidence = world.evidence(world.start(world.agreed()))
    challenge = evidence.challenge.peek(Challenge)
    own = sign(challenge, Identity.generate("eve"))
    with world.refuses("challenge.unknown", records=0):
        world.replay(evidence.model_copy(update={"challenge": own}))
    for nonce in ("", b64encode(bytes(31)), b64encode(bytes(32)), b64encode(bytes(65))):
        payload = challenge.model_copy(update={"nonce": nonce})
        made = sign(payload, Identity.generate("manager"))
        with world.refuses("challenge.unknown", records=0):
            world.replay(evidence.model_copy(update={"challenge": made}))


def test_f5_a_challenge_for_another_host(world: World) -> None:
    job = world.agreed()
    two = world.machine("host-2")
    asked = world.evidence(world.start(job)).challenge
    run = world.start(job, two)
    answer = run.attester.evidence(
        asked, run.main._keys, run.main.client.channel, "sha256:" + "0" * 64
    )
    with world.refuses("challenge.scope", records=0):
        world.replay(answer, two)  # type: ignore[arg-type]


def test_f5_a_challenge_of_another_manager(two_managers: World) -> None:
    """F5, C2: what one manager asked counts nothing with another."""
    world = two_managers
    run = world.start(world.agreed())
    evidence = world.evidence(run)
    other = next(x for x in run.links if x is not run.main)
    with world.refuses("challenge.unknown", records=0, manager="south"):
        other.client.release(evidence)


@pytest.mark.parametrize("step", [60, 3600, -1, -3600])
def test_f6_too_late_or_a_clock_set_back(world: World, step: int) -> None:
    evidence = world.evidence(world.start(world.agreed()))
    world.clock.advance(step)
    with world.refuses("challenge.expired", records=0):
        world.replay(evidence)


def test_f8_two_at_once(world: World) -> None:
    """F8: of any number of answers to one challenge, one counts; also over two replicas."""
    evidence = world.evidence(world.start(world.agreed()))
    body = EvidenceRequest(evidence=evidence).canonical()
    replica = world.manager.open()
    handlers = [m.changes["/v1/releases"] for m in (world.manager.manager, replica)] * 4
    outcomes: list[str] = []

    def go(handle: object) -> None:
        try:
            handle(body)  # type: ignore[operator]
            outcomes.append("released")
        except SvetovidError as e:
            outcomes.append(e.code)

    threads = [threading.Thread(target=go, args=(h,)) for h in handlers]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    replica.close()
    assert Counter(outcomes) == {"released": 1, "challenge.used": 7}
    world.manager.restart()
    assert world.released() == 1


def test_f9_counters_that_go_back(world: World) -> None:
    """F9, M2: a TPM that was reset less often than it said before."""
    world.host.tpm.reset_count = 7
    job = world.agreed()
    world.run(job).give_back()
    world.host.tpm.reset_count = 6
    with world.refuses("tpm.clock_rollback"):
        world.run(job)


def test_f9_a_clock_that_goes_back_within_one_boot(world: World) -> None:
    """F9: the same reset and restart counts, an earlier clock: a TPM turned back to a snapshot."""
    job = world.agreed()
    world.run(job).give_back()
    world.host.tpm.clock -= 500
    with world.refuses("tpm.clock_rollback"):
        world.run(job)


def test_f11_evidence_held_back(world: World) -> None:
    """F11: the lease lapses whatever comes late."""
    job = world.agreed()
    run = world.run(job)
    renewal = world.evidence(run, "renew")
    world.clock.advance(world.manager.settings.lease_s)
    with world.refuses("lease.none", records=0):
        run.main.client.renew(run.main.lease_id, renewal)


def test_c4_another_ends_tls(world: World) -> None:
    """C4: evidence for the channel to somebody in between."""
    run = world.start(world.agreed())
    run.main.client.channel = "sha256:" + "3" * 64
    with world.refuses("channel.binding"):
        run.ask()


def test_c2_a_message_for_another_manager(two_managers: World) -> None:
    """C2: whatever is signed names the manager it is for."""
    world = two_managers
    signed = sign(world.policies["bob"], world.people["bob"])
    client = world.client("bob", "north")
    client.register_identity(world.people["bob"].signed_card())
    with world.refuses("request.manager", kind="rejection", manager="north"):
        client.put_policy(signed)


def test_c2_a_token_for_another_manager(two_managers: World) -> None:
    """C2: a reading token of one manager reads nothing at another."""
    world = two_managers
    world.client("bob", "north").register_identity(world.people["bob"].signed_card())
    token = world.client("bob", "south")._wire.token("GET", "/v1/records", b"")
    with pytest.raises(SvetovidError, match=r"token\.scope"):
        world.managers["north"].manager.caller(token, "GET", "/v1/records", b"")


def test_d2_cheap_checks_come_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """D2: evidence is not looked at while its challenge does not stand."""
    used = world.run(world.agreed()).main.start
    late = world.evidence(world.start(world.agreed()))
    calls: list[str] = []
    monkeypatch.setattr(freshness, "verify_evidence", lambda *a, **k: calls.append("verified"))
    with world.refuses("challenge.used", records=0):
        world.replay(used)  # type: ignore[arg-type]
    world.clock.advance(60)
    with world.refuses("challenge.expired", records=0):
        world.replay(late)
    unknown = late.model_copy(
        update={"challenge": sign(late.challenge.peek(Challenge), Identity.generate("eve"))}
    )
    with world.refuses("challenge.unknown", records=0):
        world.replay(unknown)
    assert calls == []


def test_d1_a_body_beyond_the_bound(world: World, tmp_path: Path) -> None:
    """D1: refused by its length, before it is read."""
    import httpx

    tap = world.manager.tap
    request = httpx.Request(
        "POST", "https://north.test/v1/releases", content=b"{}", headers={"content-length": "9" * 9}
    )
    answer = tap.handle_request(request)
    assert answer.status_code == 413
    assert b"body.size" in answer.read()
