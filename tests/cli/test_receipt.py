"""``receipt verify``: one verdict line first, names beside keys, exit codes as documented."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evidence.authorities import Authority, anchors
from softtpm import SoftCa
from svetovid.cli.main import run
from svetovid.crypto import Document, Identity, b64encode, digest
from svetovid.evidence import ReferenceValues
from svetovid.protocol import ManagerPin
from transparency.receipt_world import ALICE, CARA, MANAGER, NOW, RITA, Story
from transparency.test_imports import BOB, Chain


@dataclass
class Reader:
    """Vera: four files, and no network."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    def put(self, name: str, document: Document) -> str:
        path = self.folder / name
        path.write_bytes(document.canonical())
        return str(path)

    def verify(self, story: Story, *more: str, expect: int = 0, **changes: Document) -> str:
        own = story.reader()
        files = {
            "bundle": changes.get("bundle") or story.bundle(),
            "anchors": changes.get("anchors") or own["anchors"],
            "references": changes.get("references") or own["references"][0],
        }
        pin = ManagerPin(
            card=changes.get("manager", MANAGER).signed_card(),  # type: ignore[attr-defined]
            tls_certificate=b64encode(SoftCa().der),
            url="https://127.0.0.1:1",
        )
        args = ["receipt", "verify", self.put("r.json", files["bundle"])]
        args += ["--anchors", self.put("a.json", files["anchors"])]
        args += ["--references", self.put("v.json", files["references"])]
        args += ["--manager", self.put("m.json", pin), "--public", str(self.folder / "public")]
        code = run([*args, "--at", str(NOW + 900), *more])
        seen = self.capsys.readouterr()
        assert code == expect, seen
        return seen.out

    def json(self, story: Story, expect: int = 0, **changes: Any) -> dict[str, Any]:
        value = json.loads(self.verify(story, "--json", expect=expect, **changes))
        assert isinstance(value, dict)
        return value


@pytest.fixture
def vera(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Reader:
    return Reader(tmp_path, capsys)


def test_the_first_line_is_the_verdict(vera: Reader) -> None:
    out = vera.verify(Story()).splitlines()
    assert out[0].startswith("verified: what job train (sha256:")
    assert out[0].endswith("put out (measurement: launcher)")
    assert any(line.startswith("  launcher:") for line in out[1:5])
    assert any(line.startswith("  unproven:") for line in out[1:5])
    found = vera.json(Story())
    assert found["verified"] is True
    assert found["verdict"].startswith("verified: what sha256:")


def test_evidence_that_the_reader_does_not_believe(vera: Reader) -> None:
    for change, code in (
        ({"anchors": anchors(Authority("Another vendor").anchor())}, "ek.untrusted"),
        ({"references": ReferenceValues(product="none", version=1)}, "ima.unlisted"),
    ):
        out = vera.verify(Story(), expect=3, **change).splitlines()
        assert out[0].startswith(f"NOT verified: {code}: ")
        assert any(line.startswith(f"because  {code}") for line in out)
        found = vera.json(Story(), expect=3, **change)
        assert (found["verified"], found["affirmed"]) == (False, False)
        assert found["verdict"].startswith(f"NOT verified: {code}: ")


def test_parts_that_do_not_belong_together(vera: Reader) -> None:
    bundle = Story().bundle()
    other = bundle.model_copy(update={"job": bundle.job.model_copy(update={"seed": 7})})
    out = vera.verify(Story(), expect=3, bundle=other)
    assert out.startswith("NOT verified: receipt.job: ")
    assert len(out.splitlines()) == 1
    found = vera.json(Story(), expect=3, bundle=other)
    assert found["verified"] is False
    assert (found["error"], found["exit_code"]) == ("receipt.job", 3)


def test_what_cannot_be_read(vera: Reader) -> None:
    found = vera.json(Story(), expect=2, bundle=RITA.card)
    assert found["verdict"].startswith("NOT verified: document.invalid")
    assert found["verified"] is False


def test_names_beside_keys(vera: Reader) -> None:
    """The reader's own first, then what its folder says, then what the bundle says of itself."""
    public = vera.folder / "public"
    public.mkdir()
    (public / "alice.card.json").write_bytes(ALICE.signed_card().canonical())
    out = vera.verify(Story(), "--name", f"{CARA.key_id}=our coder")
    for key, name in ((RITA, "rita"), (ALICE, "alice"), (CARA, "our coder"), (MANAGER, "manager")):
        assert f"{name} ({key.key_id[:24]}" in out, out
        assert key.key_id not in out
    assert CARA.key_id in vera.verify(Story(), "--json")


def test_a_name_that_somebody_takes_from_another(vera: Reader) -> None:
    """A recipient that calls itself alice does not become the reader's alice."""
    out = vera.verify(Story(), "--name", f"{ALICE.key_id}=rita")
    assert f"rita ({ALICE.key_id[:24]}" in out
    assert f"rita ({RITA.key_id[:24]}" not in out
    assert RITA.key_id[:24] in out


@pytest.mark.parametrize("given", ["rita", "=rita", "key="])
def test_a_name_of_another_form(vera: Reader, given: str) -> None:
    assert vera.verify(Story(), "--name", given, "--json", expect=2).find("names.given") > 0


def test_an_import_is_said(vera: Reader) -> None:
    out = vera.verify(Chain().story())
    assert "  imported: an importer consented for the owner of images" in out
    assert f"import   images: {BOB.key_id[:24]}" in out


def test_a_time_that_no_calendar_has(vera: Reader) -> None:
    from svetovid.cli.receipt import _time

    assert _time(0) == "1970-01-01 00:00:00 UTC"
    assert _time(2**53) == str(2**53)


def test_another_manager(vera: Reader) -> None:
    eve: Any = Identity.generate("eve")
    out = vera.verify(Story(), expect=3, manager=eve)
    assert out.startswith("NOT verified: receipt.manager: ")
    assert digest(b"x")[:7] in out or MANAGER.key_id in out
