"""The enforcing profile: what is signed, with what, and what the kernel is told to ask for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from attested_host import rootfs
from attested_host.initrd import POLICY, compose_initrd
from attested_host.lock import BuildError
from attested_host.signing import ATTRIBUTE, ImaSigner, sign_programs
from attested_host.tree import Tree
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

ELF = b"\x7fELF and what follows"


def write_key(path: Path, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> Path:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = rsa.generate_private_key(65537, 2048)
    return write_key(tmp_path_factory.mktemp("key") / "ima.key", key)


@pytest.fixture(scope="module")
def signer(key_file: Path) -> ImaSigner:
    return ImaSigner.read(key_file)


def test_a_signature_is_the_one_that_evmctl_makes(
    key_file: Path, signer: ImaSigner, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    path = tmp_path / "program"
    path.write_bytes(ELF)
    command = [tool("evmctl"), "ima_sign", "--sigfile", "-a", "sha256", "-k", str(key_file)]
    subprocess.run([*command, str(path)], check=True, capture_output=True)
    assert path.with_suffix(".sig").read_bytes() == signer.signature(ELF)


def test_the_key_is_certified_in_the_same_bytes_each_time(
    key_file: Path, signer: ImaSigner
) -> None:
    assert ImaSigner.read(key_file).certificate() == signer.certificate()
    certificate = x509.load_der_x509_certificate(signer.certificate())
    certificate.verify_directly_issued_by(certificate)
    name = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert signer.signature(ELF)[:9] == b"\x03\x02\x04" + name[-4:] + b"\x01\x00"


def test_keys_that_the_kernel_cannot_use(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no private key"):
        ImaSigner.read(tmp_path / "none")
    small = write_key(tmp_path / "small", rsa.generate_private_key(65537, 1024))
    other = write_key(tmp_path / "other", ec.generate_private_key(ec.SECP256R1()))
    for path in (small, other):
        with pytest.raises(BuildError, match="RSA key of 2048"):
            ImaSigner.read(path)


def test_programs_are_signed_and_nothing_else(
    signer: ImaSigner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_there: dict[str, bytes] = {}
    monkeypatch.setattr(
        os, "setxattr", lambda path, name, value: set_there.update({f"{path.name} {name}": value})
    )
    (tmp_path / "lib.so").write_bytes(ELF)
    (tmp_path / "module.py").write_bytes(b"print()")
    (tmp_path / "link").symlink_to("lib.so")
    assert sign_programs(tmp_path, signer) == 1
    assert set_there == {f"lib.so {ATTRIBUTE}": signer.signature(ELF)}

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setxattr", refuse)
    with pytest.raises(BuildError, match="takes root"):
        sign_programs(tmp_path, signer)


def test_the_initrd_loads_the_key_before_the_policy_that_asks_for_it(signer: ImaSigner) -> None:
    kernel, busybox, keyutils = Tree(), Tree(), Tree()
    for name in ("dm-verity", "squashfs"):
        kernel.add(f"lib/modules/6.1/kernel/{name}.ko", b"\0depends=\0", "p 1")
    busybox.add("bin/busybox", b"b", "p 1", executable=True)
    keyutils.add("bin/keyctl", b"k", "p 1", executable=True)
    plain = compose_initrd(kernel, busybox, [], [])
    tree = compose_initrd(kernel, busybox, [keyutils], [], signed_by=signer.certificate())
    assert tree["etc/keys/ima.der"].data == signer.certificate()
    assert tree["usr/bin/keyctl"].executable
    rules = tree[POLICY].data.decode().splitlines()
    assert rules[: len(plain[POLICY].data.splitlines())] == plain[POLICY].data.decode().splitlines()
    asked = [r for r in rules if "appraise" in r and not r.startswith("#")]
    assert asked == [
        "dont_appraise fsmagic=0x858458f6",
        "appraise func=BPRM_CHECK appraise_type=imasig",
        "appraise func=MMAP_CHECK mask=MAY_EXEC appraise_type=imasig",
    ]
    script = (rootfs.GUEST / "init.sh").read_text()
    steps = ["keyctl newring", "keyctl padd", "keyctl restrict_keyring", "ima/policy ||"]
    assert [script.index(s) for s in steps] == sorted(script.index(s) for s in steps)
