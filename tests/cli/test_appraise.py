"""``svetovid appraise``: exit codes, the JSON, the tree, and hostile recordings."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evidence import vectors
from evidence.test_boot_log import public
from evidence.test_offline import GENUINE, own_files, read
from svetovid.cli.main import run
from svetovid.crypto import Identity, b64encode, canonical, sign
from svetovid.evidence.recorded import FILES

NOW = str(GENUINE)
BOOT = "ovmf-tpm-crb"


@pytest.fixture(scope="module")
def given_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reference values of the recording's own log, and the authorities."""
    folder = tmp_path_factory.mktemp("given")
    document = own_files(read(BOOT))
    (folder / "references.json").write_bytes(document.canonical())
    signed = sign(document, Identity.generate("publisher"))
    (folder / "signed.json").write_bytes(signed.canonical())
    names = ("issuercert.pem", "swtpm-localca-rootca-cert.pem")
    (folder / "ca.pem").write_bytes(b"".join((vectors.ROOT / n).read_bytes() for n in names))
    return folder


def appraise(bundle: Path, given: Path, *more: str) -> tuple[int, dict[str, Any]]:
    out = given / "verdict.json"
    out.unlink(missing_ok=True)
    code = run(
        [
            *("appraise", str(bundle), "--reference", str(given / "references.json")),
            *("--ca", str(given / "ca.pem"), "--now", NOW, "--json", str(out), *more),
        ]
    )
    return code, json.loads(out.read_text())


def flat(claims: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for c in claims:
        found[c["name"]] = c
        found |= flat(c["claims"])
    return found


def test_affirmed_is_exit_0(given_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nonce = (vectors.ROOT / BOOT / "nonce.hex").read_text().strip()
    code, said = appraise(vectors.ROOT / BOOT, given_files, "--nonce", nonce)
    assert (code, said["verdict"], said["reasons"]) == (0, "affirmed", [])
    claims = flat(said["claims"])
    for name in ("tpm.quote", "tpm.ek", "boot_log", "ima.replay", "ima.entries", "ima.violations"):
        assert claims[name]["ok"] is True
        assert {"observed", "expected", "source"} <= claims[name].keys()
    shown = capsys.readouterr()
    first = shown.out.splitlines()[0]
    assert first.startswith("affirmed (measurement: launcher; simulated")
    assert "rests on: the attestation key" in shown.out
    assert "ima.entries" in shown.out
    assert "Traceback" not in shown.err


def test_signed_reference_values_and_a_pinned_key(given_files: Path) -> None:
    name = (vectors.ROOT / BOOT / "ak.name").read_bytes().hex()
    signed = str(given_files / "signed.json")
    args = ["appraise", str(vectors.ROOT / BOOT), "--reference", signed, "--ca"]
    args += [str(given_files / "ca.pem"), "--now", "2026-11-22T00:00:00Z", "--json", "-"]
    assert run([*args, "--ak", name]) == 0
    assert run([*args, "--ak", "00" * 34]) == 3


def test_refused_is_exit_3(given_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = appraise(vectors.ROOT / "live_after_violation.json", given_files)
    assert code == 3
    assert said["verdict"] == "refused"
    assert "ima.violation" in said["reasons"]
    assert capsys.readouterr().out.startswith("REFUSED: ek.missing")
    assert run(["appraise", str(vectors.ROOT / BOOT), "--json", "-", "--now", NOW]) == 3
    said = json.loads(capsys.readouterr().out)
    assert said["reasons"] == ["ek.unanchored", "reference.none"]
    code, said = appraise(vectors.ROOT / BOOT, given_files, "--nonce", "00")
    assert (code, said["reasons"]) == (3, ["challenge.mismatch", "recorded.unproven"])


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--nonce", "xyz"], "recorded.nonce"),
        (["--ak", "xyz"], "recorded.nonce"),
        (["--now", "yesterday"], "cli.time"),
        (["--now", "9" * 30], "cli.time"),
        (["--reference", "none.json"], "file.unreadable"),
        (["--ca", "none.pem"], "file.unreadable"),
    ],
)
def test_options_that_cannot_be_read(options: list[str], code: str, given_files: Path) -> None:
    status, said = appraise(vectors.ROOT / BOOT, given_files, *options)
    assert (status, said["verdict"], said["reasons"], said["claims"]) == (
        2,
        "unreadable",
        [code],
        [],
    )


def test_unreadable_is_exit_2(
    given_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["appraise", str(tmp_path)]) == 2
    assert "recorded.missing" in capsys.readouterr().err
    for data in (b"", b"{}", b"[" * 99999, b'{"quote": 1}', bytes(range(256))):
        bundle = tmp_path / "bundle.json"
        bundle.write_bytes(data)
        code, said = appraise(bundle, given_files)
        assert (code, said["verdict"]) == (2, "unreadable")
        assert said["error"] == said["reasons"][0]
    assert run(["appraise", str(tmp_path / "bundle.json"), "--json", "-"]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["verdict"] == "unreadable"
    assert run(["appraise", str(vectors.ROOT / BOOT), "--json", str(tmp_path)]) == 4


def test_a_pipe_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert run(["appraise", str(vectors.ROOT / BOOT), "--json", str(pipe)]) == 3
    assert json.loads(os.read(reader, 1 << 20))["verdict"] == "refused"
    os.close(reader)
    assert pipe.is_fifo()


def test_a_bundle_of_our_own(given_files: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.json"
    bundle.write_bytes(read(BOOT).canonical())
    assert appraise(bundle, given_files)[0] == 0


# -- tampering


def copied(tmp_path: Path) -> Path:
    folder = tmp_path / "recording"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(vectors.ROOT / BOOT, folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_tolerated_or_refused(
    name: str, given_files: Path, tmp_path: Path
) -> None:
    folder = copied(tmp_path)
    (folder / name).unlink()
    expected = {"quote.msg": 2, "quote.sig": 2, "ak.pub": 2, "ek.pub": 3, "ekcert.der": 3}
    assert appraise(folder, given_files)[0] == {**expected, "ima.bin": 3}.get(name, 0)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_cut_anywhere_is_not_affirmed(name: str, given_files: Path, tmp_path: Path) -> None:
    """Truncation at the start, within and before the last byte."""
    folder = copied(tmp_path)
    whole = (folder / name).read_bytes()
    tail = 2 if name in ("cmdline.txt", "nonce.hex") and whole.endswith(b"\n") else 1
    for size in sorted({0, 1, 3, len(whole) // 3, len(whole) // 2, len(whole) - tail}):
        (folder / name).write_bytes(whole[:size])
        code, said = appraise(folder, given_files)
        if name == "ak.name" and size == 0:
            continue  # an empty name names nothing, as no file does
        assert code in (2, 3), (name, size)
        assert said["reasons"]


UNCOVERED = {
    "bios.bin": "event types and data are under no digest",
    "quote.pcrs": "what a digest does not use of its 64 bytes is not read",
}


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(sorted(FILES)), st.integers(0, 1 << 20), st.integers(1, 255))
def test_a_changed_byte_is_not_affirmed(
    given_files: Path, tmp_path: Path, name: str, at: int, flip: int
) -> None:
    """Whatever byte of whatever file: refused or unreadable, or under no digest and no matter."""
    folder = copied(tmp_path)
    raw = bytearray((folder / name).read_bytes())
    at %= len(raw)
    raw[at] ^= flip
    (folder / name).write_bytes(raw)
    code, said = appraise(folder, given_files)
    if code == 0:
        same_text = name in ("nonce.hex", "cmdline.txt") and (
            bytes(raw).lower().split() == (vectors.ROOT / BOOT / name).read_bytes().lower().split()
        )
        assert name in UNCOVERED or same_text, (name, at, flip)
    else:
        assert code in (2, 3)
        assert said["reasons"]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(sorted(FILES)), st.binary(max_size=300))
def test_any_bytes_as_a_file(given_files: Path, tmp_path: Path, name: str, data: bytes) -> None:
    folder = copied(tmp_path)
    (folder / name).write_bytes(data)
    code, said = appraise(folder, given_files)
    assert code in (2, 3) or (name == "ak.name" and not data)
    assert said["verdict"] in ("refused", "unreadable") or not data


# -- recorded by others


def bundle(tmp_path: Path, **parts: object) -> Path:
    path = tmp_path / "bundle.json"
    path.write_bytes(canonical(parts))
    return path


def test_keylimes_quote_lacks_what_is_needed(given_files: Path, tmp_path: Path) -> None:
    """RSASSA over PCR 7, 8 and 14: the signature holds, and says too little (P1)."""
    folder = tmp_path / "keylime"
    folder.mkdir()
    for ours, theirs in (
        ("quote.msg", "quote.out"),
        ("quote.sig", "quotesig.out"),
        ("quote.pcrs", "quotepcr.out"),
        ("ak.pub", "ak.pub"),
        ("ak.name", "ak.name"),
        ("ek.pub", "ek.pub"),
    ):
        (folder / ours).write_bytes(public(f"keylime/{theirs}"))
    code, said = appraise(folder, given_files)
    assert code == 3
    assert said["reasons"] == ["pcr.missing", "ek.missing", "recorded.unproven"]
    assert flat(said["claims"])["tpm.ak"]["ok"] is True
    raw = bytearray((folder / "quote.sig").read_bytes())
    raw[-1] ^= 1
    (folder / "quote.sig").write_bytes(raw)
    assert appraise(folder, given_files)[1]["reasons"][0] == "sig.invalid"


def test_t4_a_cloud_guests_sha1_quote(given_files: Path, tmp_path: Path) -> None:
    """A shielded VM: signed with SHA-1 over the SHA-1 bank."""
    raw = json.loads(public("go-eventlog/windows_gcp_shielded_vm.json"))
    path = bundle(
        tmp_path,
        quote=raw["Quote"]["Quote"],
        sig=raw["Quote"]["Signature"],
        ak=raw["AK"]["Public"],
        bios=raw["Log"]["Raw"],
    )
    code, said = appraise(path, given_files)
    assert code == 3
    assert said["reasons"][0] == "sig.alg"


def test_t3_a_signature_without_its_scheme(given_files: Path, tmp_path: Path) -> None:
    """An Azure vTPM's quote beside a bare RSA signature, as some tools keep it."""
    path = bundle(
        tmp_path,
        quote=base64.b64encode(public("trustee/tpm-quote.msg")).decode(),
        sig=b64encode(public("trustee/tpm-quote.sig")),
        ak=b64encode(public("keylime/ak.pub")),
    )
    code, said = appraise(path, given_files)
    assert code in (2, 3)
    assert said["reasons"][0] in ("sig.alg", "tpm.malformed")
