"""What a package exports says what it is; what is left unsaid is found."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
check_docstrings = importlib.import_module("check_docstrings")
sys.path.pop(0)

MODULE = '''
class Bare:
    @property
    def size(self): ...

    @size.setter
    def size(self, value): ...

    def _own(self): ...

class Made:
    """Said."""

    def __init__(self, a, b, *, c):
        """Nothing more."""

    def said(self, a, b):
        """Both are plain."""

    @staticmethod
    def many(a, b, *, c):
        """Three."""

class Listed:
    """Said.

    Attributes:
        a, b, c: three.
    """

    def __init__(self, a, b, c): ...

def three(a, b, c):
    """Said.

    Args:
        a, b, c: three.
    """

def unsaid(): ...

async def later(a, b, /, c):
    """Three."""

def hidden(): ...
'''


def test_every_public_name_has_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_docstrings.main() == 0, capsys.readouterr().out


def test_what_is_exported_is_found_where_it_is_defined() -> None:
    found = check_docstrings.public(ROOT / "src" / "svetovid")
    assert {"crypto/identity.py:Identity", "evidence/documents.py:binding"} <= found.keys()
    assert "host/home.py:HostHome" in found


def test_what_is_left_unsaid_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = tmp_path / "svetovid"
    package.mkdir()
    names = ["Bare", "Listed", "Made", "later", "three", "unsaid"]
    text = f"from svetovid.inner import {', '.join(names)}\n__all__ = {names}\n"
    (package / "__init__.py").write_text(text)
    (package / "inner.py").write_text(MODULE)
    assert check_docstrings.main(package) == 1
    said = [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()]
    assert sorted(said) == [
        "Bare has no docstring",
        "Bare.size has no docstring",
        "Made names no Args",
        "Made.many names no Args",
        "later names no Args",
        "unsaid has no docstring",
    ]
