"""The runtime tree: what is in it, that it runs as a root file system, and its digests."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import py_compile
import shutil
import stat
import subprocess
import sys
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest

from svetovid.errors import HostError
from svetovid.host.measure import Root
from svetovid.host.runtime import (
    BOOTSTRAP,
    MOUNT_POINTS,
    SITE,
    build_runtime,
    environment_digest,
    interpreter,
    reference_values,
    runtime_files,
    sources,
)
from svetovid.host.runtime import build as build_module

BY_TIME = py_compile.PycInvalidationMode.TIMESTAMP
SMALL = ("typing-extensions",)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runtime without torch: seconds less, and the same in every other way."""
    return build_runtime(tmp_path_factory.mktemp("runtime") / "tree", SMALL)


@pytest.fixture(scope="module")
def files(tree: Path) -> dict[str, str]:
    return runtime_files(tree)


def _inside(tree: Path, code: str) -> str:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    command = ["bwrap", "--ro-bind", str(tree), "/", "--proc", "/proc", "--dev", "/dev"]
    command += ["--tmpfs", "/tmp", "--unshare-all", "--clearenv", "--die-with-parent"]
    command += [str(interpreter()), "-I", "-S", "-B", "-c"]
    code = f"import sys; sys.path.insert(0, {str(SITE)!r}); " + code
    run = subprocess.run([*command, code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_it_runs_as_a_root_file_system(tree: Path) -> None:
    out = _inside(
        tree,
        "import os, ssl, ctypes, sqlite3, hashlib, typing_extensions, svetovid.training;"
        "from svetovid.errors import HostError;"
        "print(sys.prefix, sorted(os.listdir('/')), 'pydantic' in sys.modules)",
    )
    assert out.startswith(sys.base_prefix)
    assert out.rstrip().endswith("False")
    for name in MOUNT_POINTS:
        assert repr(name) in out


def test_only_what_may_be_loaded_is_in_it(tree: Path, files: dict[str, str]) -> None:
    """T7, T8."""
    for path in files:
        parts = PurePosixPath(path).parts
        assert not {"test", "tests", "idlelib", "tkinter", "ensurepip"} & set(parts[:-1]), path
        assert PurePosixPath(path).suffix not in {".pth", ".a", ".h"}, path
    own = {p.removeprefix(f"{SITE}/svetovid/") for p in files if p.startswith(f"{SITE}/svetovid/")}
    ground = {"__init__.py", "dtypes.py", "errors.py"}
    ground |= {f"offload/{n}.py" for n in ("__init__", "multiplier", "product")}
    ground |= {f"offload/{n}.py" for n in ("protecting", "validate")}
    assert {*ground, "training/__init__.py", "offload/layers/linear.py"} <= own
    assert all(p in ground or p.startswith(("training/", "offload/layers/")) for p in own)
    programs = [p for p in files if os.access(f"{tree}{p}", os.X_OK) and ".so" not in p]
    assert str(interpreter()) in programs


def test_no_file_of_ours_is_linked(tree: Path) -> None:
    """An edit in place of a checkout must not change a tree that was measured."""
    path = Path(f"{tree}{SITE}/svetovid/errors.py")
    assert path.read_bytes() == (sources.package() / "errors.py").read_bytes()
    assert path.stat().st_nlink == 1


def test_it_is_built_once(tree: Path) -> None:
    before = tree.stat()
    assert build_runtime(tree, SMALL) == tree
    assert tree.stat() == before


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"libraries": {"/lib/x": 7}}', None])
def test_a_record_that_says_nothing_means_build_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str | None
) -> None:
    target = tmp_path / "tree"
    target.mkdir()
    (target / "stale").touch()
    if record is not None:
        (tmp_path / "tree.json").write_text(record)
    else:
        known = json.loads(tree.with_name("tree.json").read_text())
        first = next(iter(known["libraries"]))
        known["libraries"][first][1] += 1  # a library was upgraded since
        (tmp_path / "tree.json").write_text(json.dumps(known))
    monkeypatch.setattr(build_module, "_fill", lambda new, plan: (new / "filled").touch())
    build_runtime(target, SMALL)
    assert [p.name for p in target.iterdir()] == ["filled"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".tree.lock", "tree", "tree.json"]


def test_a_build_that_fails_leaves_the_old_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "tree"
    target.mkdir()
    (target / "old").touch()

    def fill(new: Path, plan: object) -> None:
        (new / "half").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build_module, "_fill", fill)
    with pytest.raises(HostError) as e:
        build_runtime(target, SMALL)
    assert e.value.code == "runtime.build"
    assert "No space" in e.value.reason.observed
    assert [p.name for p in target.iterdir()] == ["old"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".tree.lock", "tree"]


def test_without_byte_code(tmp_path: Path, files: dict[str, str]) -> None:
    """Then every digest follows from the interpreter and the wheels alone."""
    bare = runtime_files(build_runtime(tmp_path / "tree", SMALL, byte_code=False))
    assert bare == {p: d for p, d in files.items() if not p.endswith(".pyc")}
    assert any(p.endswith(".pyc") for p in files)


def test_where_links_are_not_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    (tmp_path / "from").write_text("x")
    (tmp_path / "from").chmod(0o755)
    build_module._place(tmp_path / "from", str(tmp_path / "linked"), link=True)
    assert (tmp_path / "linked").stat().st_ino == (tmp_path / "from").stat().st_ino
    monkeypatch.setattr(os, "link", refuse)
    build_module._place(tmp_path / "from", str(tmp_path / "copied"), link=True)
    assert (tmp_path / "copied").stat().st_ino != (tmp_path / "from").stat().st_ino
    assert stat.S_IMODE((tmp_path / "copied").stat().st_mode) == 0o755


def test_byte_code_of_another_source_is_left_out(tmp_path: Path) -> None:
    source, cache = tmp_path / "m.py", Path(importlib.util.cache_from_source(tmp_path / "m.py"))
    source.write_text("x = 1\n")
    py_compile.compile(str(source), invalidation_mode=BY_TIME)
    code = build_module._byte_code(cache)
    assert code is not None
    assert code[4:8] == b"\x01\0\0\0"  # PEP 552: by hash, unchecked
    assert code[8:16] == importlib.util.source_hash(source.read_bytes())
    os.utime(source, (1, 1))
    assert build_module._byte_code(cache) is None  # compiled from something else, it may be
    source.unlink()
    assert build_module._byte_code(cache) is None


def test_byte_code_does_not_tell_when_it_was_compiled(tmp_path: Path) -> None:
    source, cache = tmp_path / "m.py", Path(importlib.util.cache_from_source(tmp_path / "m.py"))
    source.write_text("x = 1\n")
    seen = set()
    for when in (1_000_000_000, 1_100_000_000):
        os.utime(source, (when, when))
        py_compile.compile(str(source), invalidation_mode=BY_TIME)
        seen.add(build_module._byte_code(cache))
    assert len(seen) == 1
    assert None not in seen


def test_what_is_not_installed_is_named() -> None:
    with pytest.raises(HostError) as e:
        sources.requirements(["no-such-distribution"])
    assert e.value.code == "runtime.distribution"
    assert "no-such-distribution" in e.value.reason.expected


def test_a_distribution_without_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.metadata, "distribution", lambda name: SimpleNamespace(files=None)
    )
    with pytest.raises(HostError) as e:
        list(sources.distribution_files("x"))
    assert e.value.code == "runtime.distribution"


def _distribution(folder: Path, *names: str) -> SimpleNamespace:
    entries = []
    for name in names:
        entry = importlib.metadata.PackagePath(name)
        entry.dist = SimpleNamespace(locate_file=lambda p: folder / p)  # type: ignore[assignment]
        if name[0] not in "./" and name != "gone.py":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        entries.append(entry)
    return SimpleNamespace(files=entries)


def test_which_files_of_a_distribution_come_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_out = "torch/bin/protoc torch/test/x.py torch/nn/tests/y.py torch/include/z.h evil.pth"
    left_out += " ../../../bin/torchrun gone.py torch/lib/lib.a bin/x /etc/passwd"
    left_out += " torch/__pycache__/a.cpython-27.pyc"
    taken = "torch/a.py torch/bin/torch_shm_manager torch/lib/libtorch.so"
    d = _distribution(tmp_path, *taken.split(), *left_out.split())
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: d)
    found = [str(inside) for inside, _ in sources.distribution_files("torch")]
    assert found == [f"{SITE}/{name}" for name in taken.split()]


def test_requirements_come_along_and_build_tools_do_not() -> None:
    needed = sources.requirements(["torch"])
    assert {"torch", "sympy", "mpmath", "jinja2", "markupsafe"} <= set(needed)
    assert "setuptools" not in needed
    assert "optree" not in needed


@pytest.fixture
def fake_ldd(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    answer: dict[str, object] = {"stdout": "", "stderr": "no ldd"}

    def run(*_: object, **__: object) -> SimpleNamespace:
        if "error" in answer:
            raise FileNotFoundError("ldd")
        return SimpleNamespace(**answer)

    monkeypatch.setattr(subprocess, "run", run)
    return answer


def test_ldd_is_needed(fake_ldd: dict[str, object]) -> None:
    for _ in range(2):
        with pytest.raises(HostError) as e:
            sources.shared_objects([interpreter()])
        assert e.value.code == "runtime.ldd"
        fake_ldd["error"] = True


def test_a_library_from_elsewhere_goes_beside_libc(fake_ldd: dict[str, object]) -> None:
    """There is no cache in the sandbox that would find it in its own place."""
    fake_ldd["stdout"] = (
        "/x/ext/m.so:\n"
        "\tlinux-vdso.so.1 (0x00007ffd)\n"
        "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f00)\n"
        "\tlibodd.so.1 => /usr/local/odd/libodd.so.1 (0x00007f00)\n"
        "\tlibown.so => /x/ext/libown.so (0x00007f00)\n"
        "\tlibnone.so => not found\n"
        f"\tlibpy.so => {sys.base_prefix}/lib/libpy.so (0x00007f00)\n"
        "\t/lib64/ld-linux-x86-64.so.2 (0x00007f00)\n"
    )
    found = {
        str(inside): str(real) for inside, real in sources.shared_objects([Path("/x/ext/m.so")])
    }
    assert set(found) == {
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/lib/x86_64-linux-gnu/libodd.so.1",
        "/lib64/ld-linux-x86-64.so.2",
        f"{sys.base_prefix}/lib/libpy.so",
    }
    assert found["/lib/x86_64-linux-gnu/libodd.so.1"] == "/usr/local/odd/libodd.so.1"


def test_digests_follow_the_bytes(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    (tree / "a" / "x.py").write_text("x")
    (tree / "b.py").write_text("b")
    files = runtime_files(tree)
    assert list(files) == ["/a/x.py", "/b.py"]
    before = environment_digest(tree)
    assert environment_digest(tree) == before
    (tree / "b.py").write_text("c")
    assert environment_digest(tree) != before
    (tree / "link").symlink_to("b.py")
    with pytest.raises(HostError) as e:
        runtime_files(tree)
    assert e.value.code == "launcher.file"


def test_reference_values_cover_what_the_launcher_measures(tmp_path: Path) -> None:
    """T2."""
    tree, agent = tmp_path / "tree", tmp_path / "agent"
    for folder, text in ((tree, "inside"), (agent, "outside")):
        folder.mkdir()
        (folder / "a.py").write_text(text)
    (agent / "same.py").write_text("same")
    (tree / "same.py").write_text("same")
    values = reference_values(
        tree, "runtime", 3, provenance="a test", roots=[Root(agent, "/")], valid_from=1
    )
    assert (values.product, values.version, values.valid_from) == ("runtime", 3, 1)
    assert len(values.files["/a.py"]) == 2  # one path, seen in the sandbox and outside
    assert len(values.files["/same.py"]) == 1
    assert values.tee_measurements == (environment_digest(tree),)
    assert reference_values(tree, "r", 1, roots=(), tee_measurements=()).tee_measurements == ()
    own = reference_values(tree, "r", 1)
    assert any(p.endswith("/svetovid/errors.py") for p in own.files)


@pytest.mark.slow
def test_torch_runs_inside(tmp_path: Path) -> None:
    tree = build_runtime(tmp_path / "tree")
    out = _inside(
        tree,
        "import torch, numpy, safetensors.torch, torch.utils.data;"
        "m = torch.nn.Conv2d(1, 4, 3); m(torch.ones(1, 1, 5, 5)).sum().backward();"
        "print(torch.ones(3) @ torch.ones(3))",
    )
    assert out == "tensor(3.)\n"
    assert str(BOOTSTRAP).startswith("/opt/")
