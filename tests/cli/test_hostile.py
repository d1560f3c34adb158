"""Hostile files to every command that reads one: our error, exit 2 or 3, JSON, no traceback."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from svetovid import stakeholder
from svetovid.cli.main import run
from svetovid.crypto import Identity, Secret, b64encode, keystore
from svetovid.protocol import ManagerPin

CANARY = "canary-passphrase"
DEEP = b"[" * 100_000
BAD: dict[str, bytes] = {
    "empty": b"",
    "binary": bytes(range(256)) * 16,
    "truncated": b'{"payload": "AAAA", "payloadType": "application/vn',
    "deep": DEEP,
    "duplicate": b'{"payload": "AAAA", "payload": "BBBB"}',
    "nan": b'{"a": NaN, "b": 1e999}',
    "bomb": b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n",
    "tag": b"!!python/object/apply:os.system [true]\n",
    "wrong": b'{"version": 1, "other": []}',
    "zero": b"\0" * 5000,
    "surrogate": b'{"a": "\\ud800"}',
    "list": b"[1, 2, 3]",
}
READERS: dict[str, Callable[[str, str, str], list[str]]] = {
    "asset show": lambda bad, home, pin: ["asset", "show", bad],
    "asset verify": lambda bad, home, pin: ["asset", "verify", bad, bad, "--home", home],
    "anchors make": lambda bad, home, pin: [
        "anchors", "make", bad, "--product", "x", "--out", bad + ".out",
    ],
    "anchors publish": lambda bad, home, pin: ["anchors", "publish", bad, "--home", home],
    "reference publish": lambda bad, home, pin: ["reference", "publish", bad, "--home", home],
    "reference show": lambda bad, home, pin: ["reference", "show", bad],
    "reference propose": lambda bad, home, pin: [
        "reference", "propose", bad, "--known", bad, "--out", bad + ".out",
    ],
    "reference make": lambda bad, home, pin: [
        "reference", "make", "--product", "x", "--debian", bad, "--out", bad + ".out",
    ],
    "reference make image": lambda bad, home, pin: [
        "reference", "make", "--product", "x", "--container", bad, "--out", bad + ".out",
    ],
    "manager pin": lambda bad, home, pin: ["manager", "pin", bad, "--home", home],
    "policy check": lambda bad, home, pin: ["policy", "check", bad, "--home", home],
    "policy publish": lambda bad, home, pin: ["policy", "publish", bad, "--home", home],
    "job propose": lambda bad, home, pin: ["job", "propose", bad, "--home", home],
    "job show": lambda bad, home, pin: ["job", "show", bad],
    "job consent": lambda bad, home, pin: ["job", "consent", bad, "--home", home, "--yes"],
    "job status": lambda bad, home, pin: ["job", "status", bad, "--home", home],
    "host sign": lambda bad, home, pin: [
        "host", "sign", bad, "--home", home, "--out", bad + ".out",
    ],
    "host run": lambda bad, home, pin: ["host", "run", bad, "--home", home, "--manager", pin],
    "receipt show": lambda bad, home, pin: ["receipt", "show", bad],
    "receipt verify": lambda bad, home, pin: [
        "receipt", "verify", bad, "--anchors", bad, "--references", bad, "--manager", pin,
    ],
    "receipt verify pin": lambda bad, home, pin: [
        "receipt", "verify", bad, "--anchors", bad, "--references", bad, "--manager", bad,
    ],
    "output open": lambda bad, home, pin: [
        "output", "open", bad, "--home", home, "--receipt", bad, "--anchors", bad,
        "--references", bad, "--to", bad + ".out",
    ],
    "asset seal": lambda bad, home, pin: ["asset", "seal", bad + ".npz", "--home", home],
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "pass").write_text(CANARY)
    (folder / "pass").chmod(0o600)
    who = stakeholder.create(folder / "ann", "ann", Secret(CANARY.encode()))
    pin = ManagerPin(
        card=Identity.generate("manager").signed_card(),
        tls_certificate=b64encode(b"x" * 256),  # never dialled
        url="https://127.0.0.1:1",
    )
    (folder / "manager.json").write_bytes(pin.canonical())
    stakeholder.pin_manager(who, folder / "manager.json")
    return folder


@pytest.fixture(autouse=True)
def _setting(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("SVETOVID_PASSPHRASE_FILE", str(place / "pass"))
    monkeypatch.delenv("SVETOVID_DEBUG", raising=False)
    opened = {}
    real = keystore.load

    def once(path: Path, passphrase: Secret) -> Identity:  # stretching is not what is tested
        if path not in opened:
            opened[path] = real(path, passphrase)
        return opened[path]

    monkeypatch.setattr(keystore, "load", once)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["tpm", "simulate", "manager.json"], "home.folder"),
        (["tpm", "simulate", "manager.json/ca"], "home.folder"),
        (["tpm", "simulate", "ca", "--tpm", "nonsense"], "tpm.spec"),
        (["tpm", "simulate", "ca", "--tpm", "libtpms:manager.json/x"], "tpm.state"),
        (["manager", "serve", "--home", "manager.json"], "home.folder"),
        (["manager", "serve", "--home", "manager.json/x", "--background"], "home.folder"),
        (["manager", "serve", "--home", "new", "--tpm", "nonsense"], "tpm.spec"),
        (["manager", "serve", "--home", "new", "--port", "70000"], "cli.usage"),
        (["host", "init", "--home", "manager.json", "--name", "a"], "host.home"),
        (["host", "init", "--home", "ann", "--name", "a"], "host.exists"),
        (["host", "init", "--home", "h", "--name", "../a"], "host.name"),
        (["host", "init", "--home", "h", "--name", "a", "--manager", "manager.json"], "host.enrol"),
        (["host", "status", "--home", "ann"], "host.home"),
        (["host", "run", "none", "--home", "ann"], "file.unreadable"),
    ],
)
def test_places_that_are_none(
    args: list[str], code: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    assert run([*args, "--json"]) in (2, 4)
    error = json.loads(capsys.readouterr().out)
    if error["error"] == "tpm.absent":
        pytest.skip("libtpms.so.0 is not installed")
    assert error["error"] == code
    assert error["reasons"][0]["next_step"]
    after = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    assert {p: d for p, d in after.items() if p in before} == before
    assert not (place / "h").exists()


@pytest.mark.parametrize("command", READERS)
def test_hostile_files(command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p for p in place.rglob("*") if p.suffix in (".out", ".sealed")}
    for name, data in BAD.items():
        bad = place / f"{name}.bad"
        bad.write_bytes(data)
        (place / f"{name}.bad.npz").write_bytes(data)
        args = READERS[command](str(bad), str(place / "ann"), str(place / "manager.json"))
        code = run([*args, "--json"])
        seen = capsys.readouterr()
        assert code in (2, 3), (name, seen.out)
        value = json.loads(seen.out)
        assert value["exit_code"] == code
        assert value["error"] not in ("internal", "cli.usage"), (name, value)
        assert "Traceback" not in seen.err
        assert CANARY not in seen.out + seen.err
    assert {p for p in place.rglob("*") if p.suffix in (".out", ".sealed")} == before


@pytest.mark.parametrize("command", READERS)
def test_missing_and_huge_files(
    command: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, pin = str(place / "ann"), str(place / "manager.json")
    huge = place / "huge.bad"
    with huge.open("wb") as f:
        f.truncate(1 << 40)  # sparse
    with (place / "huge.bad.npz").open("wb") as f:
        f.truncate(1 << 40)
    for bad in (place / "none", huge, place):
        assert run([*READERS[command](str(bad), home, pin), "--json"]) in (2, 3)
        assert json.loads(capsys.readouterr().out)["error"] != "internal"
    huge.unlink()
    (place / "huge.bad.npz").unlink()


def test_unreachable_manager_is_exit_5(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pin whose certificate cannot be one is refused; nobody is asked without it (T1)."""
    assert run(["manager", "verify", "--home", str(place / "ann"), "--json"]) in (3, 5)
    assert json.loads(capsys.readouterr().out)["error"].split(".")[0] in ("channel", "transport")


def test_the_canary_is_in_no_file_of_the_home(place: Path) -> None:
    for path in (place / "ann").rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes()
