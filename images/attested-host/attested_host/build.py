"""Builds the image: ``python -m attested_host.build [--variant numpy|torch] [--out FOLDER]``.

The same lock, recipe and source give the same bytes. What it leaves in its folder::

    attested-host.img    the disk: an EFI system partition and the root file system
    attested-host.efi    the unified kernel image on it
    references.json      the reference values that it implies, for somebody to sign; of a large
                         image also references-2.json and so on
    references.corim     the same as a CoRIM, for other verifiers
    manifest.json        digests of all this, predicted PCRs, every file and its package

With ``--enforce KEY`` (RSA, PEM; takes root) the guest's kernel runs no machine code that this key
did not sign. With ``--signer HOME`` the two of reference values stand there signed as well, by the
identity in that home.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from attested_host import cpio, rootfs
from attested_host.corim import corim
from attested_host.debian import addresses, now_stamp, resolve, unpack
from attested_host.fat import file_system
from attested_host.gpt import ALIGNMENT, ESP, ROOT, Partition, write_disk
from attested_host.initrd import compose_initrd
from attested_host.lock import BuildError, Package, fetch, read_lock, write_lock
from attested_host.papers import identity_in, sign_papers, tell_values
from attested_host.pe import sections
from attested_host.references import (
    PRODUCT,
    File,
    list_files,
    predicted_pcrs,
    reference_values,
    sha256,
    write_values,
)
from attested_host.signing import ImaSigner, sign_programs
from attested_host.tree import Tree
from attested_host.uki import Parts, assemble
from attested_host.verity import Verity, append_tree
from attested_host.wheels import fetch_wheels, resolve_wheels, unpack_wheel
from svetovid.errors import SvetovidError

__all__ = ["VARIANTS", "Image", "boot_disk", "build", "command_line", "is_current", "load", "lock"]

HERE = Path(__file__).resolve().parents[1]
CHECKOUT = HERE.parents[1]
_KERNEL = "linux-image-"
_KERNEL_OF_THE_DAY = "linux-image-cloud-amd64"
_STUB = "systemd-boot-efi"
_STUB_FILE = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
_STUB_KEPT = "linuxx64.efi.stub"
_BUSYBOX = "busybox-static"
_INITRD_ONLY = ("dmsetup", "libdevmapper1.02.1", "libudev1")
_KEYCTL = "keyutils"
_INITRD_ALSO = ("libc6", "libselinux1", "libpcre2-8-0")
_SEEDS = (
    *("libpython3.11-stdlib", "python3.11-minimal", "bubblewrap", "libstdc++6"),
    *(_BUSYBOX, "dmsetup", _KERNEL_OF_THE_DAY, _STUB, _KEYCTL),
)
_NEVER = (
    *("debconf", "debconf-2.0", "dpkg", "kmod", "initramfs-tools", "linux-initramfs-tool"),
    *("linux-base", "tzdata"),
)
_AGENT = (
    *("blake3", "cryptography", "fsspec", "httpx", "numpy", "pydantic", "pyyaml", "rfc8785"),
    "safetensors",
)
VARIANTS = {"numpy": ("numpy", "safetensors"), "torch": ("torch", "numpy", "safetensors")}
"""Variant to the distributions that jobs can import."""
WHEELS = {"numpy": ("wheels.lock",), "torch": ("wheels.lock", "wheels-torch.lock")}
_STAMP = "# archive of "


@dataclass(frozen=True, slots=True)
class Image:
    """A built image: its folder, and what was put into it."""

    folder: Path
    parts: Parts
    uki: bytes
    verity: Verity

    @property
    def disk(self) -> Path:
        return self.folder / "attested-host.img"


def command_line(verity: Verity) -> str:
    """What the kernel is told and the firmware measures; the root file system by its hash (T16).

    IMA needs ``rootfstype=ramfs``: on tmpfs its built-in policy, which holds until ours is loaded,
    measures nothing. The console, and what firmware keeps of a crash, are the operator's to read.
    The kernel's own lines name processes as foreign code called them, so none comes there (T9)."""
    words = (
        *("console=ttyS0", "loglevel=0", "pstore.backend=none", "panic=-1", "rootfstype=ramfs"),
        *("ima_policy=tcb", "ima_hash=sha256", "ima_template=ima-ng"),
        *("lockdown=confidentiality", "module.sig_enforce=1", "init_on_alloc=1", "vsyscall=none"),
        f"svetovid.root={verity}",
    )
    return " ".join(words)


# -- the lock ---------------------------------------------------------------------------------


def lock(folder: Path = HERE) -> None:
    """Write the lock files anew, from apt's lists and the project's constraints."""
    stamp = now_stamp()
    head = ["Debian packages of the image: name, version, SHA-256, path.", f"archive of {stamp}"]
    write_lock(folder / "debian.lock", resolve(_SEEDS, _NEVER), head)
    constraints = CHECKOUT / "constraints.txt"
    wheels = resolve_wheels(_AGENT, constraints, ())
    write_lock(folder / "wheels.lock", wheels, ["Python wheels of every image."])
    known = {"setuptools", *(p.name for p in wheels)}
    further = resolve_wheels(["torch"], constraints, known)
    write_lock(folder / "wheels-torch.lock", further, ["What the variant torch has besides."])


def _stamp_of(path: Path) -> str:
    for line in path.read_text().splitlines():
        if line.startswith(_STAMP):
            return line.removeprefix(_STAMP)
    raise BuildError(f"{path} does not say when it was made")


# -- the image --------------------------------------------------------------------------------


def _packages(locks: Path) -> dict[str, Tree]:
    file = locks / "debian.lock"
    stamp = _stamp_of(file)
    return {p.name: unpack(p, fetch(p, addresses(p.path, stamp))) for p in read_lock(file)}


def _wheels(packages: Sequence[Package]) -> list[Tree]:
    return [unpack_wheel(p, path) for p, path in fetch_wheels(packages).items()]


def _inputs(locks: Path) -> str:
    """One digest for all that an image is made from, but the tools of the build machine."""
    files = [*Path(__file__).parent.glob("*.py"), *rootfs.GUEST.glob("*")]
    files += rootfs.source_files(CHECKOUT / "src" / "svetovid")
    names = {path: path.relative_to(CHECKOUT).as_posix() for path in files}
    names.update({path: path.name for path in locks.glob("*.lock")})
    h = hashlib.sha256()
    for path, name in sorted(names.items(), key=lambda item: item[1]):
        h.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return h.hexdigest()


def is_current(folder: Path, variant: str, signer: ImaSigner | None = None) -> bool:
    """Whether ``folder`` holds the image that :func:`build` would make."""
    try:
        known: dict[str, object] = json.loads((folder / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return False
    found = tuple(known.get(name) for name in ("inputs", "variant", "enforces"))
    return found == (_inputs(HERE), variant, _enforced(signer))


def _enforced(signer: ImaSigner | None) -> str | None:
    return None if signer is None else sha256(signer.certificate())


def load(folder: Path) -> Image:
    """An image that was built before."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    uki = (folder / "attested-host.efi").read_bytes()
    found = {s.name: uki[s.raw : s.raw + s.size] for s in sections(uki)}
    parts = Parts(
        stub=(folder / _STUB_KEPT).read_bytes(),
        linux=found[".linux"],
        os_release=found[".osrel"],
        command_line=found[".cmdline"].decode("ascii"),
        initrd=found[".initrd"],
    )
    root = manifest["root"]
    return Image(folder, parts, uki, Verity(root["blocks"], root["hash"]))


def _kernel_image(kernel: Tree) -> bytes:
    return next((n.data for p, n in kernel.files() if p.startswith("boot/vmlinuz-")), b"")


def build(
    out: Path,
    variant: str,
    say: Callable[[str], None],
    signer: ImaSigner | None = None,
    locks: Path = HERE,
) -> Image:
    """Build the image into ``out``; with ``signer``, in the enforcing profile.

    Args:
        locks: folder of the lock files.

    Raises:
        BuildError: whatever stands in the way.
    """
    begun = time.monotonic()

    def step(text: str) -> None:
        say(f"{time.monotonic() - begun:6.1f} s  {text}")

    out.mkdir(parents=True, exist_ok=True)
    debian = _packages(locks)
    wheels = [_wheels(read_lock(locks / file)) for file in WHEELS[variant]]
    step("packages unpacked")
    kernels = [debian.pop(name) for name in list(debian) if name.startswith(_KERNEL)]
    kernel = next(tree for tree in kernels if _kernel_image(tree))
    busybox = debian.pop(_BUSYBOX)
    stub = debian.pop(_STUB)[_STUB_FILE].data
    wanted = [debian[n] for n in _INITRD_ONLY + _INITRD_ALSO]
    keyctl = debian.pop(_KEYCTL)
    if signer is None:
        initrd = compose_initrd(kernel, busybox, wanted)
    else:
        wanted += [keyctl, debian["libkeyutils1"]]
        initrd = compose_initrd(kernel, busybox, wanted, signed_by=signer.certificate())
    for name in _INITRD_ONLY:
        del debian[name]
    root = rootfs.compose([*debian.values(), *chain(*wheels)], CHECKOUT / "src" / "svetovid")
    for old in out.glob("references*"):
        old.unlink()
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        staging = Path(scratch) / "root"
        rootfs.finish(root, staging, VARIANTS[variant], rootfs.top_level(chain(*wheels[1:])))
        step("runtime and byte code made by the image's own Python")
        if signer is not None:
            step(f"{sign_programs(staging, signer)} programs and libraries signed")
        squashed = Path(scratch) / "root.squashfs"
        rootfs.squash(staging, squashed)
        verity = append_tree(squashed)
        step(f"root file system {verity}")
        parts = Parts(
            stub=stub,
            linux=_kernel_image(kernel),
            os_release=rootfs.OS_RELEASE,
            command_line=command_line(verity),
            initrd=cpio.archive(initrd),
        )
        uki = assemble(parts)
        (out / "attested-host.efi").write_bytes(uki)
        (out / _STUB_KEPT).write_bytes(stub)
        image = Image(out, parts, uki, verity)
        boot_disk(image.disk, uki, [Partition("svetovid-root", ROOT, squashed)])
        files = list_files(staging, root, initrd)
        _write_papers(image, variant, files, _enforced(signer), locks)
    step(f"{image.disk}")
    return image


def boot_disk(target: Path, uki: bytes, further: Sequence[Partition] = ()) -> None:
    """A disk that firmware starts ``uki`` from, with further partitions behind."""
    with tempfile.NamedTemporaryFile(dir=target.parent) as esp:
        esp.write(file_system({"EFI/BOOT/BOOTX64.EFI": uki}, ALIGNMENT))
        esp.flush()
        first = Partition("svetovid-esp", ESP, Path(esp.name))
        write_disk(target, [first, *further], hashlib.sha256(uki).digest())


def _write_papers(
    image: Image, variant: str, files: list[File], enforced: str | None, locks: Path
) -> None:
    product, version = f"{PRODUCT}-{variant}" + ("" if enforced is None else "-enforcing"), 1
    names = ("debian.lock", *WHEELS[variant])
    packages = [f"{p.label} {p.sha256}" for n in names for p in read_lock(locks / n)]
    made_of = hashlib.sha256("\n".join(packages).encode()).hexdigest()
    values = reference_values(
        files, image.parts, image.uki,
        product=product, version=version,
        provenance=f"predicted from the image's files, before it booted; packages {made_of[:16]}",
    )  # fmt: skip
    pcrs = predicted_pcrs(image.parts, image.uki)
    write_values(image.folder, values)
    (image.folder / "references.corim").write_bytes(
        corim(files, pcrs, product=product, version=version)
    )
    with image.disk.open("rb") as f:
        disk = hashlib.file_digest(f, "sha256").hexdigest()
    manifest = {
        "inputs": _inputs(locks),
        "variant": variant,
        "enforces": enforced,
        "disk": f"sha256:{disk}",
        "unified_kernel_image": f"sha256:{hashlib.sha256(image.uki).hexdigest()}",
        "command_line": image.parts.command_line,
        "root": {"blocks": image.verity.blocks, "hash": image.verity.root},
        "pcrs": dict(pcrs),
        "references": [document.digest() for document in values],
        "files": [dataclasses.asdict(f) for f in files],
    }
    (image.folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="attested_host.build", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["image", "lock"], default="image")
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="numpy")
    parser.add_argument("--out", type=Path, default=HERE / "build")
    parser.add_argument("--signer", type=Path, help="home of whoever signs the reference values")
    parser.add_argument("--enforce", type=Path, help="RSA key without whose signature no code runs")
    given = parser.parse_args(arguments)
    try:
        if given.what == "lock":
            lock()
            return 0
        signer = None if given.enforce is None else ImaSigner.read(given.enforce)
        if is_current(given.out, given.variant, signer):
            _tell(f"nothing changed: {given.out}")
        else:
            build(given.out, given.variant, _tell, signer)
        for line in tell_values(given.out):
            _tell(line)
        if given.signer is not None:
            sign_papers(given.out, identity_in(given.signer))
    except (BuildError, SvetovidError) as e:
        _tell(f"attested-host: {e}")
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
