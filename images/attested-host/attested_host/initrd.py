"""What runs before the root file system: busybox, dmsetup, signed modules, the IMA policy.

Where machine code must be signed, also keyctl, and the key that the kernel is to know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from attested_host.lock import BuildError
from attested_host.rootfs import GUEST
from attested_host.tree import Tree

__all__ = ["MODULES", "POLICY", "compose_initrd"]

POLICY = "etc/ima/ima-policy"
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio-rng", "virtio_console")
_STORAGE = ("dm-verity", "squashfs")
_RECIPE = "recipe"
_APPLETS = (
    *("basename", "cat", "dirname", "echo", "grep", "insmod", "mount", "poweroff", "sh"),
    *("sleep", "switch_root"),
)
_LIBRARIES = re.compile(
    r"usr/lib64/ld-linux-x86-64\.so\.2"
    r"|usr/lib/x86_64-linux-gnu/(ld-linux-x86-64|libc|libm|libdevmapper|libselinux|libudev"
    r"|libpcre2-8|libkeyutils)\.so[^/]*"
)
_TOOLS = frozenset({"usr/sbin/dmsetup", "usr/bin/keyctl"})
_MODULE = re.compile(r"usr/lib/modules/[^/]+/kernel/.*\.ko")
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


def _module_name(path: str) -> str:
    return PurePosixPath(path).stem.replace("-", "_")


def load_order(kernel: Tree, wanted: Iterable[str]) -> list[str]:
    """Paths of modules in the kernel's package, each after those it depends on.

    Raises:
        BuildError: where a module is neither in the package nor built in.
    """
    paths = {_module_name(p): p for p, _ in kernel.files() if _MODULE.fullmatch(p)}
    order: list[str] = []

    def visit(name: str) -> None:
        path = paths.get(name)
        if path is None:
            raise BuildError(f"the kernel's package has no module {name}")
        if path in order:
            return
        found = _DEPENDS.search(kernel[path].data)
        for needed in found[1].decode().split(",") if found else ():
            if needed:
                visit(needed.replace("-", "_"))
        order.append(path)

    for name in wanted:
        visit(name.replace("-", "_"))
    return order


def compose_initrd(
    kernel: Tree,
    busybox: Tree,
    libraries: Iterable[Tree],
    modules: Iterable[str] = MODULES,
    signed_by: bytes | None = None,
) -> Tree:
    """The tree of the initial RAM file system.

    Args:
        kernel: the kernel's package.
        busybox: the package of the static busybox.
        libraries: packages of dmsetup, of keyctl where it is needed, and of what they need.
        modules: drivers that this image can find its disk and network with.
        signed_by: DER certificate of the key without whose signature no code runs; None for the
            profile that measures alone.
    """
    tree = Tree()
    program = next(n for p, n in busybox.files() if p == "usr/bin/busybox")
    tree.put("bin/busybox", program)
    for applet in _APPLETS:
        tree.link(f"bin/{applet}", "busybox", program.origin)
    for package in libraries:
        for path, node in package:
            if path in _TOOLS:
                tree.put("bin/" + PurePosixPath(path).name, node)
            elif _LIBRARIES.fullmatch(path):
                tree.put(path, node)
    for name in ("bin", "lib", "lib64"):
        tree.merge_link(name)
    order = load_order(kernel, (*modules, *_STORAGE))
    names = []
    for path in order:
        name = PurePosixPath(path).name
        names.append(name)
        tree.put(f"usr/lib/modules/{name}", kernel[path])
    tree.add("etc/modules", ("\n".join(names) + "\n").encode(), _RECIPE)
    tree.add("etc/sysctl", (GUEST / "sysctl").read_bytes(), _RECIPE)
    policy = (GUEST / "ima-policy").read_bytes()
    if signed_by is not None:
        tree.add("etc/keys/ima.der", signed_by, _RECIPE)
        policy += (GUEST / "ima-policy-enforce").read_bytes()
    tree.add(POLICY, policy, _RECIPE)
    tree.add("init", (GUEST / "init.sh").read_bytes(), _RECIPE, executable=True)
    tree.folder("dev", "proc", "sys", "sysroot")
    return tree
