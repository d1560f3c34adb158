"""What a host that booted this image measures, said before it ever booted.

Everything follows from the image's own files: Authenticode digests in PCR 4, command line and
initrd in PCR 9, the sections that systemd-stub measures in PCR 11, and IMA's digest of every file.
What the machine's firmware measures (PCR 0 to 3, 5 to 7) is the machine's, and a document of its
own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attested_host.initrd import POLICY
from attested_host.pe import authenticode
from attested_host.rootfs import RUNTIME
from attested_host.tree import Tree
from attested_host.uki import Parts
from attested_host.wheels import SITE
from svetovid.evidence.documents import BootReferences, ReferenceValues

__all__ = [
    "SECURE_BOOT",
    "File",
    "boot_references",
    "list_files",
    "predicted_pcrs",
    "reference_values",
]

PRODUCT = "attested-host"
_MAX_FILES = 12_000
SECURE_BOOT = "4 under secure boot"
_SHOWN_AT_WORK = (
    "/" + POLICY,
    "/usr/lib/svetovid/service.py",
    f"/{SITE}/svetovid/host/__pycache__/agent.cpython-311.pyc",
)
"""Paths that every measurement log must hold: the policy that was loaded, and what is read as code
after it, the agent among it. (Files of the runtime tree share an inode with the root file system's
own; the log names whichever path was read first.)"""


@dataclass(frozen=True, slots=True)
class File:
    """One file as the measurement log names it.

    Attributes:
        path: absolute, as whoever reads it sees it: jobs see the runtime tree as ``/``.
        digest: SHA-256 of its content.
        origin: the package that it comes from.
    """

    path: str
    digest: str
    origin: str


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def list_files(folder: Path, root: Tree, initrd: Tree) -> list[File]:
    """Every regular file of the root file system and the initrd, with its origin.

    Args:
        folder: the root file system as it was squashed.
        root: what it was made from.
        initrd: the initial RAM file system.
    """
    by_digest = {sha256(node.data): node.origin for _, node in root.files()}
    found = [File("/" + path, sha256(node.data), node.origin) for path, node in initrd.files()]
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        name = path.relative_to(folder).as_posix()
        digest = sha256(path.read_bytes())
        origin = by_digest.get(digest) or _origin(name)
        found.append(File("/" + name, digest, origin))
        if name.startswith(RUNTIME + "/"):
            found.append(File(name.removeprefix(RUNTIME), digest, origin))
    return found


def _origin(name: str) -> str:
    return "byte code, compiled by the image's Python" if name.endswith(".pyc") else "recipe"


def boot_references(parts: Parts, uki: bytes) -> BootReferences:
    """What the image adds to the boot log, event by event."""
    return BootReferences(
        kernels={
            "the unified kernel image, as the firmware loads it": (authenticode(uki),),
            "the kernel inside it, as the stub starts it": (authenticode(parts.linux),),
            "the section .linux": (sha256(parts.linux),),
        },
        command_lines=(parts.command_line,),
        events={
            "9": {"initrd": (sha256(parts.initrd),)},
            "11": {
                f"the section {name}": (sha256(data),)
                for name, data in parts.sections()
                if name in (".osrel", ".initrd")
            },
        },
        measured=_SHOWN_AT_WORK,
    )


def reference_values(
    files: list[File], parts: Parts, uki: bytes, *, product: str, version: int, provenance: str
) -> list[ReferenceValues]:
    """The documents that owners pin (T2): one, or more where one would be too large to be read.

    What is listed is the union of all; the first speaks of the boot as well.
    """
    allowed: dict[str, tuple[str, ...]] = {}
    for file in files:
        known = allowed.get(file.path, ())
        allowed[file.path] = known if file.digest in known else (*known, file.digest)
    entries = sorted(allowed.items())
    return [
        ReferenceValues(
            product=product if at == 0 else f"{product}-{at // _MAX_FILES + 1}",
            version=version,
            files=dict(entries[at : at + _MAX_FILES]),
            boot=boot_references(parts, uki) if at == 0 else None,
            provenance=provenance,
        )
        for at in range(0, len(entries), _MAX_FILES)
    ]


def write_values(folder: Path, documents: Sequence[ReferenceValues]) -> None:
    """Write ``references.json``, ``references-2.json`` and so on."""
    for number, document in enumerate(documents, 1):
        name = "references.json" if number == 1 else f"references-{number}.json"
        (folder / name).write_bytes(document.canonical())


def values_in(folder: Path) -> list[Path]:
    """The documents of a built image, none of them signed; the one with the boot first."""
    found = [p for p in folder.glob("references*.json") if not p.name.endswith(".signed.json")]
    return sorted(found, key=lambda p: (len(p.name), p.name))


def predicted_pcrs(parts: Parts, uki: bytes) -> Mapping[str, str]:
    """Final values of the PCRs that this image alone decides, in the SHA-256 bank.

    PCR 4 holds what the PC Client profile has a firmware measure around one boot option, PCR 9 what
    Linux's stub measures, PCR 11 each section's name and content. PCR 12 stays zero: nothing is
    handed to the stub from outside. Under secure boot the stub itself vouches for the kernel inside
    it, which then has no event of its own in PCR 4.
    """

    def extended(*digests: bytes) -> str:
        value = bytes(32)
        for digest in digests:
            value = hashlib.sha256(value + digest).digest()
        return "sha256:" + value.hex()

    def digest_of(data: bytes) -> bytes:
        return hashlib.sha256(data).digest()

    sections = [
        d for n, c in parts.sections() for d in (digest_of(n.encode() + b"\0"), digest_of(c))
    ]
    line = parts.command_line.encode("utf-16-le") + b"\0\0"
    before = (digest_of(b"Calling EFI Application from Boot Option"), digest_of(bytes(4)))
    outer, inner = (
        bytes.fromhex(authenticode(image).removeprefix("sha256:")) for image in (uki, parts.linux)
    )
    return {
        "4": extended(*before, outer, inner),
        SECURE_BOOT: extended(*before, outer),
        "9": extended(digest_of(line), digest_of(parts.initrd)),
        "11": extended(*sections),
        "12": extended(),
    }
