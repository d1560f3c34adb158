"""Our MakeCredential, opened by real TPM 2.0 implementations: swtpm under tpm2-tools, libtpms."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from svetovid.errors import SvetovidError
from svetovid.evidence.tpm import (
    check_ak,
    check_ek,
    endorsement_signers,
    make_credential,
    name,
    parse_attest,
    parse_public,
    verify_quote,
)

RANDOM = hashlib.sha512(b"once").digest()
SECRET = hashlib.sha256(b"secret").digest()
TOOLS = ("swtpm", "tpm2_createek", "tpm2_createak", "tpm2_activatecredential", "tpm2_quote")


@pytest.fixture
def swtpm():
    missing = [t for t in TOOLS if shutil.which(t) is None]
    if missing:
        pytest.skip(f"not installed: {missing}")
    with tempfile.TemporaryDirectory(prefix="sv", ignore_cleanup_errors=True) as name_:
        folder = Path(name_)
        path = folder / "s"
        process = subprocess.Popen(
            [
                "swtpm",
                "socket",
                "--tpm2",
                "--tpmstate",
                f"dir={folder}",
                "--server",
                f"type=unixio,path={path}",
                "--ctrl",
                f"type=unixio,path={path}.ctrl",
                "--flags",
                "not-need-init,startup-clear",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            for _ in range(200):
                if path.exists() and Path(f"{path}.ctrl").exists():
                    break
                time.sleep(0.01)
            yield (
                folder,
                {**os.environ, "TPM2TOOLS_TCTI": f"swtpm:path={path}", "TSS2_LOG": "all+none"},
            )
        finally:
            process.terminate()
            process.wait(10)


def tool(swtpm, *arguments):
    folder, environment = swtpm
    done = subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("ek_kind", "ak_kind", "scheme"),
    [
        ("rsa", "ecc", "ecdsa"),
        ("ecc", "rsa", "rsapss"),
        ("ecc", "rsa", "rsassa"),
    ],
)
def test_swtpm_opens_our_credential_and_we_verify_its_quote(swtpm, ek_kind, ak_kind, scheme):
    folder, _ = swtpm
    tool(swtpm, "tpm2_createek", "-c", "ek.ctx", "-G", ek_kind, "-u", "ek.pub")
    tool(swtpm, "tpm2_flushcontext", "-t")
    tool(
        swtpm,
        "tpm2_createak",
        "-C",
        "ek.ctx",
        "-c",
        "ak.ctx",
        "-G",
        ak_kind,
        "-g",
        "sha256",
        "-s",
        scheme,
        "-u",
        "ak.pub",
        "-n",
        "ak.name",
    )
    tool(swtpm, "tpm2_flushcontext", "-t")
    ek_public, ak_public = ((folder / f).read_bytes()[2:] for f in ("ek.pub", "ak.pub"))
    ek, ak = parse_public(ek_public), parse_public(ak_public)
    check_ek(ek)
    check_ak(ak)
    assert name(ak) == (folder / "ak.name").read_bytes()
    blob, encrypted = make_credential(ek_public, ak_public, SECRET, randomness=RANDOM)
    (folder / "cred").write_bytes(bytes.fromhex("badcc0de00000001") + blob + encrypted)
    tool(swtpm, "tpm2_startauthsession", "--policy-session", "-S", "s.ctx")
    tool(swtpm, "tpm2_policysecret", "-S", "s.ctx", "-c", "e")
    tool(
        swtpm,
        "tpm2_activatecredential",
        "-c",
        "ak.ctx",
        "-C",
        "ek.ctx",
        "-i",
        "cred",
        "-o",
        "opened",
        "-P",
        "session:s.ctx",
    )
    assert (folder / "opened").read_bytes() == SECRET
    tool(swtpm, "tpm2_flushcontext", "s.ctx")
    tool(swtpm, "tpm2_flushcontext", "-t")
    tool(
        swtpm,
        "tpm2_quote",
        "--scheme",
        scheme,
        "-c",
        "ak.ctx",
        "-l",
        "sha256:0,1,2,3,4,5,6,7,8,9,10",
        "-q",
        SECRET.hex(),
        "-m",
        "q.msg",
        "-s",
        "q.sig",
        "-g",
        "sha256",
    )
    quote, signature = ((folder / f).read_bytes() for f in ("q.msg", "q.sig"))
    said = verify_quote(
        quote,
        signature,
        ak=ak,
        signers=endorsement_signers(ek, ak),
        extra_data=SECRET,
        pcrs={i: bytes(32) for i in range(11)},
        needed=frozenset(range(11)),
    )
    assert said == parse_attest(quote)


@pytest.mark.parametrize("kind", ["ecc", "rsa"])
def test_libtpms_opens_our_credential_for_the_named_key_only(tmp_path, kind):
    host = pytest.importorskip("svetovid.host.tpm")
    try:
        transport = host.open_transport(f"libtpms:{tmp_path / 'tpm'}")
    except SvetovidError as e:
        pytest.skip(str(e))
    with host.Tpm(transport) as tpm:
        tpm.startup()
        ek, ak = tpm.ek(kind), tpm.ak()
        blob, encrypted = make_credential(ek, ak, SECRET, randomness=RANDOM)
        opened = tpm.activate_credential(blob, encrypted, kind)
        assert getattr(opened, "reveal", lambda: opened)() == SECRET
        other = bytearray(ak)
        other[6] ^= 0x04  # noDA: another name
        blob, encrypted = make_credential(ek, bytes(other), SECRET, randomness=RANDOM)
        with pytest.raises(SvetovidError):
            tpm.activate_credential(blob, encrypted, kind)
