"""Documents as large as they may be: whatever is valid is taken or refused, and never a defect."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from managerworld import World, fake_manifest
from svetovid.assets.manifest import FieldSpec, Manifest, RecordSchema
from svetovid.crypto import Document, Identity, b64encode, sign
from svetovid.errors import InputError, LimitError, ParseError, SvetovidError
from svetovid.evidence.documents import ReferenceValues
from svetovid.manager import app as app_module
from svetovid.manager import reading as reading_module
from svetovid.policy import lint
from svetovid.policy.documents import (
    MAX_CONDITIONS,
    Condition,
    Consent,
    Export,
    Grant,
    Import,
    Job,
    JobAsset,
    Limits,
    Pin,
    Policy,
)
from svetovid.policy.outputs import MetricSpec, OutputSpec, Recipient, TensorSpec
from svetovid.protocol import KeyDeposit
from svetovid.transparency import LogEntry
from svetovid.transparency.entries import MAX_PARTIES


def some(kind: str, n: int) -> list[str]:
    """``n`` digests or keys, the same every time."""
    return [f"{kind}:" + hashlib.sha256(f"{kind}{i}".encode()).hexdigest() for i in range(n)]


Size = Callable[[], float]


def always(size: float) -> Size:
    return lambda: size


def policy(world: World, size: Size, **changes: Any) -> Policy:
    """Every list as long as it may be, times ``size``."""

    def many(most: int) -> int:
        return max(1, int(most * size()))

    exported = many(256)
    assets, keys = some("sha256", many(256)), some("ed25519", exported)
    conditions = tuple(
        Condition(name=f"c{i}", cel=f"job.seed != {i}", because="x" * 512)
        for i in range(many(MAX_CONDITIONS // 256))
    )

    def grant(asset: str, cls: Any = Grant, **more: Any) -> Any:
        return cls(
            asset=asset,
            use="data",
            code=tuple(some("sha256", 2)),
            modes=("attested",),
            recipients=tuple(some("ed25519", 2)),
            limits=Limits(runs=1),
            **more,
        )

    grants = [grant(a, conditions=conditions) for a in assets]
    fields: dict[str, Any] = {
        "version": "svetovid.policy/v1",
        "name": "main",
        "owner": world.alice.key_id,
        "sequence": 1,
        "manager": world.me,
        "profile": "production",
        "anchors": Pin(document=assets[0]),
        "references": tuple(Pin(document=a) for a in assets[: many(16)]),
        "operators": tuple(keys[: many(64)]),
        "hosts": tuple(some("sha256", many(1024))),
        "grants": tuple(grants),
        "exports": tuple(grant(assets[0], Export, to=k) for k in keys),
        "imports": tuple(Import(policy=assets[0], asset=a) for a in assets),
    }
    return Policy(**(fields | changes))


def job(world: World, size: Size, people: list[Identity]) -> Job:
    def many(most: int) -> int:
        return max(1, int(most * size()))

    text = "x" * 512
    assets = {
        f"slot{i}": JobAsset(manifest=d, owner=k, manager=world.me, use="data" if i else "code")
        for i, (d, k) in enumerate(zip(some("sha256", 64), some("ed25519", many(64)), strict=False))
    }
    tensors = {f"t{i}": TensorSpec(dtype="float32", shape=(2**31,) * 8) for i in range(many(500))}
    fields: dict[str, Any] = {
        "version": "svetovid.job/v1",
        "name": "main",
        "proposer": world.carol.key_id,
        "nonce": b64encode(secrets.token_bytes(16)),
        "mode": "attested",
        "assets": assets,
        "entry": "train.py",
        "arguments": (text,) * many(64),
        "parameters": {f"p{i}": text for i in range(many(128))},
        "environment": some("sha256", 1)[0],
        "devices": tuple(f"/dev/nvidia{i}" for i in range(many(64))),
        "outputs": {f"o{i}": OutputSpec(tensors=tensors) for i in range(many(16))},
        "metrics": {f"m{i}": MetricSpec(type="float", max_count=1) for i in range(many(64))},
        "recipients": tuple(Recipient(card=p.signed_card()) for p in people[: many(16)]),
    }
    return Job(**fields)


def manifest(world: World, size: float) -> Manifest:
    plain = fake_manifest("dataset", world.bob.key_id, world.me, "x")
    fields = tuple(
        FieldSpec(name=f"f{i}" + "x" * 60, dtype="bool", shape=(1,) * 8)
        for i in range(max(1, int(256 * size)))
    )
    schema = RecordSchema(fields=fields, records=0)
    return plain.model_copy(update={"record_schema": schema, "size": 0})


def values(size: float) -> ReferenceValues:
    paths = max(1, int(14_000 * size))
    return ReferenceValues(
        product="large",
        version=1,
        files={f"/opt/{'x' * 100}/{i:08d}": (d,) for i, d in enumerate(some("sha256", paths))},
    )


PEOPLE = [Identity.generate("p") for _ in range(16)]


def send(world: World, path: str, document: Document, who: Identity) -> int:
    """The status: never that of a defect."""
    with httpx.Client(transport=world.transport, base_url="https://m") as client:
        client._transport.close = lambda: None  # type: ignore[method-assign]
        response = client.post(path, content=sign(document, who).canonical())
    assert response.status_code != 500, response.text
    return response.status_code


def read_all(world: World) -> None:
    """Everybody reads everything it may."""
    for client in world.clients.values():
        first = 0
        while True:
            page = client.records(first, 1000)
            for record in page.records:
                if record.entry is not None:
                    client.proof(record.index)
                    if "document" in record.entry.body:
                        client.document(str(record.entry.body["document"]))
            first = page.records[-1].index + 1 if page.records else page.size
            if first >= page.size:
                break


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_valid_document_is_a_defect(world: World, data: Any) -> None:
    """Taken, and then readable by its parties; or refused with a reason. Which lists are long is
    drawn, each for itself."""

    def size() -> float:
        return float(data.draw(st.sampled_from([0.01, 0.3, 1.0])))

    through(world, size)


def test_everything_as_large_as_it_may_be(world: World) -> None:
    """And all of it is there again after a restart."""
    through(world, always(1.0))
    world.clients["bob"].publish(sign(values(1.0), world.bob))
    world.stop()
    world.start()
    read_all(world)


def through(world: World, size: Size) -> None:
    world.register()
    before = world.manager._core.state.policies.get((world.alice.key_id, "main"))
    held = None if before is None else world.manager._core.store.document(before, Policy)
    more = {} if held is None else {"sequence": held.sequence + 1, "predecessor": held.digest()}
    said = policy(world, size, **more)
    assert send(world, "/v1/policies", said, world.alice) == 200
    proposed = job(world, size, PEOPLE)
    assert send(world, "/v1/jobs", proposed, world.carol) == 200
    name = proposed.digest()
    assert world.clients["carol"].job(name).state == "waiting"
    consent = Consent(
        job=name,
        policy=said.digest(),
        owner=world.alice.key_id,
        slots=tuple(proposed.assets),
        issued_at=world.now,
    )
    assert send(world, "/v1/consents", consent, world.alice) == 403
    content = manifest(world, size()).to_json()
    deposit = KeyDeposit(manifest=content, sealed="", owner=world.bob.key_id, manager=world.me)
    assert send(world, "/v1/assets", deposit, world.bob) in (400, 403)
    read_all(world)


def test_whoever_has_had_many_keys_is_a_party_like_others(world: World) -> None:
    """Every key of a history may read what concerns it."""
    world.register()
    now = world.alice
    for _ in range(32):
        now, rotation = now.rotate(world.now)
        world.client(now).rotate(rotation)
    client = world.client(now)
    client.publish(sign(values(0.01), world.bob))
    with pytest.raises(InputError, match=r"key\.rotations"):
        client.rotate(now.rotate(world.now)[1])
    client.revoke(now.revoke(now.key_id, "lost", world.now))
    parties = [len(e.entry.parties) for e in world.clients["bob"].records().records if e.entry]
    assert max(parties) == 34


def test_an_entry_has_room_for_all_parties() -> None:
    """The longest lists that a document may have, and those of a job's host and importers."""
    policy_parties = 1 + 256
    job_parties = 1 + 64 + 16 + 32 + 2
    assert max(policy_parties, job_parties) <= MAX_PARTIES
    LogEntry(kind="policy", at=0, parties=tuple(some("ed25519", MAX_PARTIES)), body={})


def test_a_page_of_others_large_documents_ends_early(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1: whoever names somebody as a party cannot make its records unreadable."""
    monkeypatch.setattr(reading_module, "MAX_PAGE_BYTES", 1)
    world.register()
    page = world.clients["alice"].records(0, 1000)
    assert len(page.records) == 1
    assert page.size == 4
    read_all(world)


def test_as_many_reasons_as_a_client_reads(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "MAX_REASONS", 3)
    world.register()
    bad = policy(
        world, always(0.1), operators=(), hosts=(), profile="production", accepts=("launcher",)
    )
    wide = tuple(g.model_copy(update={"recipients": ()}) for g in bad.grants)
    with pytest.raises(SvetovidError) as e:
        world.clients["alice"].put_policy(
            sign(bad.model_copy(update={"grants": wide}), world.alice)
        )
    assert len(e.value.reasons) == 3


def test_what_is_too_long_to_be_read_is_not_signed(world: World) -> None:
    huge = values(1.8)
    with pytest.raises(LimitError, match=r"json\.size"):
        sign(huge, world.alice)
    monstrous = type("Any", (ReferenceValues,), {"MAX_BYTES": 1 << 30})(**dict(huge))
    world.register()
    with pytest.raises(InputError, match=r"json\.size"):
        world.clients["alice"].publish(sign(monstrous, world.alice))


def test_conditions_are_bounded_over_a_whole_policy(world: World) -> None:
    said = policy(world, always(1.0))
    grants = [g.to_json() for g in said.grants]
    grants[0]["conditions"] += grants[0]["conditions"]
    assert sum(len(g["conditions"]) for g in grants) > 0
    with pytest.raises(ParseError, match=r"document\.invalid"):
        Policy.from_json(said.to_json() | {"grants": grants})


def test_a_manager_tries_only_what_can_be_an_error(world: World) -> None:
    """What is never true of any value is an error; what no value tried makes true, a warning."""
    said = policy(world, always(0.01))

    def found(cel: str, **more: Any) -> set[tuple[str, str]]:
        grant = said.grants[0].model_copy(update={"conditions": (Condition(name="c", cel=cel),)})
        changed = said.model_copy(update={"grants": (grant,)})
        return {(f.severity, f.code) for f in lint(changed, **more)}

    never = ("error", "lint.never")
    assert never in found("claims.simulated", warnings=False)
    maybe = ("warning", "lint.never")
    assert maybe in found("claims.host == 'x' && claims.host == 'y'")
    assert maybe not in found("claims.host == 'x' && claims.host == 'y'", warnings=False)
