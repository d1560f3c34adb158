"""Our TPM code against tpm2-tools, which shares no line with it."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from svetovid.evidence.tpm.names import name, public_key
from svetovid.evidence.tpm.structures import parse_public
from svetovid.evidence.tpm.wire import tpm2b
from svetovid.host.tpm import Tpm, open_transport
from svetovid.host.tpm.templates import EkKind

pytestmark = pytest.mark.skipif(
    shutil.which("tpm2_checkquote") is None, reason="tpm2-tools is not installed"
)


def _run(*command: str | Path, fails: bool = False) -> str:
    run = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60)
    assert (run.returncode != 0) is fails, run.stderr
    return run.stdout


def _pcr_file(pcrs: dict[int, bytes]) -> bytes:
    """The tool's own form: a TPML_PCR_SELECTION and TPML_DIGESTs as C lays them out."""
    bits = sum(1 << i for i in pcrs)
    selection = struct.pack("<IHB4sx", 1, 0x000B, 3, bits.to_bytes(4, "little")).ljust(132, b"\0")
    values = [pcrs[i] for i in sorted(pcrs)]
    lists = [values[at : at + 8] for at in range(0, len(values), 8)]
    out = selection + struct.pack("<I", len(lists))
    for digests in lists:
        entries = b"".join(struct.pack("<H64s", len(d), d) for d in digests)
        out += struct.pack("<I", len(digests)) + entries.ljust(8 * 66, b"\0")
    return out


def test_checkquote_accepts_our_quote(tpm: Tpm, tmp_path: Path) -> None:
    """T6."""
    tpm.extend(10, b"\x05" * 32)
    quote = tpm.quote(b"\xab" * 32)
    pem = public_key(parse_public(tpm.ak())).public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    files = {"ak.pem": pem, "msg": quote.attest, "sig": quote.signature}
    files["pcrs"] = _pcr_file(quote.pcrs)
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    command: list[str | Path] = ["tpm2_checkquote", "-u", tmp_path / "ak.pem", "-m"]
    command += [tmp_path / "msg", "-s", tmp_path / "sig", "-g", "sha256"]
    command += ["-f", tmp_path / "pcrs"]
    _run(*command, "-q", "ab" * 32)
    _run(*command, "-q", "ac" * 32, fails=True)
    (tmp_path / "pcrs").write_bytes(_pcr_file({i: bytes(32) for i in quote.pcrs}))
    _run(*command, "-q", "ab" * 32, fails=True)


def test_we_activate_what_makecredential_made(tpm: Tpm, tmp_path: Path) -> None:
    """T3."""
    kind: EkKind = "rsa"  # without a TPM the tool makes credentials for RSA EKs only
    pem = public_key(parse_public(tpm.ek(kind))).public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "ek.pem").write_bytes(pem)
    (tmp_path / "secret").write_bytes(b"a secret of thirty-two bytes....")
    _run(
        *("tpm2_makecredential", "-T", "none", "-u", tmp_path / "ek.pem", "-G", "rsa"),
        *("-s", tmp_path / "secret", "-n", name(parse_public(tpm.ak())).hex()),
        *("-o", tmp_path / "credential"),
    )
    data = (tmp_path / "credential").read_bytes()
    assert data[:8].hex() == "badcc0de00000001"
    split = 10 + int.from_bytes(data[8:10], "big")
    secret = tpm.activate_credential(data[8:split], data[split:], kind)
    assert secret.reveal() == b"a secret of thirty-two bytes...."


@pytest.mark.parametrize("kind", ["ecc", "rsa"])
def test_our_ek_is_the_one_createek_makes(
    swtpm: Callable[[str], str], tmp_path: Path, kind: EkKind
) -> None:
    """The default templates, byte for byte: else no vendor's certificate would ever match."""
    spec = swtpm("unix")
    with Tpm(open_transport(spec)) as tpm:
        tpm.startup()
        ours = tpm.ek(kind)
        path = spec.removeprefix("swtpm:unix:")
        tpm._transport.close()  # no shutdown: swtpm goes on for the next client
        if not Path(path).exists():
            pytest.skip("this swtpm stops with its first client")
        theirs = tmp_path / "ek.pub"
        _run(
            *("tpm2_createek", "-T", f"swtpm:path={path}", "-G", kind),
            *("-c", tmp_path / "ek.ctx", "-u", theirs),
        )
    assert theirs.read_bytes() == tpm2b(ours)
