"""Opening an output: the receipt first, then the recipient, then the agreed form (T9, T13, K8)."""

from __future__ import annotations

import json
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from svetovid.assets import Manifest, open_asset, seal_stream
from svetovid.crypto import Secret, seal
from svetovid.errors import EvidenceError, HostError, InputError, IntegrityError, Reason
from svetovid.policy import OutputSpec
from svetovid.protocol.contexts import output_context
from svetovid.protocol.output import OutputPackage, SealedFor
from svetovid.stakeholder import Stakeholder, open_output, rotate
from svetovid.stakeholder.outputs import check_form

JOB = "sha256:" + "7" * 64
SPEC = {"tensors": {"w": {"dtype": "float32", "shape": [2]}}}
HEADER = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def safetensors(header: object = HEADER, data: bytes = bytes(8)) -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


@dataclass(frozen=True)
class FakeVerdict:
    job: str = JOB
    affirmed: bool = True
    outputs: dict[str, str] = field(default_factory=dict)

    def reasons(self) -> list[Reason]:
        return [Reason("ima.unlisted", next_step="x")]


@dataclass
class FakeBundle:
    job: Any


@dataclass
class FakeJob:
    outputs: dict[str, OutputSpec]


@dataclass
class Sealed:
    """A sealed output, and what its receipt would say; the receipt's own tests are elsewhere."""

    folder: Path
    rita: Stakeholder
    verdict: FakeVerdict
    package: OutputPackage

    @property
    def url(self) -> str:
        return (self.folder / "model.sealed").as_uri()

    def write(self, package: OutputPackage) -> None:
        (self.folder / "model.sealed.package.json").write_bytes(package.canonical())

    def open(self, who: Stakeholder | None = None, to: str = "model.safetensors") -> Path:
        none = self.folder / "unread"
        opened = open_output(
            who or self.rita,
            self.url,
            none,
            self.folder / to,
            anchors=none,
            references=[none],
            now=0,
        )
        return opened.path


@pytest.fixture
def sealed(
    tmp_path: Path, home: Callable[[str], Stakeholder], monkeypatch: pytest.MonkeyPatch
) -> Sealed:
    rita = home("rita")
    owner = rita.key_id
    manifest, key = seal_stream(
        (tmp_path / "model.sealed").as_uri(),
        [safetensors()],
        kind="output",
        name="model",
        owner=owner,
        manager=owner,
    )
    asset = manifest.digest()
    box = seal(key, rita.identity.receiving.public, output_context(asset, JOB, owner))
    package = OutputPackage(
        job=JOB,
        output="model",
        manifest=manifest.to_json(),
        keys=(SealedFor(recipient=owner, sealed=box),),
    )
    story = Sealed(tmp_path, rita, FakeVerdict(outputs={"model": asset}), package)
    story.write(package)
    job = FakeJob({"model": OutputSpec.from_json(SPEC)})
    monkeypatch.setattr("svetovid.stakeholder.outputs.check_receipt", lambda *a, **k: story.verdict)
    monkeypatch.setattr("svetovid.stakeholder.outputs.read_receipt", lambda *a: FakeBundle(job))
    return story


def test_the_recipient_opens_it(sealed: Sealed) -> None:
    path = sealed.open()
    assert path.read_bytes() == safetensors()
    assert path.stat().st_mode & 0o777 == 0o600
    assert not list(sealed.folder.glob(".model*"))


def test_a_recipient_that_rotated_its_key_still_can(sealed: Sealed) -> None:
    """Rotating a key never redirects an agreed job (T5)."""
    after, _ = rotate(sealed.rita, 1)
    assert sealed.open(after).is_file()


def test_nothing_is_opened_on_a_verdict_that_is_not_affirmed(sealed: Sealed) -> None:
    sealed.verdict = replace(sealed.verdict, affirmed=False)
    with pytest.raises(EvidenceError, match=r"ima\.unlisted"):
        sealed.open()
    assert not (sealed.folder / "model.safetensors").exists()


def test_an_output_the_receipt_does_not_name(sealed: Sealed) -> None:
    for verdict in (
        replace(sealed.verdict, outputs={"model": "sha256:" + "0" * 64}),
        replace(sealed.verdict, outputs={}),
        replace(sealed.verdict, job="sha256:" + "1" * 64),
    ):
        sealed.verdict = verdict
        with pytest.raises(IntegrityError, match=r"output\.receipt"):
            sealed.open()


def test_others_cannot(sealed: Sealed, home: Callable[[str], Stakeholder]) -> None:
    """K8."""
    bob = home("bob")
    with pytest.raises(InputError, match=r"output\.recipient"):
        sealed.open(bob)
    entry = SealedFor(recipient=bob.key_id, sealed=sealed.package.keys[0].sealed)
    sealed.write(sealed.package.model_copy(update={"keys": (entry,)}))
    with pytest.raises(IntegrityError, match=r"hpke\.open"):
        sealed.open(bob)


def test_altered_ciphertext(sealed: Sealed) -> None:
    stored = bytearray((sealed.folder / "model.sealed").read_bytes())
    stored[-1] ^= 1
    (sealed.folder / "model.sealed").write_bytes(stored)
    with pytest.raises(IntegrityError, match=r"asset\."):
        sealed.open()
    assert not (sealed.folder / "model.safetensors").exists()


def test_never_over_another_file_nor_into_nowhere(sealed: Sealed) -> None:
    (sealed.folder / "there").write_text("mine")
    with pytest.raises(InputError, match=r"file\.exists"):
        sealed.open(to="there")
    assert (sealed.folder / "there").read_text() == "mine"
    with pytest.raises(HostError, match=r"file\.write"):
        sealed.open(to="none/model")
    assert not list(sealed.folder.glob(".there*"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\1\0\0\0\0\0\0",
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 0) + b"{}",
        safetensors([]),
        safetensors({**HEADER, "__metadata__": {"note": "leak"}}),
        safetensors({}),
        safetensors({"w": HEADER["w"] | {"dtype": "F64"}}),
        safetensors({"w": HEADER["w"] | {"shape": [3]}}),
        safetensors({"v": HEADER["w"]}),
        safetensors({"w": 7}),
        safetensors()[:12],
    ],
)
def test_the_form_is_the_agreed_one(content: bytes) -> None:
    """T9: exactly the agreed tensors; a host that let something else through is noticed."""
    url, who = f"memory://form-{secrets.token_hex(8)}", "ed25519:" + "1" * 64
    manifest: Manifest
    manifest, key = seal_stream(
        url, [content], kind="output", name="m", owner=who, manager=who, key=Secret(b"k" * 32)
    )
    with (
        open_asset(url, manifest, key, expected=manifest.digest()) as reader,
        pytest.raises(IntegrityError, match=r"output\.schema"),
    ):
        check_form(reader, FakeJob({"model": OutputSpec.from_json(SPEC)}), "model")  # type: ignore[arg-type]
