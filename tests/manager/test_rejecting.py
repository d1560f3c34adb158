"""What was refused to known parties is recorded, once, for them; what strangers send is not."""

from __future__ import annotations

from managerworld import SoftHost, World, refused
from softtpm import SoftTpm
from svetovid.crypto import Identity, sign
from svetovid.manager import Settings
from svetovid.manager.core import Bounds
from svetovid.protocol.records import LogEntry


def rejections(world: World) -> list[LogEntry]:
    store = world.manager._core.store
    entries = [store.entry(i) for i in range(store.size)]
    return [e for e in entries if e.kind == "rejection"]


def test_a_record_names_what_by_whom_and_why(world: World) -> None:
    """And its party reads it, nobody else."""
    world.ready()
    bad = world.policy_of(world.alice, sequence=3)
    assert (
        refused(world.clients["alice"].put_policy, sign(bad, world.alice)).code == "policy.version"
    )
    (entry,) = rejections(world)
    body = dict(entry.body)
    assert body.pop("name")
    assert body == {
        "what": "policy",
        "subject": bad.digest(),
        "codes": ["policy.version"],
        "by": world.alice.key_id,
    }
    assert entry.parties == (world.alice.key_id,)
    mine = world.clients["alice"].records(0, 1000).records[-1]
    assert mine.entry == entry
    assert world.clients["bob"].records(0, 1000).records[-1].entry is None


def test_one_document_refused_for_one_reason_is_one_record(world: World) -> None:
    """Whoever saw a signed document can send it again: that must not fill anybody's record."""
    world.ready()
    old = sign(world.policies["alice"], world.alice)
    more = {"sequence": 2, "predecessor": world.policies["alice"].digest()}
    second = world.policy_of(world.alice, **more)
    world.clients["alice"].put_policy(sign(second, world.alice))
    eve = world.client(Identity.generate("eve"))
    for client in (eve, eve, world.clients["bob"]):
        assert refused(client.put_policy, old).code == "policy.version"
    assert len(rejections(world)) == 1
    world.stop()
    world.start()
    assert refused(eve.put_policy, old).code == "policy.version"
    assert len(rejections(world)) == 1
    revocation = world.alice.revoke(world.alice.key_id, "lost", world.now)
    world.clients["alice"].revoke(revocation)
    assert refused(eve.put_policy, old).code == "key.revoked"
    assert [e.body["codes"] for e in rejections(world)] == [["policy.version"], ["key.revoked"]]


def test_everybody_who_signed_sees_it(world: World) -> None:
    """Whoever adds a signature to another's document does not take its record away."""
    world.ready()
    bad = world.policy_of(world.alice, sequence=3)
    signed = sign(bad, world.alice, world.bob, Identity.generate("eve"))
    assert refused(world.clients["bob"].put_policy, signed).code == "policy.version"
    (entry,) = rejections(world)
    assert set(entry.parties) == {world.alice.key_id, world.bob.key_id}


def test_strangers_and_what_cannot_be_read_leave_no_record(world: World) -> None:
    world.ready()
    size = world.manager._core.store.size
    eve = Identity.generate("eve")
    policy = world.policy_of(eve)
    assert refused(world.client(eve).put_policy, sign(policy, eve)).code == "identity.unknown"
    signed = sign(world.policy_of(world.alice, sequence=3), world.alice)
    torn = signed.model_copy(update={"payload": sign(policy, eve).payload})
    assert refused(world.clients["alice"].put_policy, torn).code == "signature.invalid"
    assert (
        refused(world.clients["alice"].put_policy, world.alice.signed_card()).code
        == "signature.type"
    )
    assert refused(world.manager.changes["/v1/policies"], b"{}").code == "document.invalid"
    host = SoftHost(world, "one", SoftTpm(world.ca))
    statement = sign(host.statement(operator=eve.key_id), eve)
    keys = ([host.tpm.ek_certificate], host.tpm.ek_public, host.tpm.ak_public)
    assert refused(host.client.enrol, statement, *keys).code == "enrol.operator"
    assert world.manager._core.store.size == size


def test_a_refused_host_is_its_operators_record(world: World) -> None:
    """T3: what was tried with an operator's statement, whichever agent tried it."""
    world.register()
    world.host("one")
    two = SoftHost(world, "two", SoftTpm(world.ca))
    statement = sign(two.statement(host="one"), world.operator)
    keys = ([two.tpm.ek_certificate], two.tpm.ek_public, two.tpm.ak_public)
    for _ in range(2):
        assert refused(two.client.enrol, statement, *keys).code == "enrol.identity_conflict"
    stranger = world.client(Identity.generate("eve"))
    assert refused(stranger.enrol, statement, *keys).code == "signature.missing"
    (entry,) = rejections(world)
    assert (entry.body["what"], entry.body["subject"]) == ("host", statement.payload_digest())
    assert entry.parties == (world.operator.key_id,)
    other = sign(two.statement(), world.operator)
    challenge = two.client.enrol(other, *keys).challenge
    assert challenge is not None
    assert refused(two.client.activate, challenge.id, bytes(32)).code == "enrol.name"
    assert [e.body["codes"] for e in rejections(world)][1:] == [["enrol.name"]]


def test_a_refused_publication_is_its_callers_record(world: World) -> None:
    world.register()
    world.publish()
    two = sign(world.anchors, world.alice, world.bob)
    assert refused(world.clients["carol"].publish, two).code == "signature.missing"
    (entry,) = rejections(world)
    assert (entry.body["what"], entry.parties) == ("document", (world.carol.key_id,))


def test_a_party_has_as_many_as_documents(world: World) -> None:
    """D1: then refusals leave no record; a thief of an old key uses up none of the owner's room."""
    world.settings = Settings(stranger=Bounds(documents=2, bytes=1 << 20))
    world.stop()
    world.start()
    client = world.clients["alice"]
    client.register_identity(world.alice.signed_card())
    client.rotate(world.alice.rotate(world.now)[1])
    for _ in range(5):
        assert refused(client.rotate, world.alice.rotate(world.now)[1]).code == "key.fork"
    assert len(rejections(world)) == 2
    assert world.manager._core.state.kept[world.alice.key_id] == 2
