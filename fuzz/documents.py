"""Parsers of documents: JSON, envelopes, policies, messages, receipts."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from fuzz.evidence import good, joined, split
from fuzz.targets import ROOT, Target
from svetovid.assets import Manifest
from svetovid.crypto import Envelope, digest
from svetovid.crypto.canonical import Document, b64decode, canonical, load_json
from svetovid.crypto.identity import Card, Revocation, Rotation
from svetovid.errors import SvetovidError, from_dict
from svetovid.evidence import ReferenceValues, TrustAnchors, documents
from svetovid.evidence.recorded import read_authorities
from svetovid.policy import Consent, Job, Policy
from svetovid.policy.cel_subset import parse
from svetovid.policy.conditions import evaluate
from svetovid.policy.yaml_input import load_job, load_policy
from svetovid.protocol import messages, output, records
from svetovid.transparency import Checkpoint, LogProof, ReceiptBundle, verify_receipt
from svetovid.transparency.merkle import check_consistency, check_inclusion
from svetovid.transparency.receipt import Receipt

NOW = 1_800_000_000
_QUIET = contextlib.suppress(SvetovidError)


def _kinds(module: Any) -> list[type[Document]]:
    named = (getattr(module, name) for name in sorted(vars(module)))
    return [k for k in named if isinstance(k, type) and issubclass(k, Document)]


_OWN = (Card, Rotation, Revocation, Envelope, Policy, Job, Consent, Manifest, Checkpoint, LogProof)
KINDS = {k.__name__: k for m in (documents, messages, output, records) for k in _kinds(m)}
KINDS |= {k.__name__: k for k in (*_OWN, ReferenceValues, TrustAnchors, ReceiptBundle)}
MESSAGES = [KINDS[name] for name in sorted(KINDS)]


def _json(data: bytes) -> None:
    value = load_json(data)
    assert load_json(canonical(value)) == value
    if isinstance(value, str):
        b64decode(value)
    from_dict(value)


def _documents(data: bytes) -> None:
    """As every kind of document that anybody sends."""
    value = load_json(data)
    for kind in MESSAGES:
        with _QUIET:
            kind.from_json(value).canonical()


def _envelope(data: bytes) -> None:
    envelope = Envelope.parse(data)
    signers = envelope.signed_by()
    for kind in (Card, Consent, Receipt, ReferenceValues):
        with _QUIET:
            envelope.open(kind, by=signers)
    envelope.payload_digest()


@cache
def _story() -> dict[str, Any]:
    from transparency.receipt_world import Story

    found: dict[str, Any] = Story().bundle().to_json()
    return found


def _nested(value: Any) -> Iterator[dict[str, Any]]:
    """Every object within, and within what is signed."""
    if isinstance(value, dict):
        yield value
        if "payload" in value:
            yield from _nested(json.loads(b64decode(value["payload"])))
        for inner in value.values():
            yield from _nested(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _nested(inner)


def _objects() -> Iterable[bytes]:
    found = {canonical(v) for v in _nested(_story())}
    found |= {good()["references.json"], canonical(read_manifest()), _masked_job()}
    return [d for d in sorted(found) if len(d) < 20_000]


def _masked_job() -> bytes:
    from maskedjob import in_mode
    from policy.policy_world import job

    return job(**in_mode("masked")).canonical()


def read_manifest() -> dict[str, Any]:
    vector = json.loads((ROOT / "tests" / "vectors" / "assets" / "container.json").read_text())
    found: dict[str, Any] = vector["manifest"]
    return found


def _envelopes() -> Iterable[bytes]:
    return {canonical(v) for v in _nested(_story()) if "payload" in v}


def _yaml(data: bytes) -> None:
    names = {"ann": "ed25519:" + "1" * 64, "model": "sha256:" + "2" * 64}
    for load in (load_policy, load_job):
        with _QUIET:
            load(data, resolve=names, defaults={"owner": names["ann"], "sequence": 1})


_POLICY = b"""\
version: svetovid.policy/v1
name: ann-policy
profile: test
accepts: [simulated, launcher]
anchors: {document: $model}
references: [{document: $model}]
operators: [$ann]
grants:
  - {asset: $model, use: data, code: [$model], modes: [attested], recipients: [$ann],
     limits: {runs: 2, output_bytes: 2000000000}}
conditions:
  - {name: small, cel: "claims.affirmed && job.seed < 3", because: it is}
"""
_JOB = b"""\
version: svetovid.job/v1
name: little
mode: attested
assets:
  data: {manifest: $model, owner: $ann, manager: $ann, use: data}
entry: train.py
environment: $model
outputs: {model: {tensors: {w: {dtype: float32, shape: [1]}}}}
metrics: {loss: {type: float, max_count: 3}}
recipients: []
"""

_OFFLOAD = b"""\
mode: masked
offload:
  protocol: coded
  workers:
    - {certificate: $model, operator: Ada Ltd, url: "tls://ada.example:7401"}
    - {certificate: $model, operator: Bell Labs, url: "tls://[::1]:7402"}
    - {certificate: $model, operator: Cray & Sons, url: "tls://10.0.0.1:7403"}
  products: 1000
  numbers: 1000000
"""


def _texts() -> Iterable[bytes]:
    yield from (_POLICY, _JOB, _JOB.replace(b"mode: attested\n", _OFFLOAD))
    yield b"a: &a [*a, *a]\nb: !!python/object:os.system x\nc: |\n  text\nd: 0o17\n"


_CLAIMS = {"affirmed": True, "kind": "tpm", "log_entries": 5, "measurement": "kernel"}
_VIEW = {"seed": 4, "mode": "attested", "arguments": ["a"], "parameters": {"lr": 0.5}}


def _condition(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    with _QUIET:
        parse(text)
    evaluate(text, _CLAIMS, _VIEW)


def _conditions() -> Iterable[bytes]:
    for text in (
        "claims.affirmed && job.seed <= 4",
        'claims.kind == "tpm" || !(claims.log_entries > 3)',
        'job.mode in ["attested", "plain"] && size(job.arguments) == 1',
        'has(claims.gpu) ? claims.gpu.startsWith("H") : true',
        "job.parameters.lr * 2.0 >= 1.0",
        'job.arguments.all(a, a.matches("[a-z]+"))',
    ):
        yield text.encode()


def _receipt(data: bytes) -> None:
    bundle = ReceiptBundle.parse(data)
    receipt = bundle.receipt.open(Receipt, by=bundle.start.keys.signing)
    authorities = read_authorities(good()["authorities.pem"]).anchors
    verify_receipt(
        bundle,
        anchors=TrustAnchors(product="makers", version=1, anchors=authorities),
        references=[ReferenceValues.parse(good()["references.json"])],
        manager=receipt.manager,
        now=NOW,
    )


def _merkle(data: bytes) -> None:
    """Sizes and index in front, then a leaf, then hashes."""
    leaf, rest = split(data, 2)
    first, second, index = (int.from_bytes(rest[i : i + 4]) for i in (0, 4, 8))
    hashes = ["sha256:" + rest[i : i + 32].hex() for i in range(12, len(rest), 32)]
    root = digest(leaf)
    with _QUIET:
        check_inclusion(leaf, index, first, hashes, root)
    check_consistency(first, root, second, root, hashes)


def _proofs() -> Iterable[bytes]:
    for sizes in ((1, 1, 0), (5, 8, 3), (8, 8, 7)):
        head = b"".join(n.to_bytes(4) for n in sizes)
        yield joined(b"leaf", head + bytes(32 * 3))


_JSON = ("svetovid.crypto.canonical",)
TARGETS = (
    Target("json", _json, _JSON, _objects),
    Target(
        "documents",
        _documents,
        (
            *_JSON,
            "svetovid.evidence.documents",
            "svetovid.evidence.references",
            "svetovid.policy.documents",
            "svetovid.policy.outputs",
            "svetovid.protocol",
            "svetovid.transparency.receipt",
            "svetovid.assets.manifest",
        ),
        _objects,
    ),
    Target("envelope", _envelope, (*_JSON, "svetovid.crypto.envelope"), _envelopes),
    Target("policy-yaml", _yaml, ("svetovid.policy.yaml_input",), _texts),
    Target(
        "condition",
        _condition,
        ("svetovid.policy.cel_subset", "svetovid.policy.conditions"),
        _conditions,
    ),
    Target("receipt", _receipt, ("svetovid.transparency",), lambda: [canonical(_story())]),
    Target("merkle-proof", _merkle, ("svetovid.transparency.merkle",), _proofs),
)
