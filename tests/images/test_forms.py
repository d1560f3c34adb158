"""Each file form that the image is written in, read back by an eye of its own."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from attested_host.cpio import archive
from attested_host.fat import SECTOR, file_system
from attested_host.gpt import ALIGNMENT, DATA, ESP, Partition, write_disk
from attested_host.lock import BuildError
from attested_host.tree import Tree
from attested_host.verity import BLOCK, append_tree


def small_tree() -> Tree:
    tree = Tree()
    tree.add("usr/bin/tool", b"#!/bin/sh\n", "a 1", executable=True)
    tree.add("./etc/name", b"x" * 5, "a 1")
    tree.link("usr/bin/other", "tool", "a 1")
    tree.folder("proc")
    return tree


# -- cpio -------------------------------------------------------------------------------------


def entries(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    found, at = {}, 0
    while True:
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        assert data[at : at + 6] == b"070701"
        assert fields[2] == fields[3] == fields[5] == 0  # uid, gid, time
        name = data[at + 110 : at + 110 + fields[11] - 1].decode()
        start = at + -(-(110 + fields[11]) // 4) * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (fields[1], data[start : start + fields[6]], (fields[9], fields[10]))
        at = start + -(-fields[6] // 4) * 4


def test_cpio_holds_the_tree_and_nothing_of_this_machine() -> None:
    found = entries(archive(small_tree()))
    assert found["usr/bin/tool"] == (0o100755, b"#!/bin/sh\n", (0, 0))
    assert found["etc/name"] == (0o100644, b"xxxxx", (0, 0))
    assert found["usr/bin/other"] == (0o120777, b"tool", (0, 0))
    assert found["proc"][0] == found["usr"][0] == 0o040755
    assert found["dev/console"] == (0o020600, b"", (5, 1))
    assert (
        list(found).index("usr") < list(found).index("usr/bin") < list(found).index("dev/console")
    )
    assert archive(small_tree()) == archive(small_tree())


# -- trees ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a\nb", "", "."])
def test_odd_names_are_refused(name: str) -> None:
    with pytest.raises(BuildError, match="not a plain file name"):
        Tree().add(name, b"", "a 1")


def test_two_packages_with_another_content_at_one_path_are_refused() -> None:
    tree = Tree()
    tree.add("lib/x", b"1", "a 1")
    tree.add("usr/lib/x", b"1", "b 1")
    with pytest.raises(BuildError, match="usr/lib/x is in b 1 and in c 1"):
        tree.add("usr/lib/x", b"2", "c 1")


def test_dropped_files_take_links_to_them_along() -> None:
    tree = small_tree()
    tree.link("usr/bin/third", "/usr/bin/other", "a 1")
    assert tree.resolve("usr/bin/third") == "usr/bin/tool"
    tree.keep(lambda path: path != "usr/bin/tool")
    assert [path for path, _ in tree] == ["etc/name"]
    assert tree.digests() == {"/etc/name": "sha256:" + hashlib.sha256(b"xxxxx").hexdigest()}


# -- verity -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, BLOCK, 129 * BLOCK, 128 * 128 * BLOCK + 1])
def test_the_hash_tree_is_the_one_that_veritysetup_makes(
    tmp_path: Path, size: int, tool: Callable[[str], str]
) -> None:
    """T16: one block changed, and the tree refuses it."""
    path = tmp_path / "data"
    path.write_bytes((b"svetovid" * (size // 8 + 1))[:size])
    found = append_tree(path)
    assert found.blocks == -(-size // BLOCK)
    options = ["--no-superblock", "--salt=-", "--hash=sha256", f"--data-blocks={found.blocks}"]
    options.append(f"--hash-offset={found.blocks * BLOCK}")
    where = [str(path), str(path), found.root]
    command = [tool("veritysetup"), "verify", *where, *options]
    good = subprocess.run(command, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    with path.open("r+b") as f:
        f.write(b"S")
    bad = subprocess.run(command, capture_output=True, text=True, check=False)
    assert bad.returncode != 0


# -- disks ------------------------------------------------------------------------------------


def read_fat(data: bytes) -> dict[str, bytes]:
    """Files of a FAT32 file system, by path."""
    reserved, sectors, root = data[14] | data[15] << 8, *struct.unpack_from("<I4xI", data, 36)
    table = data[reserved * SECTOR :]
    first = (reserved + 2 * sectors) * SECTOR
    assert table[: sectors * SECTOR] == table[sectors * SECTOR : 2 * sectors * SECTOR]

    def chain(cluster: int) -> bytes:
        out = b""
        while cluster < 0x0FFFFFF8:
            at = first + (cluster - 2) * SECTOR
            out += data[at : at + SECTOR]
            (cluster,) = struct.unpack_from("<I", table, 4 * cluster)
        return out

    found: dict[str, bytes] = {}

    def walk(cluster: int, above: str) -> None:
        content = chain(cluster)
        for at in range(0, len(content), 32):
            record = content[at : at + 32]
            if record[0] in (0, ord(".")):
                continue
            stem, suffix = record[:8].decode().strip(), record[8:11].decode().strip()
            name = above + stem + ("." + suffix if suffix else "")
            high, low, size = struct.unpack_from("<H4xHI", record, 20)
            if record[11] & 0x10:
                walk(high << 16 | low, name + "/")
            else:
                found[name] = chain(high << 16 | low)[:size]

    walk(root, "")
    return found


def test_fat_files_read_back() -> None:
    files = {"EFI/BOOT/BOOTX64.EFI": bytes(range(256)) * 40, "EFI/A.TXT": b"a", "EMPTY": b""}
    data = file_system(files, ALIGNMENT)
    assert read_fat(data) == files
    assert data == file_system(dict(reversed(files.items())), ALIGNMENT)
    assert data[510:512] == data[1022:1024] == b"\x55\xaa"
    assert struct.unpack_from("<I", data, 28) == (ALIGNMENT,)
    clusters = (
        struct.unpack_from("<I", data, 32)[0] - 32 - 2 * struct.unpack_from("<I", data, 36)[0]
    )
    assert clusters >= 65525  # less would be read as FAT16
    with pytest.raises(BuildError, match="short FAT name"):
        file_system({"lower.txt": b""}, 0)


def test_partitions_are_where_the_table_says(tmp_path: Path) -> None:
    first, second, disk = tmp_path / "a", tmp_path / "b", tmp_path / "disk"
    first.write_bytes(b"first" * 1000)
    second.write_bytes(b"second")
    parts = [Partition("one", ESP, first), Partition("two", DATA, second, size=3 << 20)]
    write_disk(disk, parts, b"seed")
    data = disk.read_bytes()
    for at, table in ((1, 2), (len(data) // 512 - 1, len(data) // 512 - 33)):
        header = bytearray(data[at * 512 : at * 512 + 92])
        assert header[:8] == b"EFI PART"
        entries = data[table * 512 : table * 512 + 128 * 128]
        assert struct.unpack_from("<I", header, 88) == (zlib.crc32(entries),)
        (checksum,) = struct.unpack_from("<I", header, 16)
        header[16:20] = bytes(4)
        assert checksum == zlib.crc32(header)
    assert uuid.UUID(bytes_le=entries[:16]) == ESP
    start, end = struct.unpack_from("<QQ", entries, 128 + 32)
    assert data[start * 512 :].startswith(b"second\0")
    assert (end - start + 1) * 512 == 3 << 20
    again = tmp_path / "again"
    write_disk(again, parts, b"seed")
    assert again.read_bytes() == data
    write_disk(again, parts, b"other")
    assert again.read_bytes() != data


def test_other_tools_read_the_table(tmp_path: Path, tool: Callable[[str], str]) -> None:
    content, disk = tmp_path / "a", tmp_path / "disk"
    content.write_bytes(bytes(512))
    write_disk(disk, [Partition("svetovid-data", DATA, content)], b"seed")
    command = [tool("sfdisk"), "--json", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    table = json.loads(done.stdout)["partitiontable"]
    assert table["label"] == "gpt"
    assert [p["name"] for p in table["partitions"]] == ["svetovid-data"]
    assert table["partitions"][0]["start"] == ALIGNMENT
