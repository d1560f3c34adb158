"""Python wheels: chosen by the project's constraints, locked by digest, unpacked without pip.

pip resolves and fetches, as the registry's own client; what it brings is held against the lock.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from attested_host.lock import BuildError, Package, cache_folder
from attested_host.tree import Tree

__all__ = ["SITE", "fetch_wheels", "resolve_wheels", "unpack_wheel"]

SITE = "opt/svetovid"
"""Outside /usr: Debian's interpreter finds nothing there unless it is told to."""
_TARGET = (
    *("--only-binary", ":all:", "--python-version", "3.11", "--implementation", "cp"),
    *("--abi", "cp311", "--abi", "abi3", "--abi", "none"),
    *("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_17_x86_64"),
    *("--platform", "manylinux2014_x86_64", "--platform", "any"),
)
_LEFT_OUT = re.compile(r"(^|/)(tests?|testing/tests|include|__pycache__)/|\.(pyi|pxd|h|c|a|pyx)$")
_DATA = re.compile(r"^[^/]+\.data/")
_TIMEOUT_S = 1800


def _pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
    )
    if done.returncode != 0:
        raise BuildError(f"pip {arguments[0]}: {done.stderr.strip()[-500:]}")
    return done.stdout


def resolve_wheels(
    seeds: Iterable[str], constraints: Path, without: Iterable[str]
) -> list[Package]:
    """The wheels of each seed and of what it requires, under the project's constraints.

    Args:
        seeds: distribution names.
        constraints: the project's ``constraints.txt``.
        without: distributions that are left out although something asks for them.
    """
    report = _pip(
        *("install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"),
        *("--target", "/nonexistent", "--constraint", str(constraints), *_TARGET, *seeds),
    )
    left_out = set(without)
    found = []
    for item in json.loads(report)["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        file = unquote(item["download_info"]["url"].rpartition("/")[2])
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        if name not in left_out:
            found.append(Package(name, item["metadata"]["version"], digest, file))
    return sorted(found, key=lambda p: p.name)


def fetch_wheels(packages: Sequence[Package]) -> dict[Package, Path]:
    """The files of locked wheels, from the cache or through pip, which checks their digests.

    Raises:
        BuildError: where pip cannot bring one of them.
    """
    folder = cache_folder() / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [p for p in packages if not (folder / p.path).exists()]
    if missing:
        wanted = folder / "wanted.txt"
        lines = [f"{p.name}=={p.version} --hash=sha256:{p.sha256}\n" for p in missing]
        wanted.write_text("".join(lines))
        _pip(
            *("download", "--quiet", "--no-deps", "--require-hashes", *_TARGET),
            *("--dest", str(folder), "--requirement", str(wanted)),
        )
    return {p: folder / p.path for p in packages}


def unpack_wheel(package: Package, path: Path) -> Tree:
    """What of a wheel can be loaded, below :data:`SITE`.

    Raises:
        BuildError: for bytes that are not the lock's.
    """
    import hashlib

    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != package.sha256:
        path.unlink()
        raise BuildError(f"{package.label}: {path} is not the locked file; build again")
    tree = Tree()
    with zipfile.ZipFile(path) as wheel:
        for info in wheel.infolist():
            name = info.filename
            if info.is_dir() or _LEFT_OUT.search(name) or _DATA.match(name):
                continue
            # A .pth file runs code at every start of the interpreter.
            if PurePosixPath(name).suffix == ".pth":
                continue
            executable = bool(info.external_attr >> 16 & 0o111)
            tree.add(f"{SITE}/{name}", wheel.read(info), package.label, executable=executable)
    return tree
