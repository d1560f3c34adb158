"""Every file that comes from elsewhere, by name, version and SHA-256; and how it gets here.

A lock is a text file, one package a line, so that an update is a diff that a person can read.
Files are kept in a cache by digest; nothing is used whose bytes are not those of the lock.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import secrets
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BuildError", "Package", "cache_folder", "fetch", "read_lock", "write_lock"]

_CHUNK = 1 << 20
_TIMEOUT_S = 60
_MAX_BYTES = 1 << 31


class BuildError(Exception):
    """The image cannot be built; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Package:
    """One locked file.

    Attributes:
        name, version: as its archive says it.
        sha256: of the file, in hex.
        path: below its archive's root; its last part is the file's name.
    """

    name: str
    version: str
    sha256: str
    path: str

    @property
    def label(self) -> str:
        return f"{self.name} {self.version}"


def cache_folder() -> Path:
    """Where fetched files are kept; ``SVETOVID_CACHE`` moves it."""
    return Path(os.environ.get("SVETOVID_CACHE") or Path.home() / ".cache" / "svetovid")


def read_lock(path: Path) -> list[Package]:
    """Packages of a lock file, in its order.

    Raises:
        BuildError: where a line has another form.
    """
    packages = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        fields = line.split()
        if len(fields) != 4 or len(fields[2]) != 64:
            raise BuildError(f"{path}, line {number}: expected NAME VERSION SHA256 PATH")
        packages.append(Package(*fields))
    return packages


def write_lock(path: Path, packages: Iterable[Package], head: Sequence[str]) -> None:
    lines = [f"# {line}" for line in head]
    lines += [f"{p.name} {p.version} {p.sha256} {p.path}" for p in packages]
    path.write_text("\n".join(lines) + "\n")


def fetch(package: Package, addresses: Sequence[str]) -> Path:
    """The file of a package, from the cache or from the first of ``addresses`` that has it.

    Raises:
        BuildError: where none gives the very bytes of the lock.
    """
    kept = cache_folder() / "packages" / package.sha256 / Path(package.path).name
    if kept.exists() and _digest(kept) == package.sha256:
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    met = []
    for address in addresses:
        part = kept.with_name(f"{kept.name}.{secrets.token_hex(4)}.part")
        try:
            _download(address, part)
            found = _digest(part)
            if found == package.sha256:
                part.replace(kept)
                return kept
            met.append(f"{address}: other bytes ({found})")
        except (OSError, http.client.HTTPException) as e:
            met.append(f"{address}: {e}")
        finally:
            part.unlink(missing_ok=True)
    raise BuildError(f"{package.label} cannot be fetched: " + "; ".join(met))


def _download(url: str, target: Path) -> None:
    # The digest decides what is taken, so plain HTTP will do; nothing but HTTP will.
    if not url.startswith(("http://", "https://")):
        raise BuildError(f"not an HTTP address: {url}")
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer, target.open("wb") as out:  # noqa: S310
        done = 0
        while data := answer.read(_CHUNK):
            done += len(data)
            if done > _MAX_BYTES:
                raise BuildError(f"more than {_MAX_BYTES} bytes at {url}")
            out.write(data)


def _digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
