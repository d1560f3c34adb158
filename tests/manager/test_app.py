"""The wire: bounds, tokens, error forms, and what everybody may read."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from managerworld import World
from svetovid.crypto import Identity, b64encode, digest, sign
from svetovid.errors import SvetovidError
from svetovid.manager import app as app_module
from svetovid.protocol import RequestToken

D = "sha256:" + "%064d"


def call(world: World, method: str, path: str, **more: Any) -> httpx.Response:
    with httpx.Client(transport=world.transport, base_url="https://m") as client:
        client._transport.close = lambda: None  # type: ignore[method-assign]
        return client.request(method, path, **more)


def code(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    body = response.json()
    assert set(body) == {"error", "exit_code", "reasons"}
    return str(body["error"])


def test_a_body_over_the_bound(world: World) -> None:
    """D1: by its header, and by what comes whatever the header says."""
    big = b"x" * ((16 << 20) + 1)
    response = call(world, "POST", "/v1/jobs", content=big)
    assert (response.status_code, code(response)) == (413, "body.size")
    lying = call(world, "POST", "/v1/jobs", content=iter([big]))
    assert (lying.status_code, code(lying)) == (413, "body.size")
    odd = call(world, "POST", "/v1/jobs", content=b"", headers={"content-length": "x"})
    assert code(odd) == "body.size"
    bomb = call(world, "POST", "/v1/jobs", content=b"x", headers={"content-encoding": "gzip"})
    assert code(bomb) == "body.encoding"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "json.syntax"),
        (b"{", "json.syntax"),
        (b"[" * 100, "json.depth"),
        (b'{"a":1,"a":2}', "json.duplicate_key"),
        (b"NaN", "json.number"),
        (b"{}", "document.invalid"),
    ],
)
def test_bodies_that_are_nothing(world: World, body: bytes, expected: str) -> None:
    for path in world.manager.changes:
        response = call(world, "POST", path, content=body)
        assert (response.status_code, code(response)) == (400, expected)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=200), st.data())
def test_whatever_comes_is_our_error(world: World, body: bytes, data: Any) -> None:
    path = data.draw(st.sampled_from(sorted(world.manager.changes)))
    with pytest.raises(SvetovidError):
        world.manager.changes[path](body)


def test_unknown_paths_and_methods(world: World) -> None:
    assert code(call(world, "GET", "/")) == "request.path"
    assert code(call(world, "DELETE", "/v1/jobs")) == "request.path"
    for size in ("-1", "1" * 14, b"\xb2"):
        response = call(world, "GET", "/v1/status", headers={"svetovid-seen": size})
        assert code(response) == "request.seen"
    response = call(world, "GET", "/v1/status", headers={"svetovid-seen": "99"})
    assert (response.status_code, code(response)) == (403, "store.rollback")


def authorised(world: World, who: Any, verb: str, target: str, /, **changes: Any) -> dict[str, str]:
    fields = {
        "manager": world.identity.key_id,
        "method": verb,
        "path": target,
        "body": digest(b""),
        "epoch": world.manager.epoch,
        "issued_at": world.now,
        "nonce": b64encode(Identity.generate("n").key_id.encode()[:24]),
    }
    token = sign(RequestToken(**(fields | changes)), who)
    return {"Authorization": "Svetovid " + b64encode(token.canonical())}


def test_reading_takes_a_token_of_ones_own(world: World) -> None:
    """C1, C2, C3: none, unreadable, another's, for something else, old, and used."""
    world.register()
    path = "/v1/records?first=0&limit=5"

    def get(headers: dict[str, str]) -> tuple[int, str]:
        response = call(world, "GET", path, headers=headers)
        return response.status_code, "" if response.status_code == 200 else code(response)

    def token(**changes: Any) -> dict[str, str]:
        return authorised(world, world.alice, "GET", path, **changes)

    assert get({}) == (401, "token.missing")
    assert get({"Authorization": "Bearer x"}) == (401, "token.missing")
    assert get({"Authorization": "Svetovid " + "A" * 40_000}) == (401, "token.missing")
    assert get({"Authorization": "Svetovid !"}) == (401, "token.form")
    assert get({"Authorization": "Svetovid " + b64encode(b"{}")}) == (401, "token.form")
    assert get(token(path="/v1/records")) == (401, "token.scope")
    assert get(token(method="POST")) == (401, "token.scope")
    assert get(token(body=D % 1)) == (401, "token.scope")
    assert get(token(manager=world.bob.key_id)) == (401, "token.scope")
    assert get(token(issued_at=world.now - 500)) == (401, "token.expired")
    assert get(token(issued_at=world.now + 500)) == (401, "token.expired")
    assert get(token(epoch="")) == (401, "token.epoch")
    stranger = authorised(world, Identity.generate("x"), "GET", path)
    assert get(stranger) == (403, "identity.unknown")
    once = token()
    assert get(once) == (200, "")
    assert get(once) == (401, "token.used")
    fields = RequestToken(
        manager=world.identity.key_id,
        method="GET",
        path=path,
        body=digest(b""),
        epoch=world.manager.epoch,
        issued_at=world.now,
        nonce="",
    )
    both = sign(fields, world.alice, world.bob)
    header = {"Authorization": "Svetovid " + b64encode(both.canonical())}
    assert get(header) == (401, "token.form")
    forged = json.loads(sign(fields, world.alice).canonical())
    forged["signatures"][0]["keyid"] = world.bob.key_id
    header = {"Authorization": "Svetovid " + b64encode(json.dumps(forged).encode())}
    assert get(header) == (403, "signature.invalid")


def test_a_token_is_worth_nothing_after_a_restart_or_at_a_replica(world: World) -> None:
    """C3: whatever its date. A clock that is ahead makes it look made after the restart."""
    world.register()
    path = "/v1/records?first=0&limit=5"
    ahead = authorised(world, world.alice, "GET", path, issued_at=world.now + 100)
    assert call(world, "GET", path, headers=ahead).status_code == 200
    header = ahead["Authorization"]
    replica = world.open()
    with pytest.raises(SvetovidError, match=re.escape("token.epoch")):
        replica.caller(header, "GET", path, b"")
    replica.close()
    world.stop()
    world.now += 5
    world.start()
    response = call(world, "GET", path, headers=ahead)
    assert (response.status_code, code(response)) == (401, "token.epoch")
    assert world.clients["alice"].records().size == 4  # a client signs again for the new process


def test_nonces_are_kept_within_bounds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """D1: and whoever fills its own room leaves everybody else's as it is."""
    from svetovid.manager import access

    monkeypatch.setattr(access, "_MAX_NONCES", 2)
    world.register()
    client = world.clients["alice"]
    client.records()
    client.records()
    with pytest.raises(SvetovidError, match=re.escape("token.limit")):
        client.records()
    world.clients["bob"].records()
    world.now += 200
    client.records()


def test_what_the_parties_may_read(world: World) -> None:
    job = world.ready()
    host = world.host()
    outsider = Identity.generate("eve")
    eve = world.client(outsider)
    eve.register_identity(outsider.signed_card())
    alice = world.clients["alice"]
    mine = world.policies["alice"].digest()
    assert alice.document(mine).payload_digest() == mine
    assert alice.policy(world.alice.key_id, "main").payload_digest() == mine
    assert host.client.job(job).state == "ready"
    assert eve.document(world.references.digest()).payload_digest() == world.references.digest()
    for read, args in (
        (eve.policy, (world.alice.key_id, "main")),
        (eve.policy, (world.alice.key_id, "other")),
        (eve.document, (mine,)),
        (eve.document, (D % 1,)),
        (eve.job, (job,)),
        (eve.job, (D % 1,)),
        (eve.proof, (0,)),
        (eve.proof, (10_000,)),
    ):
        with pytest.raises(SvetovidError, match=re.escape("read.denied")):
            read(*args)
    with pytest.raises(SvetovidError, match=re.escape("record.limit")):
        eve.records(0, 5000)
    page = alice.records(3, 2)
    assert [r.index for r in page.records] == [3, 4]
    proof = alice.proof(0)
    assert proof.entry.kind == "identity"


def raw_get(world: World, who: Any, path: str) -> httpx.Response:
    return call(world, "GET", path, headers=authorised(world, who, "GET", path))


def test_names_in_paths_are_taken_as_they_are(world: World) -> None:
    """K1: no other spelling of a name finds anything."""
    world.ready()
    owner = world.alice.key_id
    assert raw_get(world, world.alice, f"/v1/policies/{owner}/main").status_code == 200
    for name in ("Main", "main%2F", "%6dain%00", "..%2Fmain", "ma%69n%20"):
        response = raw_get(world, world.alice, f"/v1/policies/{owner}/{name}")
        assert code(response) in ("read.denied", "request.path")
    for first in ("x", "1" * 14):
        found = raw_get(world, world.alice, f"/v1/records?first={first}")
        assert code(found) == "request.query"
    assert code(raw_get(world, world.alice, "/v1/proofs/x")) == "request.path"
    assert code(raw_get(world, world.alice, "/v1/hosts/x")) == "read.denied"


def test_the_record_of_a_host(world: World) -> None:
    world.register()
    host = world.host()
    response = raw_get(world, world.alice, f"/v1/hosts/{host.host_id}")
    assert response.status_code == 200


def test_a_defect_shows_neither_trace_nor_text(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """K9."""

    def broken() -> Any:
        raise ValueError("canary in an exception")

    monkeypatch.setattr(type(world.manager.reading), "status", lambda _self: broken())
    with caplog.at_level(logging.DEBUG):
        response = call(world, "GET", "/v1/status")
    assert (response.status_code, code(response)) == (500, "server.fault")
    assert "canary" not in response.text + caplog.text


def test_no_secret_in_logs_answers_or_the_store(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """K9: a canary search over what the manager writes and says."""
    with caplog.at_level(logging.DEBUG):
        job = world.ready()
        host = world.host()
        release = host.release(job)
        page = world.clients["alice"].records(0, 1000)
    haystack = b"".join(p.read_bytes() for p in world.folder.iterdir())
    haystack += caplog.text.encode() + page.canonical() + release.canonical()
    haystack += repr(vars(world.manager._core)).encode()
    for key in world.keys.values():
        raw = key.reveal()
        for form in (raw, raw.hex().encode(), b64encode(raw).encode()):
            assert form not in haystack


def test_a_slow_body(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """D1: slow peers are sent away."""
    monkeypatch.setattr(app_module, "BODY_SECONDS", 0.05)
    sent: list[Any] = []

    async def go() -> None:
        async def receive() -> Any:
            await asyncio.sleep(1)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/jobs",
            "raw_path": b"/v1/jobs",
            "query_string": b"",
            "headers": [],
        }
        await world.app(scope, receive, send)

    asyncio.run(go())
    assert sent[0]["status"] == 408
    assert b"body.slow" in sent[1]["body"]


def test_a_body_cut_off(world: World) -> None:
    sent: list[Any] = []

    async def go() -> None:
        async def receive() -> Any:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/jobs",
            "raw_path": b"/v1/jobs",
            "query_string": b"",
            "headers": [],
        }
        await world.app(scope, receive, send)

    asyncio.run(go())
    assert b"body.cut" in sent[1]["body"]


def test_d1_large_bodies_share_one_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """D1: many connections with a large body each do not take all memory; small ones go on."""
    monkeypatch.setattr(app_module, "SMALL_BYTES", 100)
    monkeypatch.setattr(app_module, "MAX_BODIES_BYTES", 1000)
    app = app_module.make_app(world.manager)
    more = asyncio.Event()

    async def post(*chunks: bytes, wait: bool = False) -> tuple[int, bytes]:
        left, sent = list(chunks), []

        async def receive() -> Any:
            if not left and wait:
                await more.wait()
            body = left.pop(0) if left else b""
            return {"type": "http.request", "body": body, "more_body": bool(left) or body != b""}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/jobs", "headers": []}
        await app({**scope, "raw_path": b"/v1/jobs", "query_string": b""}, receive, send)
        return sent[0]["status"], sent[1]["body"]

    async def go() -> None:
        slow = [asyncio.create_task(post(b"x" * 250, wait=True)) for _ in range(2)]
        await asyncio.sleep(0.05)
        status, body = await post(b"x" * 250)
        assert (status, b"body.busy" in body) == (429, True)
        assert b"body.busy" not in (await post(b"x" * 90))[1]
        more.set()
        for task in slow:
            assert b"body.busy" not in (await task)[1]
        assert b"body.busy" not in (await post(b"x" * 250))[1]  # what they took was given back

    asyncio.run(go())
