"""The data disk of a host: made from a folder, read back into one; neither needs root."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from attested_host.gpt import ALIGNMENT, DATA, Partition, write_disk
from attested_host.lock import BuildError
from attested_host.machine import tool

__all__ = ["DATA_UUID", "make_data_disk", "read_file"]

DATA_UUID = "7356e704-1d5e-4d6b-9a30-5f3e6d61c0de"
"""The file system that the image's IMA policy lets the agent read without measuring it."""
_TIMEOUT_S = 120
_OFFSET = ALIGNMENT * 512


def _run(name: str, *arguments: str) -> bytes:
    program = tool(name)
    if program is None:
        raise BuildError(f"{name} was not found: apt-get install e2fsprogs")
    done = subprocess.run(
        [program, *arguments], capture_output=True, check=False, timeout=_TIMEOUT_S
    )
    if done.returncode != 0:
        raise BuildError(f"{name}: {done.stderr.decode('utf-8', 'replace').strip()[-300:]}")
    return done.stdout


def make_data_disk(target: Path, source: Path, mib: int = 64) -> None:
    """A disk with one ext4 partition that the guest knows by its label, holding ``source``."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        content = Path(scratch) / "ext4"
        with content.open("wb") as f:
            f.truncate(mib << 20)
        _run(
            "mke2fs", "-q", "-t", "ext4", "-U", DATA_UUID, "-d", str(source),
            "-E", "root_owner=0:0", str(content),
        )  # fmt: skip
        write_disk(target, [Partition("svetovid-data", DATA, content)], b"data")


def read_file(disk: Path, path: str) -> bytes | None:
    """A file of the disk while no guest has it; None where it is not there."""
    with tempfile.NamedTemporaryFile() as out:
        _run("debugfs", "-R", f"dump /{path} {out.name}", f"{disk}?offset={_OFFSET}")
        data = Path(out.name).read_bytes()
    return data or None


def list_folder(disk: Path, path: str) -> list[str]:
    """Names in a folder of the disk."""
    text = _run("debugfs", "-R", f"ls -p /{path}", f"{disk}?offset={_OFFSET}").decode()
    names = [row.split("/")[5] for row in text.splitlines() if row.startswith("/")]
    return [n for n in names if n not in (".", "..")]


def read_folder(disk: Path, path: str) -> Mapping[str, bytes]:
    """Every file in a folder of the disk, by name."""
    found = {name: read_file(disk, f"{path}/{name}") for name in list_folder(disk, path)}
    return {name: data for name, data in found.items() if data is not None}
