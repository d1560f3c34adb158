"""What the recipe makes of packages, and what it predicts, each without a network or a machine."""

from __future__ import annotations

import ast
import dataclasses
import gzip
import hashlib
import importlib.util
import io
import lzma
import os
import re
import struct
import tarfile
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from attested_host import debian, rootfs, wheels
from attested_host.build import HERE, command_line
from attested_host.datadisk import DATA_UUID, make_data_disk
from attested_host.initrd import POLICY, compose_initrd, load_order
from attested_host.lock import BuildError, Package, fetch, read_lock, write_lock
from attested_host.pe import add_sections, authenticode, sections
from attested_host.references import boot_references, predicted_pcrs
from attested_host.tree import Tree
from attested_host.uki import Parts, assemble
from attested_host.verity import Verity

import firmware as uefi
import svetovid
from svetovid.errors import InputError
from svetovid.evidence.boot import prove_boot
from svetovid.evidence.boot.explain import pcr_claims
from svetovid.evidence.boot.policies import is_agent
from svetovid.evidence.documents import BootReferences
from svetovid.host.sandbox import process

ORIGIN = "p 1"


# -- locks ------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A web server over a folder, and a cache of our own."""
    monkeypatch.setenv("SVETOVID_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "archive"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


def test_only_the_locked_bytes_are_taken(archive: tuple[str, Path]) -> None:
    root, folder = archive
    (folder / "bad.deb").write_bytes(b"something else")
    (folder / "good.deb").write_bytes(b"content")
    package = Package("p", "1", hashlib.sha256(b"content").hexdigest(), "pool/p.deb")
    with pytest.raises(BuildError, match="other bytes"):
        fetch(package, [f"{root}/bad.deb", f"{root}/missing.deb"])
    path = fetch(package, [f"{root}/bad.deb", f"{root}/good.deb"])
    assert path.read_bytes() == b"content"
    assert fetch(package, []) == path
    path.write_bytes(b"changed in the cache")
    with pytest.raises(BuildError, match="cannot be fetched"):
        fetch(package, [])
    with pytest.raises(BuildError, match="not an HTTP address"):
        fetch(package, ["file:///etc/passwd"])


def test_a_lock_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    packages = [Package("a", "1:2", "0" * 64, "debian/pool/a.deb")]
    write_lock(path, packages, ["said"])
    assert read_lock(path) == packages
    path.write_text("a 1 short path\n")
    with pytest.raises(BuildError, match="line 1"):
        read_lock(path)


def test_the_locks_are_whole() -> None:
    packages = {p.name: p for p in read_lock(HERE / "debian.lock")}
    assert {"libc6", "python3.11-minimal", "bubblewrap", "busybox-static"} <= packages.keys()
    text = (HERE.parents[1] / "constraints.txt").read_text()
    constraints = text.lower().replace("_", "-")
    for wheel in read_lock(HERE / "wheels.lock"):
        assert f"{wheel.name}=={wheel.version}" in constraints
        assert wheel.path.endswith(".whl")


def test_addresses_of_now_and_for_ever() -> None:
    found = debian.addresses("debian-security/pool/x.deb", "20261121T000000Z")
    assert found[0].endswith("/debian-security/pool/x.deb")
    assert found[1].endswith("/archive/debian-security/20261121T000000Z/pool/x.deb")


# -- packages ---------------------------------------------------------------------------------


def member(name: str, data: bytes = b"", **more: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def package(tmp_path: Path, *members: tuple[tarfile.TarInfo, bytes], kind: str = ".xz") -> Path:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    content = raw.getvalue()
    content = {".xz": lzma.compress, "": bytes, ".gz": gzip.compress}[kind](content)
    out = b"!<arch>\n"
    for name, data in (("debian-binary", b"2.0\n"), ("data.tar" + kind, content)):
        head = name.ljust(16).encode() + b"0".ljust(12) + b"0".ljust(6) * 2 + b"644".ljust(8)
        out += head + str(len(data)).ljust(10).encode() + b"`\n" + data + b"\n" * (len(data) % 2)
    path = tmp_path / "p.deb"
    path.write_bytes(out)
    return path


LOCKED = Package("p", "1", "0" * 64, "p.deb")


@pytest.mark.parametrize("kind", [".xz", ""])
def test_a_package_is_unpacked_without_its_scripts(tmp_path: Path, kind: str) -> None:
    path = package(
        tmp_path,
        member("./lib/", type=tarfile.DIRTYPE),
        member("./lib/x.so", b"code", mode=0o755, uid=7, mtime=9),
        member("./usr/y", type=tarfile.LNKTYPE, linkname="./lib/x.so"),
        member("./bin/z", type=tarfile.SYMTYPE, linkname="x"),
        kind=kind,
    )
    found = dict(debian.unpack(LOCKED, path))
    assert {p: (n.data, n.mode, n.link) for p, n in found.items()} == {
        "usr/lib/x.so": (b"code", 0o755, None),
        "usr/y": (b"code", 0o755, None),
        "usr/bin/z": (b"", 0o644, "x"),
    }
    assert {n.origin for n in found.values()} == {ORIGIN}


@pytest.mark.parametrize(
    ("members", "kind", "why"),
    [
        ([member("../x")], ".xz", "not a plain file name"),
        ([member("dev/x", type=tarfile.CHRTYPE)], ".xz", "no regular file"),
        ([], ".gz", "not supported"),
    ],
)
def test_odd_packages_are_refused(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], kind: str, why: str
) -> None:
    with pytest.raises(BuildError, match=why):
        debian.unpack(LOCKED, package(tmp_path, *members, kind=kind))


def test_no_package_at_all(tmp_path: Path) -> None:
    (tmp_path / "p.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(BuildError, match=r"no data\.tar"):
        debian.unpack(LOCKED, tmp_path / "p.deb")
    (tmp_path / "p.deb").write_bytes(b"PK")
    with pytest.raises(BuildError, match="not a Debian package"):
        debian.unpack(LOCKED, tmp_path / "p.deb")


def test_of_a_wheel_what_can_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "p.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name in (
            "p/a.py",
            "p/tests/t.py",
            "p/a.pyi",
            "p.pth",
            "p.data/scripts/x",
            "p.libs/l.so",
        ):
            wheel.writestr(name, name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    tree = wheels.unpack_wheel(Package("p", "1", digest, path.name), path)
    assert [p for p, _ in tree] == [f"{wheels.SITE}/p.libs/l.so", f"{wheels.SITE}/p/a.py"]
    with pytest.raises(BuildError, match="not the locked file"):
        wheels.unpack_wheel(LOCKED, path)
    assert not path.exists()


# -- the root file system ---------------------------------------------------------------------


def test_there_is_nothing_to_log_in_to(tmp_path: Path) -> None:
    part = Tree()
    for name in ("usr/bin/python3.11", "usr/bin/bwrap", "usr/bin/bash", "usr/sbin/getty",
                 "usr/lib/x86_64-linux-gnu/libc.so.6", "usr/share/doc/p/copyright",
                 "usr/share/man/p.1", "usr/lib/python3.11/os.py", "usr/lib/python3.11/test/x.py",
                 "usr/lib/python3.11/sitecustomize.py"):  # fmt: skip
        part.add(name, name.encode(), ORIGIN)
    source = tmp_path / "svetovid"
    for name in ("errors.py", "host/agent.py", "manager/app.py", "cli/main.py"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    tree = rootfs.compose([part], source)
    programs = {p for p, _ in tree if p.startswith(("usr/bin/", "usr/sbin/"))}
    assert programs == {"usr/bin/python3.11", "usr/bin/bwrap"}
    found = {p for p, _ in tree}
    assert "usr/lib/python3.11/os.py" in found
    assert not {p for p in found if "/test/" in p or "sitecustomize" in p or "man" in p.split("/")}
    own = {p.removeprefix(f"{wheels.SITE}/svetovid/") for p in found if "/svetovid/" in p}
    assert {"errors.py", "host/agent.py"} <= own
    assert not {"manager/app.py", "cli/main.py"} & own


def test_what_wheels_put_beside_each_other() -> None:
    wheel = Tree()
    for name in ("torch/nn/a.py", "torch/b.py", "torch-2.dist-info/METADATA", "six.py"):
        wheel.add(f"{wheels.SITE}/{name}", b"", ORIGIN)
    assert rootfs.top_level([wheel, Tree()]) == ("six.py", "torch", "torch-2.dist-info")


# -- the initrd -------------------------------------------------------------------------------


def kernel_package(depends: dict[str, str]) -> Tree:
    tree = Tree()
    for name, needs in depends.items():
        info = b"\0license=GPL\0depends=" + needs.encode() + b"\0name=x\0"
        tree.add(f"lib/modules/6.1/kernel/{name}.ko", info, ORIGIN)
    return tree


def test_modules_come_after_what_they_need() -> None:
    kernel = kernel_package(
        {"a/virtio_net": "virtio,net-failover", "virtio": "", "net-failover": ""}
    )
    order = [Path(p).stem for p in load_order(kernel, ["virtio-net", "virtio"])]
    assert order == ["virtio", "net-failover", "virtio_net"]
    with pytest.raises(BuildError, match="no module gone"):
        load_order(kernel, ["gone"])


def test_the_initrd_is_what_is_named_and_no_more() -> None:
    kernel = kernel_package({"dm-verity": "", "squashfs": "", "virtio_blk": "", "odd": ""})
    busybox, library = Tree(), Tree()
    busybox.add("bin/busybox", b"b", ORIGIN, executable=True)
    library.add("sbin/dmsetup", b"d", ORIGIN, executable=True)
    library.add("lib/x86_64-linux-gnu/libdevmapper.so.1.02.1", b"l", ORIGIN)
    library.add("usr/bin/other", b"o", ORIGIN, executable=True)
    tree = compose_initrd(kernel, busybox, [library], ["virtio_blk"])
    found = {p for p, _ in tree.files()}
    assert found == {
        "init", POLICY, "etc/modules", "etc/sysctl", "usr/bin/busybox", "usr/bin/dmsetup",
        "usr/lib/x86_64-linux-gnu/libdevmapper.so.1.02.1",
        *(f"usr/lib/modules/{m}.ko" for m in ("virtio_blk", "dm-verity", "squashfs")),
    }  # fmt: skip
    script = tree["init"].data.decode()
    applets = {Path(p).name for p, n in tree if n.link == "busybox"}
    for word in ("mount", "insmod", "switch_root", "poweroff", "sleep"):
        assert word in applets
        assert re.search(rf"\b{word}\b", script)


# -- what is measured -------------------------------------------------------------------------


HOST_POLICY = Path(__file__).resolve().parents[2] / "docs" / "guide" / "ima-policy"
POLICIES = pytest.mark.parametrize("path", [rootfs.GUEST / "ima-policy", HOST_POLICY])


def rules_of(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


@POLICIES
def test_t7_the_numbers_in_the_ima_policy_are_those_of_sandbox_and_agent(path: Path) -> None:
    rules = rules_of(path)
    last = process._FIRST_UID - 1
    service = (rootfs.GUEST / "service.py").read_text()
    (group,) = re.findall(r"^AGENT_GROUP = (\d+)$", service, re.MULTILINE)
    assert int(group) < last
    memory = f"fsmagic=0x01021994 fgroup={group}"
    assert f"dont_measure func=FILE_CHECK {memory} euid=0 egid={group}" in rules
    # Whatever foreign code does with what it made or was lent: no hook enters what it chose.
    assert rules.count(f"dont_measure fowner>{last} euid>{last}") == 1
    assert rules.count(f"dont_measure {memory} euid>{last}") == 1


@POLICIES
def test_what_root_reads_is_measured_wherever_it_lies(path: Path) -> None:
    """M21: what is left out is one file system and the agent's own memory, for the agent alone."""
    rules = rules_of(path)
    (group,) = re.findall(r"euid=0 egid=(\d+)$", "\n".join(rules), re.MULTILINE)[:1]
    pseudo = re.compile(r"dont_measure fsmagic=(\w+)")
    files = {"0x01021994", "0xef53", "0x73717368", "0x858458f6", "0x9123683e", "0x58465342"}
    for rule in (r for r in rules if r.startswith("dont_measure")):
        whole = pseudo.fullmatch(rule)
        if whole:
            assert whole[1] not in files
        elif "euid>" not in rule:
            assert "func=FILE_CHECK" in rule
            assert rule.endswith(f"euid=0 egid={group}")
    disk = [r for r in rules if "fsuuid" in r]
    assert disk == (
        []
        if path == HOST_POLICY
        else [f"dont_measure func=FILE_CHECK fsuuid={DATA_UUID} euid=0 egid={group}"]
    )
    measured = [r for r in rules if r.startswith("measure")]
    assert measured[:3] == [
        "measure func=BPRM_CHECK",
        "measure func=MMAP_CHECK mask=MAY_EXEC",
        "measure func=FILE_CHECK mask=^MAY_READ",
    ]
    assert "measure func=POLICY_CHECK" in measured
    assert rules.index(measured[0]) == len(rules) - len(measured)


def test_the_data_disk_is_the_one_that_the_policy_knows(
    tmp_path: Path, tool: Callable[[str], str]
) -> None:
    tool("mke2fs")
    (tmp_path / "content").mkdir()
    disk = tmp_path / "data.img"
    make_data_disk(disk, tmp_path / "content", mib=4)
    with disk.open("rb") as f:
        f.seek(2048 * 512 + 1024 + 0x68)  # of ext4's superblock: s_uuid
        assert str(uuid.UUID(bytes=f.read(16))) == DATA_UUID


def test_nobody_but_root_sees_the_processes_of_others() -> None:
    (mount,) = (s for s in (rootfs.GUEST / "init.sh").read_text().splitlines() if "-t proc" in s)
    assert "hidepid=invisible" in mount


def test_t9_the_kernel_says_nothing_on_the_operator_s_console() -> None:
    """It names processes as foreign code called them, some at its highest level (KERN_EMERG), and
    after a crash it would hand its last lines to the firmware."""
    words = command_line(Verity(7, "ab" * 32)).split()
    assert [w for w in words if "loglevel" in w or "verbose" in w] == ["loglevel=0"]
    assert "pstore.backend=none" in words
    settings = (rootfs.GUEST / "sysctl").read_text().splitlines()
    assert [s for s in settings if s.startswith("kernel/printk")] == ["kernel/printk 0 4 0 0"]
    for setting in ("kernel/dmesg_restrict 1", "kernel/sysrq 0"):
        assert setting in settings


def service() -> Any:
    spec = importlib.util.spec_from_file_location("service", rootfs.GUEST / "service.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("words"), "ValueError"),
        (PermissionError(13, "words", "words"), "PermissionError EACCES"),
        (InputError("host.home", expected="words", observed="words", next_step="words"),
         "InputError host.home"),
    ],
)  # fmt: skip
def test_t9_the_console_gets_fixed_text_alone(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What an error says may be of a job's making, and so may a library's warning."""
    guest = service()

    def fails() -> None:
        raise error

    def act() -> int:
        os.write(2, b"words")
        return int(guest.agent())

    monkeypatch.setattr(guest, "_enrol_and_run", fails)
    _, status = os.waitpid(guest._in_child(act), 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert capfd.readouterr() == (f"attested-host: the agent failed: {said}\n", "")


def test_every_log_must_show_the_policy_and_the_agent() -> None:
    asked = boot_references(PARTS, assemble(PARTS)).measured
    assert "/etc/ima/ima-policy" in asked
    assert any(is_agent(path) for path in asked)


def test_the_command_line_asks_for_what_the_appraisal_needs() -> None:
    """T4, T16: the hash of the root file system is a word of what is measured."""
    words = command_line(Verity(7, "ab" * 32)).split()
    for word in ("rootfstype=ramfs", "ima_policy=tcb", "ima_hash=sha256", "ima_template=ima-ng",
                 "lockdown=confidentiality", f"svetovid.root=7:{'ab' * 32}"):  # fmt: skip
        assert word in words


def test_t16_nothing_in_the_guest_makes_swap() -> None:
    """Nor does the command line name a place to wake up from, which the kernel would read."""
    assert "resume" not in command_line(Verity(7, "ab" * 32))
    for path in rootfs.GUEST.iterdir():
        assert "swapon" not in path.read_text()


# -- PE images --------------------------------------------------------------------------------


def image(content: bytes = b"code" * 200, certificate: bytes = b"") -> bytes:
    """A PE32+ image with one section, and a signature where one is given."""
    head = bytearray(0x400)
    head[:2], head[0x3C:0x40] = b"MZ", struct.pack("<I", 0x80)
    head[0x80:0x84] = b"PE\0\0"
    struct.pack_into("<HH12xH", head, 0x84, 0x8664, 1, 240)
    struct.pack_into("<H", head, 0x98, 0x20B)
    struct.pack_into("<II", head, 0x98 + 32, 0x1000, 0x200)
    struct.pack_into("<III", head, 0x98 + 56, 0x2000, 0x400, 0x1234)
    raw = -(-len(content) // 0x200) * 0x200
    if certificate:
        struct.pack_into("<II", head, 0x98 + 144, 0x400 + raw, len(certificate))
    section = struct.pack("<8sIIII16x", b".text", len(content), 0x1000, raw, 0x400)
    head[0x188 : 0x188 + len(section)] = section
    return bytes(head) + content.ljust(raw, b"\0") + certificate


def test_authenticode_leaves_out_checksum_and_signature_and_nothing_else() -> None:
    plain = image()
    other = bytearray(plain)
    other[0x98 + 64 : 0x98 + 68] = bytes(4)
    assert authenticode(plain) == authenticode(bytes(other))
    signed = image(certificate=b"signature" * 8)
    assert authenticode(signed) == authenticode(plain)
    for at in range(0, len(plain), 7):
        if at in range(0x98 + 64, 0x98 + 68) or at in range(0x98 + 144, 0x98 + 152):
            continue
        changed = bytearray(plain)
        changed[at] ^= 1
        try:
            assert authenticode(bytes(changed)) != authenticode(plain), hex(at)
        except (BuildError, struct.error):
            continue  # no image any more
    assert authenticode(plain + b"more") != authenticode(plain)


def test_added_sections_read_back() -> None:
    added = [(".osrel", b"ID=x\n"), (".linux", b"k" * 5000), (".empty", b"")]
    found = add_sections(image(), added)
    by_name = {s.name: s for s in sections(found)}
    for name, data in added:
        s = by_name[name]
        assert found[s.raw : s.raw + s.size] == data
        assert s.address % 0x1000 == 0
        assert s.raw % 0x200 == s.raw_size % 0x200 == 0
    for a, b in pairwise(sections(found)):
        assert a.address + a.size <= b.address
    assert found == add_sections(image(), added)
    with pytest.raises(BuildError, match="no room"):
        add_sections(image(), [(f".s{i}", b"") for i in range(20)])
    with pytest.raises(BuildError, match="not a PE image"):
        sections(b"ELF")


# -- predictions ------------------------------------------------------------------------------


PARTS = Parts(
    stub=image(b"stub"),
    linux=image(b"kernel"),
    os_release=b"ID=svetovid\n",
    command_line=command_line(Verity(7, "ab" * 32)),
    initrd=b"initrd",
)


def covered(content: bytes) -> bytes:
    """What of an unsigned image Authenticode covers, cut out by hand."""
    return content[: 0x98 + 64] + content[0x98 + 68 : 0x98 + 144] + content[0x98 + 152 :]


def boot(parts: Parts, *, secure: bool = False) -> uefi.Firmware:
    """What firmware, systemd-stub and Linux's own stub measure of an image."""
    fw = uefi.firmware()
    uki = assemble(parts)
    fw.add(4, uefi.APPLICATION, uefi.image("\\EFI\\BOOT\\BOOTX64.EFI"), covered(uki))
    for name, content in parts.sections():
        wide = name.encode("utf-16-le") + b"\0\0"
        fw.add(11, uefi.IPL, wide, name.encode() + b"\0")
        fw.add(11, uefi.IPL, wide, content)
    if not secure:
        fw.add(4, uefi.APPLICATION, uefi.image(""), covered(parts.linux))
    uefi.stub(fw, parts.command_line, parts.initrd)
    return fw


def explained(fw: uefi.Firmware) -> set[str]:
    """Codes of what the reference values of ``PARTS`` and of the firmware leave open."""
    own = boot_references(PARTS, assemble(PARTS))
    machine = BootReferences(events={p: uefi.EVENTS[p] for p in ("0", "2")})
    claims = pcr_claims(prove_boot(fw.log(), fw.pcrs()), [own, machine], "test")
    return {c.code for c in claims if not c.ok}


def test_the_prediction_is_what_a_boot_gives() -> None:
    fw = boot(PARTS)
    values = {str(i): "sha256:" + v.hex() for i, v in fw.pcrs().items()}
    predicted = predicted_pcrs(PARTS, assemble(PARTS))
    secure = boot(PARTS, secure=True)
    values["4 under secure boot"] = "sha256:" + secure.pcrs()[4].hex()
    assert predicted == {pcr: values[pcr] for pcr in predicted}
    assert predicted.keys() == {"4", "4 under secure boot", "9", "11", "12"}
    assert explained(fw) == explained(secure) == set()


@pytest.mark.parametrize(
    "change",
    [
        {"command_line": PARTS.command_line + " debug"},
        {"linux": image(b"another kernel")},
        {"initrd": b"another initrd"},
        {"os_release": b"ID=other\n"},
        {"stub": image(b"another stub")},
    ],
)
def test_a_changed_part_is_in_no_reference_value(change: dict[str, Any]) -> None:
    other = dataclasses.replace(PARTS, **change)
    assert explained(boot(other)) == {"boot.unlisted"}
    assert (
        predicted_pcrs(other, assemble(other))["4"] != predicted_pcrs(PARTS, assemble(PARTS))["4"]
    )


def test_no_room_in_the_image_needs_one_that_is_not() -> None:
    """An agent that cannot import what it was measured with starts on no host."""
    source = Path(svetovid.__file__).parent
    files = rootfs.source_files(source)
    rooms = {p.relative_to(source).parts[0].removesuffix(".py") for p in files}
    needed = {
        (node.module or "").split(".")[1]
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("svetovid.")
    }
    assert needed <= rooms
