"""Builds the tree that is the whole root file system of a sandbox.

It mirrors the absolute paths of the interpreter and of the libraries, so that ``sys.prefix`` and
run paths hold when the tree becomes ``/``; distributions stand in ``/opt/site``. It holds regular
files and folders only: no link, no device, no ``.pth``, no program but the interpreter.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from svetovid.crypto.private import write_private
from svetovid.errors import HostError
from svetovid.host.runtime import sources
from svetovid.host.runtime.sources import DEFAULT_DISTRIBUTIONS

__all__ = ["MOUNT_POINTS", "build_runtime"]

MOUNT_POINTS = ("code", "dev", "proc", "run", "sys", "tmp")
"""Empty folders for what the sandbox mounts."""
_FORMAT = 2
_FOLDER, _PROGRAM, _FILE = 0o755, 0o755, 0o644
"""Modes in a tree: a job's uid is another than the agent's, and must be able to read it."""
_PYC_HEADER = 16
_UNCHECKED_HASH = b"\x01\0\0\0"
"""PEP 552: byte code that carries a digest of its source, and is not held against it on import."""

Plan = dict[PurePosixPath, Path]
Stamp = dict[str, list[object]]


def _bad_target(target: Path, observed: object) -> HostError:
    return HostError(
        "runtime.build",
        expected=f"to build a runtime at {target}",
        observed=observed,
        next_step="choose a folder that you may write, with 2 GB left",
    )


def _stamp(plan: Plan) -> Stamp:
    """What the plan's files looked like; while this stays, so does the tree made from them."""
    out: Stamp = {}
    for inside, path in plan.items():
        status = path.stat()
        out[str(inside)] = [str(path), status.st_size, status.st_mtime_ns]
    return out


def _plan(distributions: Sequence[str]) -> Plan:
    plan = dict(sources.interpreter_files())
    for name in sources.requirements(distributions):
        plan.update(sources.distribution_files(name))
    plan.update(sources.svetovid_files())
    return plan


def _is_current(target: Path, record: Path, files: Stamp) -> bool:
    """Whether the tree was made from these very files, and libraries that are still the same."""
    try:
        known = json.loads(record.read_bytes())
        libraries = {PurePosixPath(k): Path(v[0]) for k, v in known["libraries"].items()}
        return (
            target.is_dir()
            and known["format"] == _FORMAT
            and known["files"] == files
            and known["libraries"] == _stamp(libraries)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return False


def _byte_code(path: Path) -> bytes | None:
    """``path`` (a .pyc) with a header free of times, or None where it is not of its source.

    Its digest then follows from the source, the interpreter and where it was compiled, and no
    longer from when.
    """
    source = path.parent.parent / (path.name.partition(".")[0] + ".py")
    try:
        data, text, status = path.read_bytes(), source.read_bytes(), source.stat()
    except OSError:
        return None
    made_from = int(status.st_mtime).to_bytes(8, "little")[:4] + (
        status.st_size & 0xFFFFFFFF
    ).to_bytes(4, "little")
    if data[:4] != importlib.util.MAGIC_NUMBER or data[4:_PYC_HEADER] != bytes(4) + made_from:
        return None
    return data[:4] + _UNCHECKED_HASH + importlib.util.source_hash(text) + data[_PYC_HEADER:]


def _place(path: Path, to: str, *, link: bool) -> None:
    """Put ``path`` at ``to``, as a link to the same file where everybody may read that."""
    mode = path.stat().st_mode
    wanted = _PROGRAM if mode & 0o100 else _FILE
    if link and (mode & wanted & 0o005) == (wanted & 0o005):
        # Another file system, or a kernel that lets nobody link what is not theirs: copy.
        with contextlib.suppress(OSError):
            os.link(os.path.realpath(path), to)
            return
    shutil.copy2(path, to)
    os.chmod(to, wanted)  # noqa: PTH101


def _fill(tree: Path, plan: Plan) -> None:
    own = sources.package()
    made: set[str] = set()
    for inside, path in plan.items():
        to = f"{tree}{inside}"
        folder = os.path.dirname(to)  # noqa: PTH120  ten thousand times
        if folder not in made:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103
            made.add(folder)
        if path.suffix == ".pyc":
            code = _byte_code(path)
            if code is not None:
                Path(to).write_bytes(code)
                os.chmod(to, _FILE)  # noqa: PTH101
        else:
            # Our own files may be edited in place where they are developed: never linked.
            _place(path, to, link=not path.is_relative_to(own))
    for name in MOUNT_POINTS:
        (tree / name).mkdir(exist_ok=True)
    for folder, _, _ in os.walk(tree):
        os.chmod(folder, _FOLDER)  # noqa: PTH101


def _replace(new: Path, target: Path) -> None:
    if not target.exists():
        new.rename(target)
        return
    old = target.with_name(f".{target.name}.old.{secrets.token_hex(4)}")
    target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One builder of a target at a time."""
    fd = os.open(target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def build_runtime(
    target: Path, distributions: Sequence[str] = DEFAULT_DISTRIBUTIONS, *, byte_code: bool = True
) -> Path:
    """Build the runtime tree at ``target`` from this interpreter and installed distributions.

    It appears whole or not at all, and is not built again while nothing it is made from changed.
    Files are hard-linked where the file system allows it.

    Args:
        target: the tree; ``target``.json beside it says what it was made from.
        distributions: names; what they require comes with them.
        byte_code: take compiled modules along, which makes imports quick. Without it every digest
            follows from the interpreter and the wheels alone, so that anyone can recompute them.

    Returns:
        ``target``, resolved.

    Raises:
        HostError: ``runtime.distribution``, ``runtime.ldd``, ``runtime.build``.
    """
    target = target.resolve()
    record = target.with_name(target.name + ".json")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            plan = _plan(distributions)
            if not byte_code:
                plan = {k: v for k, v in plan.items() if v.suffix != ".pyc"}
            files = _stamp(plan)
            if _is_current(target, record, files):
                return target
            libraries = dict(sources.shared_objects(plan.values()))
            tree = target.with_name(f".{target.name}.new.{secrets.token_hex(4)}")
            try:
                tree.mkdir()
                _fill(tree, plan | libraries)
                record.unlink(missing_ok=True)  # a crash from here on means: build again
                _replace(tree, target)
            finally:
                shutil.rmtree(tree, ignore_errors=True)
            known = {"format": _FORMAT, "files": files, "libraries": _stamp(libraries)}
            write_private(record, json.dumps(known).encode())
    except OSError as e:
        raise _bad_target(target, e.strerror or e) from e
    return target
