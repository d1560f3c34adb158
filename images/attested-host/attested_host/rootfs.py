"""The root file system: Debian's Python, the agent, the training stack, nothing to log in to."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from attested_host.lock import BuildError
from attested_host.tree import Tree
from attested_host.wheels import SITE

__all__ = [
    "GUEST",
    "OS_RELEASE",
    "RUNTIME",
    "compose",
    "finish",
    "source_files",
    "squash",
    "top_level",
]

GUEST = Path(__file__).with_name("guest")
RUNTIME = "usr/lib/svetovid/runtime"
"""The tree that jobs see."""
OS_RELEASE = b'ID=svetovid\nNAME="Svetovid attested host"\nVERSION_ID=1\n'
_RECIPE = "recipe"
_ROOMS = (
    "assets",
    "crypto",
    "evidence",
    "host",
    "offload",
    "policy",
    "protocol",
    "training",
    "transparency",
)
"""Rooms of svetovid that a host needs. Managers, owners and the command line stay outside."""
_PROGRAMS = frozenset({"usr/bin/python3.11", "usr/bin/bwrap"})
_LIBRARIES = re.compile(
    r"usr/lib64/.*"
    r"|usr/lib/x86_64-linux-gnu/(ossl-modules/.*|[^/]*\.so[^/]*)"
    r"|usr/lib/python3\.11/.*|opt/svetovid/.*|usr/lib/svetovid/.*"
    r"|usr/share/doc/[^/]*/copyright|etc/.*"
)
_STDLIB_WITHOUT = re.compile(
    r"usr/lib/python3\.11/(ensurepip|idlelib|lib2to3|pydoc_data|test|tkinter|turtledemo|venv"
    r"|sitecustomize\.py|lib-dynload/_?(test|tkinter|ctypes_test|xx)[^/]*"
    r"|config-3[^/]*|[^/]*/tests?)(/|$)"
    r"|.*/EXTERNALLY-MANAGED|etc/python3.*"
)
_FOLDERS = ("dev", "mnt", "proc", "root", "run", "sys", "tmp", "var/lib/svetovid")
_LDD = """\
#!/usr/bin/python3.11
import subprocess, sys
for name in sys.argv[1:]:
    print(name + ":")
    sys.stdout.flush()
    subprocess.run(["/lib64/ld-linux-x86-64.so.2", "--list", name], stderr=subprocess.DEVNULL)
"""
# The agent runs its byte code unasked, which is half as much to measure. What a job imports is held
# against its source at each import: both are measured, and a person can read what an owner lists.
_BUILD = """\
import os, pathlib, py_compile, shutil, sys
sys.path.insert(0, "/{site}")
from svetovid.host.runtime import build_runtime
tree = build_runtime(pathlib.Path("/{runtime}"), {distributions!r}, byte_code=False)
pathlib.Path("/{runtime}.json").unlink()
for name in {jobs_only!r}:
    path = pathlib.Path("/{site}", name)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
modes = py_compile.PycInvalidationMode
def compile_all(folder, root, mode):
    for path in sorted(pathlib.Path(folder).rglob("*.py")):
        shown = "/" + str(path.relative_to(root))
        try:
            py_compile.compile(str(path), dfile=shown, doraise=True,
                               invalidation_mode=mode)
        except py_compile.PyCompileError:
            pass
for folder in ("/usr/lib/python3.11", "/{site}"):
    compile_all(folder, "/", modes.UNCHECKED_HASH)
for folder in ("usr/lib/python3.11", "opt"):
    compile_all(tree / folder, tree, modes.CHECKED_HASH)
"""


def _wanted(path: str) -> bool:
    if _STDLIB_WITHOUT.match(path):
        return False
    return path in _PROGRAMS or _LIBRARIES.fullmatch(path) is not None


def source_files(source: Path) -> list[Path]:
    """What of the ``svetovid`` package in ``source`` goes into the image."""
    rooms = [p for room in _ROOMS for p in (source / room).rglob("*.py")]
    return sorted([*source.glob("*.py"), *rooms])


def compose(packages: Iterable[Tree], source: Path) -> Tree:
    """Everything but what the image's own Python makes.

    Args:
        packages: Debian packages and wheels, unpacked.
        source: folder of the ``svetovid`` package.
    """
    tree = Tree()
    for part in packages:
        tree.update(part)
    tree.keep(_wanted)
    for path in source_files(source):
        name = path.relative_to(source).as_posix()
        tree.add(f"{SITE}/svetovid/{name}", path.read_bytes(), "svetovid")
    tree.add("usr/lib/svetovid/service.py", (GUEST / "service.py").read_bytes(), _RECIPE)
    tree.add("etc/os-release", OS_RELEASE, _RECIPE)
    tree.add("etc/passwd", b"root:x:0:0:root:/root:/nonexistent\n", _RECIPE)
    tree.add("etc/group", b"root:x:0:\n", _RECIPE)
    tree.folder(*_FOLDERS)
    for name in ("bin", "sbin", "lib", "lib64"):
        tree.merge_link(name)
    return tree


def top_level(wheels: Iterable[Tree]) -> tuple[str, ...]:
    """What these wheels put right below the folder that packages are imported from."""
    paths = (path for wheel in wheels for path, _ in wheel)
    return tuple(sorted({p.removeprefix(SITE + "/").partition("/")[0] for p in paths}))


def finish(
    tree: Tree, folder: Path, distributions: Iterable[str], jobs_only: Iterable[str] = ()
) -> None:
    """Write ``tree`` to ``folder``, and let its own Python make the runtime and the byte code.

    It runs in namespaces of its own, with nothing of the build machine in sight but the kernel.

    Args:
        distributions: what jobs can import.
        jobs_only: what of it, by the names right below the packages' folder, the agent must not.
    """
    tree.write(folder)
    script = _BUILD.format(
        site=SITE,
        runtime=RUNTIME,
        distributions=tuple(distributions),
        jobs_only=tuple(jobs_only),
    )
    ldd = folder.with_name(folder.name + ".ldd")
    ldd.write_text(_LDD)
    ldd.chmod(0o755)
    (folder / "usr/bin/ldd").touch()
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--clearenv", "--new-session"]
    command += ["--bind", str(folder), "/", "--proc", "/proc", "--dev", "/dev"]
    command += ["--ro-bind", str(ldd), "/usr/bin/ldd", "--tmpfs", "/tmp"]  # noqa: S108
    command += ["--setenv", "PYTHONHASHSEED", "0", "--setenv", "PATH", "/usr/bin"]
    command += ["--setenv", "LC_ALL", "C.UTF-8", "--uid", "0", "--gid", "0"]
    command += ["/usr/bin/python3.11", "-I", "-B", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    (folder / "usr/bin/ldd").unlink()
    ldd.unlink()
    if done.returncode != 0:
        raise BuildError(f"the image's Python: {done.stderr.strip()[-2000:]}")
    for current, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(current) / name
            if not path.is_symlink():
                executable = path.is_dir() or path.stat().st_mode & 0o100
                path.chmod(0o755 if executable else 0o644)


def squash(folder: Path, target: Path) -> None:
    """A squashfs of ``folder``, not compressed: its bytes then depend on no compressor.

    What a block costs to read is dm-verity's hash and IMA's, not the disk's. Extended
    attributes are kept: signatures are some, and nothing else sets any.
    """
    tool = shutil.which("mksquashfs", path="/usr/bin:/usr/sbin:/usr/local/bin")
    if tool is None:
        raise BuildError("mksquashfs was not found: apt-get install squashfs-tools")
    target.unlink(missing_ok=True)
    options = ["-noI", "-noD", "-noF", "-noX", "-xattrs", "-all-root", "-all-time", "0"]
    options += ["-mkfs-time", "0", "-b", "131072", "-processors", "1", "-no-progress", "-quiet"]
    environment = {k: v for k, v in os.environ.items() if k != "SOURCE_DATE_EPOCH"}
    done = subprocess.run(
        [tool, str(folder), str(target), *options],
        capture_output=True, text=True, check=False, timeout=900, env=environment,
    )  # fmt: skip
    if done.returncode != 0:
        raise BuildError(f"mksquashfs: {done.stderr.strip()[-500:]}")
