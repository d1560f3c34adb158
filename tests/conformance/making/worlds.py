"""The good worlds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from conformance.making import forged, real
from conformance.making.references import edition, text
from conformance.making.story import Story
from conformance.making.suite import SHARED, Case, Files
from evidence import vectors
from svetovid.evidence.boot import prove_boot
from svetovid.evidence.ima import parse_log

DEBIAN = "ovmf-tpm-crb"
GENUINE = 1_795_300_000
"""Unix seconds at which the certificates of the genuine recordings are valid."""


@cache
def tpm() -> real.Real:
    """The one TPM that signs in a run."""
    return real.Real(Path(tempfile.mkdtemp()) / "tpm.json")


def kept(world: Files, recorded: Mapping[str, bytes], **changes: bytes) -> Files:
    """A recording of its own beside what a reader of this world brings."""
    return {**{name: world[name] for name in SHARED}, **recorded, **changes}


def signed(story: Story | None = None, **quoted: object) -> Callable[[Files], Files]:
    """The TPM measures ``story`` and quotes."""
    return lambda world: kept(world, tpm().recorded(story, **quoted))  # type: ignore[arg-type]


def lied(
    story: Story | None = None, by: forged.Forged | None = None, **form: object
) -> Callable[[Files], Files]:
    """A key in a file says that ``story`` was measured, with fields of its own choosing."""
    return lambda world: kept(world, (by or forged.Forged()).recorded(story, **form))  # type: ignore[arg-type]


def edited(**changes: Callable[[bytes], bytes]) -> Callable[[Files], Files]:
    """Bytes of the world's files changed; ``ima_bin`` is ``ima.bin``."""

    def made(world: Files) -> Files:
        files = dict(world)
        for name, change in changes.items():
            file = name.replace("_", ".")
            files[file] = change(files[file])
        return files

    return made


def lacking(*names: str) -> Callable[[Files], Files]:
    return lambda world: {n: d for n, d in world.items() if n not in names}


def listing(log: bytes, boot: Mapping[str, Any] | None = None) -> bytes:
    """Reference values of whatever stands in a log."""
    listed: dict[str, set[str]] = {}
    for e in parse_log(log):
        if not (e.aggregate or e.violation):
            listed.setdefault(e.path, set()).add(e.named_digest)
    files = {path: sorted(found) for path, found in listed.items()}
    values = {"product": "conformance", "version": 1, "files": files}
    return text({**values, **({"boot": boot} if boot else {})})


def _genuine(name: str) -> Files:
    folder = vectors.ROOT / name
    files = {p.name: p.read_bytes() for p in folder.iterdir()}
    names = ("issuercert.pem", "swtpm-localca-rootca-cert.pem")
    return {
        **files,
        "references.json": listing(files["ima.bin"], _debian(files) if name == DEBIAN else None),
        "authorities.pem": b"".join((vectors.ROOT / n).read_bytes() for n in names),
    }


def _debian(files: Files) -> dict[str, Any]:
    events = prove_boot(files["bios.bin"], vectors.boot(DEBIAN).pcrs).events
    return {
        "kernels": {"Debian 6.1": [events[4][0][1]]},
        "command_lines": [files["cmdline.txt"].decode().rstrip("\n")],
        "events": {
            "0": {str(i): [value] for i, (_, value) in enumerate(events[0])},
            "9": {"initrd": [events[9][1][1]]},
        },
        "measured": [parse_log(files["ima.bin"])[5].path],
    }


def nonce_of(name: str) -> str:
    return vectors.boot(name).nonce.hex()


WORLDS = (
    Case(
        "tpm",
        "Linux booted by UEFI, measured into a software TPM; the reader lists its boot and files.",
        lambda _: {
            "references.json": edition(),
            "authorities.pem": real.MAKER.pem,
            **tpm().recorded(),
        },
        world="",
        recorded=True,
        verdict="affirmed",
        measurement="kernel",
    ),
    Case(
        "forged",
        "The same boot, told by keys in files under the name of a TPM's maker.",
        lambda _: {
            "references.json": edition(),
            "authorities.pem": forged.MAKER.pem,
            **forged.Forged().recorded(),
        },
        world="",
        origin="forged",
        verdict="affirmed",
        measurement="kernel",
        simulated=False,
    ),
    Case(
        "debian",
        "Debian 12 with its kernel's own IMA, booted by OVMF in a virtual machine.",
        lambda _: _genuine(DEBIAN),
        world="",
        origin="qemu",
        verdict="affirmed",
        measurement="kernel",
        now=GENUINE,
        nonce=nonce_of(DEBIAN),
    ),
    Case(
        "seabios",
        "Debian 12 booted without UEFI: nothing measures a kernel, and nobody says that one was.",
        lambda _: _genuine("direct1"),
        world="",
        origin="qemu",
        verdict="affirmed",
        now=GENUINE,
        nonce=nonce_of("direct1"),
    ),
)
