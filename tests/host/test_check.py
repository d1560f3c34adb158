"""What a machine can do as a host is tried, not guessed; what is amiss is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fakegpu import MIB, TOTAL, fake, numbered
from sandboxing import small_runtime
from svetovid.crypto import Secret
from svetovid.host import Finding, check, check_host, init_host
from svetovid.host.alone import lone_job


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("host") / "home"
    init_host(
        path,
        name="box",
        passphrase=Secret(b"p"),
        kind="simulated-tee",
        runtime=small_runtime(),
    )
    return path


def found(findings: list[Finding]) -> dict[str, Finding]:
    return {f.what: f for f in findings}


def test_a_host_that_lacks_nothing(home: Path) -> None:
    seen = found(check_host(home))
    assert [f.reason for f in seen.values()] == [None] * len(seen)
    assert "not enrolled" in seen["home"].observed
    assert "SIMULATED" in seen["evidence"].observed
    assert "starts" in seen["sandbox"].observed
    assert "no accelerator" in seen["devices"].observed


def test_which_uid_a_sandbox_has_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.os, "geteuid", lambda: 0)
    assert check.OWN_UID in check._who()
    monkeypatch.setattr(check.os, "geteuid", lambda: 1234)
    assert check.OWN_UID not in check._who()
    assert "1234" in check._who()
    if os.getuid() == 0:
        monkeypatch.undo()
        assert check.OWN_UID in found(check_host(home))["sandbox"].observed


def test_what_is_amiss_is_named(home: Path, tmp_path: Path) -> None:
    with lone_job(home):
        seen = found(check_host(home, ["/dev/no-such-accelerator"]))
    assert seen["job"].reason is not None
    assert seen["job"].reason.code == "host.busy"
    assert seen["devices"].reason is not None
    assert seen["devices"].reason.code == "device.missing"
    assert seen["sandbox"].reason is None
    nowhere = found(check_host(tmp_path / "none"))
    codes = {f.what: f.reason.code for f in nowhere.values() if f.reason is not None}
    assert codes["home"] == codes["sandbox"] == codes["evidence"] == "host.home"
    assert codes["job"] == "host.lock"


def test_a_software_tpm_is_called_so(tmp_path: Path) -> None:
    home = tmp_path / "home"
    try:
        init_host(home, name="box", passphrase=Secret(b"p"), runtime=small_runtime())
    except Exception as e:
        if getattr(e, "code", "") == "tpm.absent":
            pytest.skip("libtpms.so.0 is not installed")
        raise
    assert "SOFTWARE TPM" in found(check_host(home))["evidence"].observed


def lay(path: Path, scope: str | None, *options: str) -> None:
    if scope is not None:
        (path / "yama").mkdir()
        (path / "yama" / "ptrace_scope").write_text(scope)
    lines = [f"22 1 0:21 / /proc rw,nosuid - proc proc {o}\n" for o in options]
    (path / "mounts").write_text("21 1 0:20 / /sys rw - sysfs sysfs rw\n" + "".join(lines))


@pytest.mark.parametrize(
    ("scope", "options", "warned"),
    [
        ("1\n", ["rw,hidepid=invisible"], set()),
        ("3\n", ["rw,gid=5,hidepid=2"], set()),
        ("1\n", ["rw"], {"hidepid"}),
        ("1\n", ["rw,hidepid=invisible", "rw"], {"hidepid"}),
        ("1\n", ["rw", "rw,hidepid=invisible"], set()),
        ("1\n", ["rw,hidepid=noaccess"], {"hidepid"}),
        ("0\n", ["rw,hidepid=invisible"], {"ptrace_scope"}),
        (None, [], {"hidepid", "ptrace_scope"}),
    ],
)
def test_what_others_see_of_a_job_is_said(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scope: str | None,
    options: list[str],
    warned: set[str],
) -> None:
    """T9: on a machine that others use, a job's command line is theirs to read."""
    lay(tmp_path, scope, *options)
    monkeypatch.setattr(check, "_KERNEL", tmp_path)
    monkeypatch.setattr(check, "_MOUNTS", tmp_path / "mounts")
    assert "simulated" in check._processes(home)
    real = check.HostHome(home).config().model_copy(update={"kind": "tpm", "tpm": "device:/dev/x"})
    monkeypatch.setattr(check.HostHome, "config", lambda _: real)
    said = check._processes(home)
    assert {w for w in ("hidepid", "ptrace_scope") if w in said} == warned
    assert ("WARNING" in said) == bool(warned)


@pytest.mark.parametrize(
    ("printk", "dmesg", "warned"),
    [
        ("0\t4\t0\t0\n", "1\n", set()),
        ("1\t4\t1\t7\n", "1\n", {"kernel.printk"}),  # a stuck processor's process, by its name
        ("4\t4\t1\t7\n", "1\n", {"kernel.printk"}),
        ("0\t4\t0\t0\n", "0\n", {"dmesg_restrict"}),
        ("", "", {"kernel.printk", "dmesg_restrict"}),
        (None, None, {"kernel.printk", "dmesg_restrict"}),
    ],
)
def test_t9_who_reads_the_kernel_s_words_is_said(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    printk: str | None,
    dmesg: str | None,
    warned: set[str],
) -> None:
    """Foreign code chooses the name of a process, and the kernel says whom it killed."""
    for name, text in (("printk", printk), ("dmesg_restrict", dmesg)):
        if text is not None:
            (tmp_path / name).write_text(text)
    monkeypatch.setattr(check, "_KERNEL", tmp_path)
    assert "simulated" in check._kernel(home)
    real = check.HostHome(home).config().model_copy(update={"kind": "tpm", "tpm": "device:/dev/x"})
    monkeypatch.setattr(check.HostHome, "config", lambda _: real)
    said = check._kernel(home)
    assert {w for w in ("kernel.printk", "dmesg_restrict") if w in said} == warned
    assert said.count("WARNING") == len(warned)


def test_where_mounts_cannot_be_read_nothing_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "_MOUNTS", tmp_path / "none")
    assert not check._proc_is_hidden()


def test_a_runtime_that_cannot_start(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "interpreter", lambda: Path("/no/python"))
    reason = found(check_host(home))["sandbox"].reason
    assert reason is not None
    assert reason.code == "sandbox.start"


def test_accelerators_are_lent_and_cleared(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T8, on a FAKE driver."""
    numbered(monkeypatch, {"/dev/zero": (195, 0)})
    machine = fake(tmp_path)
    seen = found(check_host(home, ["/dev/zero"], accelerators=machine))
    assert seen["devices"].reason is None
    assert f"{TOTAL // MIB - 2} of {TOTAL // MIB} MiB cleared" in seen["devices"].observed
    with machine.lent(machine.find(["/dev/zero"])):
        busy = found(check_host(home, ["/dev/zero"], accelerators=machine))["devices"].reason
    assert busy is not None
    assert busy.code == "device.busy"
