"""Which files a sandbox needs: an interpreter, its library, the shared objects, distributions.

Answers are pairs of a path inside the sandbox and the file on this host that stands there.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import svetovid
from svetovid.errors import HostError

__all__ = [
    "BOOTSTRAP",
    "DEFAULT_DISTRIBUTIONS",
    "SITE",
    "distribution_files",
    "interpreter_files",
    "requirements",
    "shared_objects",
    "svetovid_files",
]

DEFAULT_DISTRIBUTIONS = ("torch", "numpy", "safetensors")
SITE = PurePosixPath("/opt/site")
"""Where distributions stand in the sandbox; the bootstrap puts it on ``sys.path``."""
BOOTSTRAP = PurePosixPath("/opt/svetovid/bootstrap.py")
_IN_SANDBOX = (
    *("dtypes.py", "errors.py", "training"),
    *(
        f"offload/{name}.py"
        for name in ("__init__", "multiplier", "product", "protecting", "validate")
    ),
    "offload/layers",
)
"""What of svetovid a job's script may import; neither a key, a mask nor the host is in it."""

_BUILD_TOOLS = frozenset({"pip", "setuptools", "wheel"})
"""Asked for by distributions to build with, not to run."""
_STDLIB_WITHOUT = frozenset(
    {
        "dist-packages",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "sitecustomize.py",
        "test",
        "tests",
        "tkinter",
        "turtledemo",
        "turtle.py",
        "venv",
    }
)
_STDLIB_ODD = re.compile(r"config-\d.*|_?tkinter.*|_test.*|_ctypes_test.*|xx.*|_xx.*")
_SITE_WITHOUT = {
    "": frozenset({"bin", "share", "include"}),
    "torch": frozenset({"bin", "include", "share", "test"}),
}
"""Folders left out: at the top of site-packages, and at the top of one distribution."""
_NEEDED_ALL_THE_SAME = frozenset({"torch/bin/torch_shm_manager"})
"""torch does not load without it."""
_TESTS = frozenset({"test", "tests"})
_SUFFIXES_WITHOUT = frozenset({".a", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".pth"})
_LDD_LINE = re.compile(r"^\s+(?:(\S+) => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_DEFAULT_LIBRARY_DIRS = re.compile(r"/(usr/)?lib(64)?(/[\w-]+-linux-gnu\w*)?$")

Pair = tuple[PurePosixPath, Path]


def interpreter() -> Path:
    """The real file of the interpreter that runs this, never a virtual environment's link."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def _loadable(name: str) -> bool:
    """Not a source of C, and no byte code of another interpreter or optimisation level."""
    suffix = PurePosixPath(name).suffix
    if suffix == ".pyc":
        return name.endswith(f".{sys.implementation.cache_tag}.pyc")
    return suffix not in _SUFFIXES_WITHOUT


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name in _STDLIB_WITHOUT or _STDLIB_ODD.fullmatch(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(entry)
        elif _loadable(entry.name) and entry.is_file():
            yield entry


def interpreter_files() -> Iterator[Pair]:
    """The interpreter and its standard library, under their own paths."""
    binary = interpreter()
    yield PurePosixPath(binary), binary
    names = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    folders = {Path(sysconfig.get_path(n, vars=names)) for n in ("stdlib", "platstdlib")}
    for folder in sorted(folders):
        for path in _walk(folder):
            yield PurePosixPath(path), path


def requirements(names: Iterable[str]) -> list[str]:
    """Installed distributions that ``names`` need to run, themselves among them, sorted.

    Raises:
        HostError: ``runtime.distribution`` where one of ``names`` is not installed.
    """
    needed: dict[str, None] = {}
    asked = [(name, True) for name in names]
    while asked:
        name, required = asked.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in needed or key in _BUILD_TOOLS:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as e:
            if required:
                raise HostError(
                    "runtime.distribution",
                    expected=f"{name} to be installed",
                    observed="it is not",
                    next_step='pip install "svetovid[train]"',
                ) from e
            continue  # asked for under a condition that does not hold here
        needed[key] = None
        for line in distribution.requires or []:
            requirement, _, marker = line.partition(";")
            match = re.match(r"[A-Za-z0-9._-]+", requirement)
            if match and "extra" not in marker:
                asked.append((match[0], False))
    return sorted(needed)


def distribution_files(name: str) -> Iterator[Pair]:
    """Files of one installed distribution that can be loaded, under :data:`SITE`.

    Raises:
        HostError: ``runtime.distribution`` where it does not say which files it has.
    """
    distribution = importlib.metadata.distribution(name)
    if distribution.files is None:
        raise HostError(
            "runtime.distribution",
            expected=f"a list of the files of {name}",
            observed="none",
            next_step=f"install {name} from a wheel",
        )
    for entry in distribution.files:
        parts = entry.parts
        if ".." in parts or entry.is_absolute() or not _loadable(entry.name):
            continue
        if parts[0] in _SITE_WITHOUT[""] or _TESTS & set(parts[1:-1]):
            continue
        left_out = len(parts) > 1 and parts[1] in _SITE_WITHOUT.get(parts[0], ())
        if left_out and str(PurePosixPath(*parts)) not in _NEEDED_ALL_THE_SAME:
            continue
        path = Path(str(entry.locate()))
        if path.is_file():
            yield SITE / PurePosixPath(*parts), path


def package() -> Path:
    """Folder of svetovid itself."""
    return Path(next(iter(svetovid.__path__)))


def svetovid_files() -> Iterator[Pair]:
    """What of svetovid itself a job's script may import, and the bootstrap that starts it."""
    own = package()
    wanted = [own / "__init__.py"]
    for name in _IN_SANDBOX:
        path = own / name
        wanted += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    for path in wanted:
        yield SITE / "svetovid" / PurePosixPath(path.relative_to(own)), path
    bootstrap = own / "training" / "_bootstrap.py"
    if bootstrap.is_file():
        yield BOOTSTRAP, bootstrap


def shared_objects(files: Iterable[Path]) -> list[Pair]:
    """Shared libraries that ``files`` load from outside their own folders, with the loader.

    They stand where the loader will look for them without a cache or a configuration: a library
    from another place goes beside libc.

    Raises:
        HostError: ``runtime.ldd`` where ldd is missing or fails.
    """
    objects = [str(f) for f in files if f == interpreter() or ".so" in f.suffixes]
    try:
        run = subprocess.run(
            ["ldd", *objects],
            capture_output=True,
            text=True,
            timeout=300,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise _no_ldd(e) from e
    found = dict.fromkeys((Path(m[2]), m[1]) for m in _LDD_LINE.finditer(run.stdout))
    libc = next((p for p, name in found if name == "libc.so.6"), None)
    if libc is None:
        raise _no_ldd(run.stderr[-200:])
    inside = [Path(sys.base_prefix).resolve(), *{Path(o).parent for o in objects}]
    pairs: dict[PurePosixPath, Path] = {}
    for path, name in found:
        real = path.resolve()
        mirrored = name is None or real.is_relative_to(inside[0])
        if mirrored or _DEFAULT_LIBRARY_DIRS.fullmatch(str(path.parent)):
            pairs[PurePosixPath(path)] = real
        elif path.parent.resolve() not in inside:
            pairs[PurePosixPath(libc.parent / str(name))] = real
    return sorted(pairs.items())


def _no_ldd(observed: object) -> HostError:
    return HostError(
        "runtime.ldd",
        expected="ldd to name the libraries that Python loads",
        observed=observed,
        next_step="apt-get install libc-bin",
    )
