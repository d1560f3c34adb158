"""The measurement log: what is entered, when, and what happens when the agent stops."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evidence.ima_bytes import fields, raw_entry
from svetovid.errors import HostError, InputError, RefusalError, SvetovidError, TransportError
from svetovid.evidence.ima import (
    BOOT_AGGREGATE,
    Entry,
    boot_aggregate_digest,
    build_entry,
    parse_log,
    replay,
)
from svetovid.host.measure import KernelLog, Launcher, Root, agent_root, boot_log, find
from svetovid.host.measure import files as files_module
from svetovid.host.measure import held as held_module
from svetovid.host.measure.book import Book
from svetovid.host.tpm import Tpm, open_transport


class Pcrs:
    """PCRs in memory: what of a TPM the launcher needs."""

    def __init__(self) -> None:
        self.values = {i: bytes(32) for i in range(24)}
        self.left: int | None = None

    def read_pcrs(self, pcrs: Sequence[int]) -> dict[int, bytes]:
        return {i: self.values[i] for i in pcrs}

    def extend(self, pcr: int, value: bytes) -> None:
        if self.left is not None:
            if not self.left:
                raise HostError("tpm.transport")
            self.left -= 1
        self.values[pcr] = hashlib.sha256(self.values[pcr] + value).digest()


@pytest.fixture
def pcrs() -> Pcrs:
    return Pcrs()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "usr" / "lib").mkdir(parents=True)
    (tree / "tmp").mkdir()
    (tree / "usr" / "lib" / "b.py").write_text("b")
    (tree / "usr" / "lib" / "a.so").write_bytes(b"a" * 5000)
    (tree / "usr" / "c").touch()
    return tree


def launcher(
    pcrs: Pcrs | Tpm, tree: Path, log: Path | None = None, roots: Sequence[Root] = ()
) -> Launcher:
    return Launcher(cast(Tpm, pcrs), tree, log or tree.parent / "log", roots=roots)


def entries(log: Launcher | KernelLog, offset: int = 0) -> tuple[Entry, ...]:
    return parse_log(log.log_since(offset))


def consistent(log: Launcher, pcrs: Pcrs) -> bool:
    return replay(entries(log), bytes(32), pcrs.values[10]) == log.count


def test_the_log_names_every_file_once_and_replays(pcrs: Pcrs, tree: Path) -> None:
    """T4."""
    pcrs.values[7] = b"\x07" * 32
    log = launcher(pcrs, tree)
    assert log.measure() == 4
    found = entries(log)
    assert [e.path for e in found] == [BOOT_AGGREGATE, "/usr/c", "/usr/lib/a.so", "/usr/lib/b.py"]
    assert found[0].digest == boot_aggregate_digest(pcrs.values)  # M13
    assert found[2].digest == hashlib.sha256(b"a" * 5000).digest()
    assert consistent(log, pcrs)
    assert log.digest == "sha256:" + hashlib.sha256(log.log_since(0)).hexdigest()
    mirror = tree.parent / "log"
    assert mirror.read_bytes() == log.log_since(0)
    assert mirror.stat().st_mode & 0o777 == 0o600
    log.close()
    log.close()


def test_with_a_real_tpm(tmp_path: Path, tree: Path) -> None:
    try:
        tpm = Tpm(open_transport(f"libtpms:{tmp_path / 'tpm'}"))
    except HostError as e:
        pytest.skip(e.reason.observed)
    with tpm:
        tpm.startup()
        for i in range(2000):
            (tree / f"m{i:04}.py").write_text(str(i))
        seen: list[tuple[int, int]] = []
        log = Launcher(
            tpm, tree, tmp_path / "log", roots=(), progress=lambda d, n: seen.append((d, n))
        )
        start = time.perf_counter()
        log.measure()
        assert time.perf_counter() - start < 20  # about 0.3 s on a quiet machine
        assert seen[-1] == (2003, 2003)
        assert replay(entries(log), bytes(32), tpm.read_pcrs([10])[10]) == log.count == 2004


def test_the_agent_s_own_code_is_measured(pcrs: Pcrs, tree: Path) -> None:
    log = Launcher(cast(Tpm, pcrs), tree, tree.parent / "log")
    log.measure()
    own = str(Path(files_module.__file__).resolve())
    assert own in {e.path for e in entries(log)}
    own = {f.path.rpartition(".")[2] for f in find(agent_root())}
    assert own == {"py", "so"}  # the kernels of masked mode run in the agent


def test_only_what_changed_is_hashed_and_entered(
    pcrs: Pcrs, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = launcher(pcrs, tree)
    log.measure()
    hashed: list[str] = []
    real = files_module._digest
    monkeypatch.setattr(files_module, "_digest", lambda f: hashed.append(f.path) or real(f))  # type: ignore[func-returns-value]
    assert log.measure() == 0
    assert hashed == []
    (tree / "usr" / "new.py").write_text("new")
    (tree / "usr" / "lib" / "b.py").write_text("changed")
    (tree / "usr" / "c").unlink()  # a file that is gone makes no entry
    assert log.measure() == 2
    assert hashed == ["/usr/lib/b.py", "/usr/new.py"]
    assert [e.path for e in entries(log, 4)] == hashed
    os.utime(tree / "usr" / "new.py")  # looked at again, and the same: no entry
    assert log.measure() == 0
    assert hashed[2:] == ["/usr/new.py"]
    assert consistent(log, pcrs)


def test_a_change_that_hides_its_mtime_is_seen(pcrs: Pcrs, tree: Path) -> None:
    """Same size, same mtime, in place: the ctime tells."""
    log = launcher(pcrs, tree)
    log.measure()
    path = tree / "usr" / "lib" / "b.py"
    before = path.stat()
    time.sleep(0.02)
    path.write_text("B")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert log.measure() == 1
    assert entries(log, 4)[0].digest == hashlib.sha256(b"B").digest()


def test_a_file_that_is_changed_and_changed_back(pcrs: Pcrs, tree: Path) -> None:
    path = tree / "usr" / "lib" / "b.py"
    log = launcher(pcrs, tree)
    log.measure()
    path.write_text("evil")
    assert log.measure() == 1
    path.write_text("b")
    assert log.measure() == 0  # this digest stands in the log already, as with IMA
    assert "evil" not in path.read_text()
    assert entries(log)[-1].digest == hashlib.sha256(b"evil").digest()  # and so does the other


def test_a_restarted_agent_goes_on(pcrs: Pcrs, tree: Path) -> None:
    first = launcher(pcrs, tree)
    first.measure()
    before = first.log_since(0)
    first.close()
    (tree / "later.py").write_text("later")
    second = launcher(pcrs, tree)
    assert second.count == 4
    assert second.measure() == 1
    assert second.log_since(0).startswith(before)
    assert consistent(second, pcrs)


def test_a_reset_tpm_begins_a_new_log(tree: Path) -> None:
    """T12."""
    launcher(old := Pcrs(), tree).measure()
    assert old.values[10] != bytes(32)
    new = Pcrs()
    log = launcher(new, tree)
    assert log.count == 0
    log.measure()
    assert consistent(log, new)
    assert (tree.parent / "log").read_bytes() == log.log_since(0)


@pytest.mark.parametrize("how", ["gone", "cut", "changed", "empty", "junk"])
def test_a_log_that_does_not_explain_the_pcr_is_refused(pcrs: Pcrs, tree: Path, how: str) -> None:
    launcher(pcrs, tree).measure()
    path = tree.parent / "log"
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        changed = bytes([data[200] ^ 1])
        path.write_bytes(
            {
                "cut": data[:-10],
                "changed": data[:200] + changed + data[201:],
                "empty": b"",
                "junk": b"\xff" * 500,
            }[how]
        )
    with pytest.raises(HostError) as e:
        launcher(pcrs, tree)
    assert e.value.code == "launcher.log_lost"
    assert "reboot" in e.value.reason.next_step


def test_another_s_extension_of_the_pcr_is_refused(pcrs: Pcrs, tree: Path) -> None:
    launcher(pcrs, tree).measure()
    pcrs.extend(10, b"\x01" * 32)
    with pytest.raises(HostError) as e:
        launcher(pcrs, tree)
    assert e.value.code == "launcher.log_lost"


@pytest.mark.parametrize("extended", range(4))
@pytest.mark.parametrize("torn", [0, 30])
def test_a_crash_between_file_and_pcr_loses_nothing(
    pcrs: Pcrs, tree: Path, extended: int, torn: int
) -> None:
    """The file holds all entries, the PCR the first few of them; the last may be torn."""
    pcrs.left = extended + 1
    log = launcher(pcrs, tree)
    with pytest.raises(HostError) if extended < 3 else pytest.raises(ZeroDivisionError):
        log.measure()
        raise ZeroDivisionError
    if torn and extended < 3:
        path = tree.parent / "log"
        path.write_bytes(path.read_bytes()[:-torn])
    pcrs.left = None
    again = launcher(pcrs, tree)
    assert again.count == extended + 1
    again.measure()
    assert again.count == 4
    assert consistent(again, pcrs)
    assert (tree.parent / "log").read_bytes() == again.log_since(0)


@pytest.mark.parametrize("after", range(5))
@pytest.mark.parametrize("extends", [True, False])
def test_a_tpm_whose_answer_is_lost(
    pcrs: Pcrs, tree: Path, monkeypatch: pytest.MonkeyPatch, after: int, extends: bool
) -> None:
    """Whether it extended before it failed is for the PCR to say, not for us to guess."""
    log = launcher(pcrs, tree)
    done = 0

    def extend(pcr: int, value: bytes) -> None:
        nonlocal done
        done += 1
        if done - 1 != after or extends:
            Pcrs.extend(pcrs, pcr, value)
        if done - 1 == after:
            raise TransportError("tpm.transport")

    monkeypatch.setattr(pcrs, "extend", extend)
    with contextlib.suppress(TransportError):
        log.measure()
    log.measure()
    assert log.count == 4
    assert consistent(log, pcrs)
    assert (tree.parent / "log").read_bytes() == log.log_since(0)


def test_a_disk_that_takes_little_at_a_time(
    pcrs: Pcrs, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    log = launcher(pcrs, tree)
    with monkeypatch.context() as m:
        m.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
        log.measure()
    assert (tree.parent / "log").read_bytes() == log.log_since(0)


def test_a_full_disk_enters_nothing(
    pcrs: Pcrs, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = launcher(pcrs, tree)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(os, "fsync", full)
        with pytest.raises(HostError) as e:
            log.measure()
    assert e.value.code == "launcher.log_file"
    assert pcrs.values[10] == bytes(32)
    assert log.count == 0
    assert log.measure() == 4  # room was made
    assert consistent(log, pcrs)
    log.close()
    assert launcher(pcrs, tree).count == 4


def test_a_log_that_cannot_be_written(pcrs: Pcrs, tree: Path) -> None:
    (tree.parent / "link").symlink_to(tree.parent / "elsewhere")
    for path in (tree / "usr" / "c" / "log", tree.parent / "link"):
        with pytest.raises(HostError) as e:
            launcher(pcrs, tree, path)
        assert e.value.code == "launcher.log_file"


def _make(tree: Path, kind: str) -> None:
    path = tree / "usr" / "odd"
    if kind == "link":
        path.symlink_to("c")
    elif kind == "folder link":
        path.symlink_to("lib", target_is_directory=True)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "newline":
        (tree / "usr" / "a\nb").touch()
    elif kind == "folder newline":
        (tree / "usr" / "a\nb").mkdir()
    elif kind == "not utf-8":
        Path(os.fsdecode(os.fsencode(tree) + b"/\xff")).touch()
    elif kind == "gone":
        for file in sorted(tree.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        tree.rmdir()


@pytest.mark.parametrize(
    "kind", ["link", "folder link", "fifo", "newline", "folder newline", "not utf-8", "gone"]
)
def test_what_cannot_be_measured_is_refused(pcrs: Pcrs, tree: Path, kind: str) -> None:
    """M9."""
    _make(tree, kind)
    with pytest.raises(HostError) as e:
        launcher(pcrs, tree).measure()
    assert e.value.code == "launcher.file"


def test_a_tree_of_too_many_files(pcrs: Pcrs, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "_MAX_FILES", 2)
    with pytest.raises(HostError) as e:
        launcher(pcrs, tree).measure()
    assert e.value.code == "launcher.file"


@pytest.mark.parametrize("what", ["moving", "gone", "fifo"])
def test_a_file_that_changes_under_our_eyes(
    pcrs: Pcrs, tree: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = tree / "usr" / "lib" / "b.py"
    real = hashlib.file_digest
    listed = files_module.find

    def moving(f: object, name: str) -> object:
        out = real(f, name)  # type: ignore[arg-type]
        with path.open("a") as more:
            more.write("x")
        return out

    def after(root: Root) -> list[files_module.Found]:
        found = listed(root)
        path.unlink()
        if what == "fifo":
            os.mkfifo(path)
        return found

    if what == "moving":
        monkeypatch.setattr(hashlib, "file_digest", moving)
    else:
        monkeypatch.setattr("svetovid.host.measure.launcher.find", after)
    with pytest.raises(HostError) as e:
        launcher(pcrs, tree).measure()
    assert e.value.code == "launcher.file"


def test_several_roots_under_their_names(pcrs: Pcrs, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "a.py").write_text("agent")
    (tmp_path / "agent" / "a.txt").symlink_to("nowhere")  # of no account: not code
    log = launcher(pcrs, tree, roots=[Root(tmp_path / "agent", "/agent", ".py")])
    log.measure()
    assert entries(log)[-1].path == "/agent/a.py"


@pytest.mark.parametrize("offset", [-1, 5, 1 << 40])
def test_offsets(pcrs: Pcrs, tree: Path, offset: int) -> None:
    """M18."""
    log = launcher(pcrs, tree)
    log.measure()
    assert log.log_since(4) == b""
    with pytest.raises(InputError) as e:
        log.log_since(offset)
    assert e.value.code == "ima.offset"


# -- the kernel's logs ------------------------------------------------------------------------


@pytest.fixture
def kernel(tmp_path: Path, pcrs: Pcrs, tree: Path) -> Path:
    log = launcher(pcrs, tree)
    log.measure()
    path = tmp_path / "binary_runtime_measurements"
    path.write_bytes(log.log_since(0))
    return path


def test_the_kernel_s_log(kernel: Path) -> None:
    log = KernelLog(kernel)
    assert log.measure() == 4
    assert log.measure() == 0
    with kernel.open("ab") as f:
        f.write(log.log_since(3))
    assert log.measure() == 1
    assert log.count == 5
    assert len(entries(log, 4)) == 1
    assert log.digest == "sha256:" + hashlib.sha256(kernel.read_bytes()).hexdigest()
    log.close()


@pytest.mark.parametrize("how", ["gone", "rewritten", "shorter"])
def test_a_kernel_log_that_is_no_longer_itself(kernel: Path, how: str) -> None:
    log = KernelLog(kernel)
    log.measure()
    data = kernel.read_bytes()
    kernel.unlink()
    if how != "gone":
        kernel.write_bytes(b"\x00" + data[1:] if how == "rewritten" else data[:-100])
    with pytest.raises(HostError) as e:
        log.measure()
    assert e.value.code == "measure.kernel_log"


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tail=st.binary(min_size=1, max_size=200))
def test_a_kernel_log_of_another_form(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(tail)
    log = KernelLog(path)
    with pytest.raises(SvetovidError):
        log.measure()
    assert log.count == 0


# -- the kernel's log where foreign code runs


def add(kernel: Path, path: str, digest: str = "sha256:" + "1" * 64) -> None:
    with kernel.open("ab") as f:
        f.write(build_entry(path, digest))


def held(path: Path) -> list[int]:
    """Descriptors of this process that lead to files below ``path``."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}").startswith(f"{path}/"):
                found.append(int(fd))
    return found


def test_the_runtime_is_read_and_held_before_foreign_code_runs(kernel: Path, tree: Path) -> None:
    log = KernelLog(kernel, tree)
    assert held(tree) == []
    log.measure()
    assert len(held(tree)) == 3
    assert min(held(tree)) >= 4096, "those who wait with select() need the low ones"
    log.measure()
    assert len(held(tree)) == 3
    log.close()
    assert held(tree) == []


def test_every_file_of_the_runtime_must_stand_in_the_log(kernel: Path, tree: Path) -> None:
    """Under any of its names: two of them may be one file."""
    (tree / "usr" / "unread.py").write_text("not measured")
    log = KernelLog(kernel, tree)
    with pytest.raises(HostError) as e:
        log.measure()
    assert e.value.code == "measure.unread"
    assert str(tree / "usr" / "unread.py") in str(e.value.reason.observed)
    assert held(tree) == []
    assert log.count == 0
    add(kernel, f"{tree}/usr/unread.py")
    (tree / "usr" / "again.py").hardlink_to(tree / "usr" / "unread.py")
    log.measure()
    assert log.count == 5
    log.close()


def test_what_a_sandbox_could_have_caused_is_shown_to_nobody(
    kernel: Path, tree: Path, tmp_path: Path
) -> None:
    """T9: which files foreign code reads, and what it calls its own, must not reach the log."""
    mine = tmp_path / "daemon"
    mine.write_text("of this host")
    (tmp_path / "same").hardlink_to(tree / "usr" / "lib" / "b.py")
    before = kernel.read_bytes()
    for name in (
        "/usr/lib/b.py",
        f"{tree}/usr/lib/b.py",
        f"{tree}/usr/lib/late.py",
        str(tmp_path / "same"),
        str(tmp_path),
        "/tmp/PLAINTEXT",
        "/code/train.py",
        "/dev/shm/PLAINTEXT",
        "/PLAIN\x01TEXT",
    ):
        kernel.write_bytes(before)
        log = KernelLog(kernel, tree)
        log.measure()
        add(kernel, str(mine))
        assert log.measure() == 1
        (tree / "usr" / "lib" / "late.py").touch()
        add(kernel, name)
        for look in (log.measure, log.catch_up, log.measure):
            with pytest.raises(RefusalError) as e:
                look()
            assert e.value.code == "measure.grew"
            assert "PLAINTEXT" not in str(e.value.reasons)
        assert len(parse_log(log.log_since(0))) == 5
        log.close()
        (tree / "usr" / "lib" / "late.py").unlink()


def test_names_that_nobody_can_read_are_not_repeated(kernel: Path, tree: Path) -> None:
    log = KernelLog(kernel, tree)
    log.measure()
    with kernel.open("ab") as f:
        f.write(raw_entry(b"memfd:PLAINTEXT"))
    with pytest.raises(RefusalError) as e:
        log.measure()
    assert e.value.code == "measure.grew"
    assert "PLAINTEXT" not in str(e.value.reasons)
    assert e.value.__cause__ is None
    log.close()


def test_what_the_kernel_measures_of_itself_is_no_sandbox_s(kernel: Path, tree: Path) -> None:
    log = KernelLog(kernel, tree)
    log.measure()
    data = b"state"
    body = fields(b"sha256:\0" + hashlib.sha256(data).digest(), b"selinux-state\0", data)
    with kernel.open("ab") as f:
        f.write(raw_entry(template=b"ima-buf", body=body))
    assert log.measure() == 1
    log.close()


def test_a_runtime_that_cannot_be_held(
    kernel: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    with monkeypatch.context() as m:
        m.setattr(held_module.resource, "getrlimit", lambda _: (1024, 1024))
        m.setattr(held_module.resource, "setrlimit", refuse)
        with pytest.raises(HostError) as e:
            KernelLog(kernel, tree).measure()
        assert e.value.code == "measure.hold"
    real = os.open

    def broken(path: str, *more: int) -> int:
        if path.endswith("b.py"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *more)

    with monkeypatch.context() as m:
        m.setattr(held_module.os, "open", broken)
        with pytest.raises(HostError) as e:
            KernelLog(kernel, tree).measure()
        assert e.value.code == "measure.hold"
    assert held(tree) == []
    (tree / "usr" / "link").symlink_to("/etc/passwd")
    with pytest.raises(HostError) as e:
        KernelLog(kernel, tree).measure()
    assert e.value.code == "launcher.file"


def test_the_boot_log(tmp_path: Path) -> None:
    assert boot_log(tmp_path / "none") is None
    (tmp_path / "log").write_bytes(b"log")
    assert boot_log(tmp_path / "log") == b"log"
    (tmp_path / "log").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(HostError) as e:
        boot_log(tmp_path / "log")
    assert e.value.code == "measure.kernel_log"


def test_a_book_forgets_its_tail() -> None:
    book = Book()
    for entry in (b"one", b"two!", b"three"):
        book.append(entry)
    book.keep(1)
    assert (book.count, book.size, book.since(0)) == (1, 3, b"one")
