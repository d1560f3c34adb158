"""``svetovid reference``: from packages, images and hosts to one document, by commands alone."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from evidence import vectors
from stakeholder.packing import deb, saved, sha, tar
from svetovid.cli.main import run as cli_run

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def go(*args: str, as_json: bool = True, code: int = 0) -> Any:
        capsys.readouterr()
        observed = cli_run(["reference", *args, *(["--json"] if as_json else [])])
        said = capsys.readouterr()
        assert observed == code, said
        return json.loads(said.out) if as_json else said.out

    return go


def make(run: Run, *args: str, **more: Any) -> Any:
    return run("make", "--product", "lab", "--out", "lab.references.json", *args, **more)


def test_a_document_of_nothing_is_not_made(run: Run, tmp_path: Path) -> None:
    assert make(run, code=2)["error"] == "reference.sources"
    assert list(tmp_path.iterdir()) == []
    make(run, "--unchecked", "subtree:/var=x")  # an edition of rules alone


def test_one_document_of_everything(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tree/bin").mkdir(parents=True)
    (tmp_path / "tree/bin/x").write_bytes(b"x")
    (tmp_path / "ssl.deb").write_bytes(deb({"./usr/lib/libssl.so.3": b"ssl"}))
    (tmp_path / "image.tar").write_bytes(saved([tar({"app/train.py": b"t"})]))
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    parts = ["--directory", "tree=/opt/agent", "--debian", "ssl.deb", "--container", "image.tar"]
    more = ["--unchecked", "subtree:/var/cache=no code", "--signer", "key.pem"]
    made = make(run, *parts, *more, "--valid-until", "2030-01-01")
    assert (made["files"], made["valid_until"]) == (3, 1893456000)
    assert [s["kind"] for s in made["sources"]] == ["directory", "debian", "container"]
    assert made["sources"][1]["artifact"] == sha((tmp_path / "ssl.deb").read_bytes())
    written = json.loads((tmp_path / "lab.references.json").read_text())
    assert written["sources"][0]["files"] == {"/opt/agent/bin/x": [sha(b"x")]}
    assert len(written["file_signers"]) == 1
    assert run("show", "lab.references.json") == {k: made[k] for k in made if k != "file"}
    text = run("show", "lab.references.json", as_json=False)
    assert "UNCHECKED subtree /var/cache: no code" in text
    assert "debian libssl3 3.0.15-1 amd64" in text


def test_an_update(run: Run, tmp_path: Path) -> None:
    (tmp_path / "old.deb").write_bytes(deb({"./usr/lib/libssl.so.3": b"old"}))
    (tmp_path / "new.deb").write_bytes(deb({"./usr/lib/libssl.so.3": b"new"}))
    make(run, "--debian", "old.deb")
    (tmp_path / "lab.references.json").rename(tmp_path / "v1.json")
    after = ["--version", "2", "--after", "v1.json", "--old-until", "1900000000"]
    assert make(run, "--debian", "new.deb", *after)["superseded"] == 1
    written = json.loads((tmp_path / "lab.references.json").read_text())
    assert written["superseded"] == {"/usr/lib/libssl.so.3": {sha(b"old"): 1900000000}}


def test_propose_review_make(run: Run, tmp_path: Path) -> None:
    host = str(vectors.ROOT / vectors.BOOTS[0])
    said = run("propose", host, "--out", "review.txt")
    assert said["undecided"] > 20
    refused(run, "proposal.undecided", "--proposal", "review.txt")
    review = tmp_path / "review.txt"
    review.write_text(review.read_text().replace("\n? ", "\n+ "))
    made = make(run, "--proposal", "review.txt")
    assert (made["sources"][0]["name"], made["boot"]) == ("review.txt", True)
    assert "boot: console=ttyS0" in run("show", "lab.references.json", as_json=False)
    again = run("propose", host, "--known", "lab.references.json", "--out", "rest.txt")
    assert again["undecided"] == 0
    assert run("propose", host, "--out", "review.txt", code=2)["error"] == "file.exists"
    text = run("propose", host, "--out", "third.txt", as_json=False)
    assert "to be decided" in text


def test_the_guide(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands and its Python, on files of the names that it uses."""
    page = (Path(__file__).parents[2] / "docs/guide/reference-values.md").read_text()
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "agent").mkdir()
    (tmp_path / "packages").mkdir()
    (tmp_path / "train.tar").write_bytes(saved([tar({"app/train.py": b"t"})]))
    for name in re.findall(r"\w\S*\.deb", page):
        (tmp_path / name).write_bytes(deb({f"./usr/lib/{name}": name.encode()}))
        (tmp_path / "packages" / name).write_bytes(deb({f"./usr/lib/{name}": name.encode()}))
    (tmp_path / "lab1").symlink_to(vectors.ROOT / vectors.BOOTS[0])
    seen = []
    for language, text in blocks:
        if language == "python":
            exec(compile(text, "guide", "exec"), {})
            continue
        for line in text.replace("\\\n", " ").splitlines():
            svetovid, reference, *args = shlex.split(line)
            assert (svetovid, reference) == ("svetovid", "reference")
            if args[0] == "make" and "--after" in args:
                (tmp_path / "lab.references.json").rename(tmp_path / "lab-1.references.json")
            seen.append(args[0])
            run(*args)
    assert seen == ["make", "show", "propose", "make", "make"]


def refused(run: Run, code: str, *args: str, exit_code: int = 2) -> None:
    assert make(run, *args, code=exit_code)["error"] == code


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--debian", "bad"], "source.malformed"),
        (["--container", "bad"], "source.malformed"),
        (["--proposal", "bad"], "proposal.malformed"),
        (["--signer", "bad"], "reference.signer"),
        (["--unchecked", "/var"], "reference.rule"),
        (["--unchecked", "glob:/var/**=x"], "document.invalid"),
        (["--valid-from", "soon"], "cli.time"),
        (["--old-until", "5"], "reference.previous"),
        (["--directory", "bad"], "source.unreadable"),
        (["--debian", "none"], "file.unreadable"),
    ],
)
def test_what_cannot_be_read(run: Run, args: Sequence[str], code: str, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(bytes(range(256)) * 9)
    refused(run, code, *args, exit_code=4 if code == "source.unreadable" else 2)
    assert not (tmp_path / "lab.references.json").exists()


def test_a_recording_without_a_log(run: Run, tmp_path: Path) -> None:
    source = vectors.ROOT / vectors.BOOTS[0]
    (tmp_path / "host").mkdir()
    (tmp_path / "host/bios.bin").write_bytes((source / "bios.bin").read_bytes())
    said = run("propose", "host", "--out", "x.txt", code=2)
    assert said["error"] == "proposal.log"
    (tmp_path / "noise").write_bytes(b"\1" * 99)
    assert run("propose", "noise", "--out", "x.txt", code=3)["error"].startswith("ima.")
