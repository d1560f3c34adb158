"""What decides about trust sees its arguments and nothing else."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
check_pure = importlib.import_module("check_pure")
sys.path.pop(0)


def test_the_rooms_that_decide_are_pure(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_pure.main() == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import os", "imports os"),
        ("import time", "imports time"),
        ("import os.path as p", "imports os.path"),
        ("from io import BytesIO", "imports io.BytesIO"),
        ("import tempfile", "imports tempfile"),
        ("import sqlite3", "imports sqlite3"),
        ("from urllib.request import urlopen", "imports urllib.request.urlopen"),
        ("def f():\n    import ssl", "imports ssl"),
        ("import threading", "imports threading"),
        ("import random", "imports random"),
        ("from ..host import home", "imports a relative import"),
        ("from svetovid.host import HostHome", "imports svetovid.host.HostHome"),
        ("from svetovid.crypto.private import read", "imports svetovid.crypto.private.read"),
        ("from svetovid.crypto import private", "imports svetovid.crypto.private"),
        ("from svetovid.offload import kernels", "imports svetovid.offload.kernels"),
        ("from svetovid.offload.session import Session", "imports svetovid.offload.session."),
        ("from hashlib import file_digest", "imports hashlib.file_digest"),
        ("open('/etc/hosts')", "names open"),
        ("f = open", "names open"),
        ("__import__('os')", "names __import__"),
        ("from datetime import datetime\nf = datetime.now", "reaches for datetime.now"),
        ("import datetime as d\nd.datetime.now()", "calls d.datetime.now()"),
        ("from datetime import datetime as D\nD.now()", "calls D.now()"),
        ("from datetime import date\ndate.today()", "reaches for date.today"),
        ("from svetovid.crypto import Identity\nIdentity.generate('x')", "reaches for Identity."),
        ("import re\nre.sys.modules['os'].environ", "reaches for re.sys.modules['os'].environ"),
    ],
)
def test_what_reaches_further_is_refused(source: str, what: str) -> None:
    assert any(found.startswith(what) for _, found in check_pure.findings(source))


def test_arguments_and_computing_are_not(tmp_path: Path) -> None:
    source = """
from __future__ import annotations
import json, re
from collections.abc import Iterator
from datetime import UTC, datetime
from svetovid.crypto import digest
def f(request):
    return datetime.fromtimestamp(request.now, UTC), re.compile("x"), self._reopen(1)
"""
    assert list(check_pure.findings(source)) == []
