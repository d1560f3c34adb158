"""What a client believes, and what it does not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softtpm import SoftCa
from svetovid.crypto import Document, Envelope, Identity, b64encode, canonical, digest, sign
from svetovid.crypto.identity import Card, Revocation, Rotation
from svetovid.errors import LimitError, RefusalError, SvetovidError
from svetovid.protocol import (
    Answer,
    EvidenceRequest,
    ManagerClient,
    ManagerPin,
    ProofRequest,
    RequestToken,
    SeenFile,
    SeenMemory,
    hosts,
    messages,
    request_digest,
    wire,
)
from svetovid.protocol.wire import pinned_context
from svetovid.transparency.checkpoint import Checkpoint
from svetovid.transparency.merkle import MerkleTree, leaf_hash

ME = Identity.generate("me")
MANAGER = Identity.generate("manager")
PIN = ManagerPin(
    card=MANAGER.signed_card(),
    tls_certificate=b64encode(SoftCa("m").der),
    url="https://manager.test/",
)
STATUS = {
    "manager": MANAGER.key_id,
    "name": "manager",
    "version": "1",
    "evidence": "none",
    "root_key": "passphrase",
    "store_rollback": "not detected",
    "entries": 0,
}


class FakeManager(httpx.BaseTransport):
    """Answers as a manager would; a test changes one thing about it."""

    def __init__(self) -> None:
        self.tree = MerkleTree()
        self.signer = MANAGER
        self.checkpoint_signer = MANAGER
        self.log = MANAGER.key_id
        self.changes: dict[str, Any] = {}
        self.status = 200
        self.raw: bytes | None = None
        self.headers: dict[str, str] = {}
        self.requests: list[httpx.Request] = []
        self.error: Exception | None = None

    def grow(self, n: int, salt: bytes = b"") -> None:
        for i in range(n):
            self.tree.append(leaf_hash(salt + b"%d" % i))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        body = request.read()
        seen = int(request.headers["svetovid-seen"])
        checkpoint = Checkpoint(
            log=self.log, size=self.tree.size, root=self.tree.root(), issued_at=1
        )
        fields: dict[str, Any] = {
            "request": request_digest(
                request.method,
                request.url.raw_path.decode(),
                body,
                request.headers.get("authorization", ""),
            ),
            "issued_at": 1,
            "body": STATUS,
            "checkpoint": sign(checkpoint, self.checkpoint_signer).to_json(),
            "seen": seen,
            "consistency": list(self.tree.consistency(seen)) if seen <= self.tree.size else [],
        }
        answer = sign(Answer.from_json(fields | self.changes), self.signer).canonical()
        data = answer if self.raw is None else self.raw
        stream = httpx.ByteStream(data)
        return httpx.Response(self.status, headers=self.headers, stream=stream)


@pytest.fixture
def manager() -> FakeManager:
    return FakeManager()


def client(manager: FakeManager, **more: Any) -> ManagerClient:
    return ManagerClient(PIN, ME, transport=manager, clock=lambda: 1_800_000_000, **more)


def refused(call: Any) -> SvetovidError:
    with pytest.raises(SvetovidError) as e:
        call()
    return e.value


def test_a_good_answer_moves_the_checkpoint_forward(manager: FakeManager) -> None:
    c = client(manager)
    assert c.channel == digest(SoftCaDer())
    assert c.checkpoint is None
    for n in (0, 1, 6, 13):
        manager.grow(n)
        c.status()
        assert c.checkpoint is not None
        assert c.checkpoint.peek(Checkpoint).size == manager.tree.size


def SoftCaDer() -> bytes:
    from svetovid.crypto import b64decode

    return b64decode(PIN.tls_certificate)


def test_an_older_log(manager: FakeManager) -> None:
    """T15."""
    c = client(manager)
    manager.grow(5)
    c.status()
    manager.tree = MerkleTree()
    manager.grow(4)
    assert refused(c.status).code == "store.rollback"
    assert c.checkpoint is not None
    assert c.checkpoint.peek(Checkpoint).size == 5


@pytest.mark.parametrize("size", [5, 9])
def test_a_forked_log(manager: FakeManager, size: int) -> None:
    """T15, A2: the same size, or grown another way."""
    c = client(manager)
    manager.grow(5)
    c.status()
    manager.tree = MerkleTree()
    manager.grow(size, b"other")
    assert refused(c.status).code == "log.fork"


def test_answers_of_somebody_else(manager: FakeManager) -> None:
    """C8: only the pinned key, only for this request, only its own log."""
    c = client(manager)
    manager.signer = Identity.generate("x")
    assert refused(c.status).code == "signature.missing"
    manager.signer = MANAGER
    manager.checkpoint_signer = Identity.generate("x")
    assert refused(c.status).code == "signature.missing"
    manager.checkpoint_signer = MANAGER
    manager.log = ME.key_id
    assert refused(c.status).code == "log.fork"
    manager.log = MANAGER.key_id
    manager.changes = {"request": "sha256:" + "0" * 64}
    assert refused(c.status).code == "answer.request"
    assert c.checkpoint is None


def test_an_answer_to_the_same_question_asked_before(manager: FakeManager) -> None:
    """The nonce in a token is part of what is answered."""
    c = client(manager)
    manager.changes = {"body": {"first": 0, "size": 0, "records": []}}
    c.records()
    first = manager.requests[-1]
    manager.changes["request"] = request_digest(
        "GET", first.url.raw_path.decode(), b"", first.headers["authorization"]
    )
    assert refused(c.records).code == "answer.request"


def test_tokens_say_what_they_are_for(manager: FakeManager) -> None:
    c = client(manager)
    manager.changes = {"body": {"first": 0, "size": 0, "records": []}}
    c.records(3, 7)
    header = manager.requests[0].headers["authorization"]
    from svetovid.crypto import b64decode, load_json

    envelope = Envelope.from_json(load_json(b64decode(header.removeprefix("Svetovid "))))
    token = envelope.open(RequestToken, by=ME.key_id)
    assert token.path == "/v1/records?first=3&limit=7"
    assert token.manager == MANAGER.key_id
    assert token.body == digest(b"")


def test_error_answers_become_our_errors(manager: FakeManager) -> None:
    manager.status = 403
    error = RefusalError("consent.missing", expected="a", observed="b", next_step="c")
    manager.raw = canonical(error.to_dict())
    e = refused(client(manager).status)
    assert (e.code, e.reason.next_step, type(e)) == ("consent.missing", "c", RefusalError)
    for raw in (b"", b"[]", b"<html>", b"\xff"):
        manager.raw = raw
        assert refused(client(manager).status).code == "transport.answer"


def test_answers_are_bounded(manager: FakeManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """D1: in size, and never decoded by anything but our parser."""
    monkeypatch.setattr(wire, "MAX_ANSWER_BYTES", 1000)
    assert refused(client(manager).status).code == "transport.answer_size"
    monkeypatch.setattr(wire, "_MAX_ERROR_BYTES", 10)
    manager.status = 500
    assert refused(client(manager).status).code == "transport.answer_size"
    manager.headers = {"content-encoding": "gzip"}
    assert refused(client(manager).status).code == "transport.encoding"
    assert manager.requests[-1].headers["accept-encoding"] == "identity"


def test_a_manager_that_is_not_there(manager: FakeManager) -> None:
    manager.error = httpx.ReadTimeout("slow")
    assert refused(client(manager).status).code == "transport.timeout"
    manager.error = httpx.ConnectError("refused")
    assert refused(client(manager).status).code == "transport.unreachable"
    manager.error = None
    manager.status, manager.headers = 302, {"location": "https://evil.test/"}
    manager.raw = b""
    assert refused(client(manager).status).code == "transport.answer"
    assert len(manager.requests) == 3


def test_a_pin_that_is_no_certificate() -> None:
    with pytest.raises(SvetovidError, match=re.escape("channel.certificate")):
        pinned_context(b"not a certificate")


def test_a_pin_names_an_https_address_and_a_self_signed_card() -> None:
    """T1."""
    for url in ("http://m", "https://", "https://a b", "file:///etc/passwd"):
        with pytest.raises(SvetovidError, match=re.escape("document.invalid")):
            ManagerPin.from_json({**PIN.to_json(), "url": url})
    forged = sign(ME.card, MANAGER)
    with pytest.raises(SvetovidError, match=r"signature\."):
        PIN.model_copy(update={"card": forged}).open()


def test_the_newest_checkpoint_is_kept_in_a_file(manager: FakeManager, tmp_path: Path) -> None:
    path = tmp_path / "seen.json"
    manager.grow(3)
    with client(manager, seen=SeenFile(path)) as c:
        c.status()
    assert path.stat().st_mode & 0o777 == 0o600
    manager.tree = MerkleTree()
    manager.grow(2)
    assert refused(client(manager, seen=SeenFile(path)).status).code == "store.rollback"
    path.write_bytes(b"{")
    assert refused(client(manager, seen=SeenFile(path)).status).code == "json.syntax"
    path.unlink()
    path.mkdir()
    assert refused(client(manager, seen=SeenFile(path)).status).code == "seen.file"
    nowhere = SeenFile(tmp_path / "no" / "seen.json")
    assert refused(client(manager, seen=nowhere).status).code == "seen.file"
    checkpoint = sign(Checkpoint(log=ME.key_id, size=0, root="sha256:" + "0" * 64, issued_at=0), ME)
    assert refused(lambda: nowhere.save(checkpoint)).code == "file.write"
    memory = SeenMemory()
    memory.save(checkpoint)
    assert memory.load() == checkpoint


KINDS = [
    k
    for module in (hosts, messages)
    for k in vars(module).values()
    if isinstance(k, type) and issubclass(k, Document) and k.__module__ == module.__name__
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.binary(max_size=100), JSON)
def test_any_message_from_any_bytes(kind: type[Document], raw: bytes, value: Any) -> None:
    for data in (raw, json.dumps(value).encode()):
        try:
            kind.parse(data)
        except SvetovidError:
            continue


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_pin_with_any_field_changed(data: Any) -> None:
    fields = PIN.to_json()
    name = data.draw(st.sampled_from(sorted(fields)))
    changed = {**fields, name: data.draw(JSON)}
    try:
        ManagerPin.parse(json.dumps(changed).encode()).open()
    except SvetovidError:
        return
    assert name == "url" or changed == fields


@pytest.mark.parametrize(
    "kind",
    [
        *(Envelope, EvidenceRequest, ProofRequest, messages.RequestToken, hosts.EnrolRequest),
        *(messages.IdentityRegistration, hosts.ChallengeRequest, Card, Rotation, Revocation),
    ],
)
def test_d1_what_strangers_send_has_few_members(kind: type[Envelope]) -> None:
    """D1: anybody may send these; 4 MiB of unknown members took half a gigabyte to refuse."""
    data = b"{" + b",".join(b'"k%d":0' % i for i in range(1100)) + b"}"
    with pytest.raises(LimitError) as e:
        kind.parse(data)
    assert e.value.code == "document.members"
