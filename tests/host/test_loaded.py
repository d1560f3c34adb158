"""What a manager measures of itself, and the reference values for it (T1)."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from svetovid.errors import HostError
from svetovid.host.measure import Root, digests, find, loaded, loaded_files
from svetovid.host.runtime.own import manager_values
from svetovid.host.runtime.sources import interpreter


def test_t1_what_this_process_runs() -> None:
    found = {f.path for f in loaded_files()}
    assert str(interpreter()) in found
    assert str(Path(loaded.__file__).resolve()) in found
    assert any("/_rust.abi3.so" in p or "cryptography" in p for p in found)
    assert any(p.rpartition("/")[2].startswith("libc.so") for p in found)
    assert all(p.startswith("/") for p in found)


def test_t1_a_module_imported_since_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {f.path for f in loaded_files()}
    path = tmp_path / "late_module.py"
    path.write_text("x = 1\n")
    late = ModuleType("late_module")
    late.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "late_module", late)
    assert {f.path for f in loaded_files()} - before >= {str(path)}
    path.unlink()
    with pytest.raises(HostError, match=r"launcher\.file"):
        loaded_files()
    path.mkdir()
    with pytest.raises(HostError, match=r"launcher\.file"):
        loaded_files()


def test_t1_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded, "_MAPS", tmp_path / "maps")
    with pytest.raises(HostError, match=r"launcher\.file"):
        loaded_files()
    (tmp_path / "maps").write_text(
        "7f00-7f01 r-xp 00000000 00:00 0 [vdso]\n7f01-7f02 r--p 00000000 fe:00 1 /a/data\n"
    )
    assert "/a/data" not in {f.path for f in loaded_files()}


def test_t1_values_cover_the_installation() -> None:
    """Whatever of svetovid and of what it requires is loaded stands in the values."""
    values = manager_values("manager", 3, provenance="this installation")
    assert (values.product, values.version) == ("manager", 3)
    import svetovid

    own = find(Root(Path(svetovid.__file__).parent, str(Path(svetovid.__file__).parent), ".py"))
    for file, value in digests(own):
        assert value in values.files[file.path]
    named = {f.path for f in loaded_files()}
    assert named <= set(values.files)
    assert not [p for p in values.files if p.endswith(".pyc")]
