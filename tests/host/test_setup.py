"""A home appears whole or not at all, and takes nobody's name (T3)."""

from __future__ import annotations

import os
import signal
import stat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from svetovid.crypto import Secret, keystore
from svetovid.errors import HostError, InputError, IntegrityError, SvetovidError
from svetovid.evidence.documents import ReferenceValues, TrustAnchors
from svetovid.host import HostHome, HostMade, StatementRequest, host_status, init_host, setup

PASSPHRASE = Secret(b"passphrase")
STEPS = ["_anchors", "build_runtime", "reference_values", "write_private", "_publish", "_move_up"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2id with little memory: these tests are about other things."""
    real = keystore._Header

    def cheap(**fields: Any) -> Any:
        return real(**(fields | {"memory_kib": 19 << 10, "passes": 1}))

    monkeypatch.setattr(keystore, "_Header", cheap)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runtime of one file: what is in it does not matter here."""
    folder = tmp_path_factory.mktemp("tree")
    (folder / "file").write_text("x")
    return folder


def init(home: Path, tree: Path, **changes: Any) -> HostMade:
    fields: dict[str, Any] = {
        "name": "box",
        "runtime": tree,
        "passphrase": PASSPHRASE,
        "kind": "simulated-tee",
    }
    try:
        return init_host(home, **(fields | changes))
    except HostError as e:
        if e.code == "tpm.absent":
            pytest.skip("libtpms.so.0 is not installed")
        raise


def code_of(home: Path, tree: Path, **changes: Any) -> str:
    with pytest.raises(SvetovidError) as e:
        init(home, tree, **changes)
    assert e.value.reason.next_step
    return e.value.code


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ["tpm", "simulated-tee"])
def test_t3_a_home_is_private_and_made_once(tmp_path: Path, tree: Path, kind: str) -> None:
    home, public = tmp_path / "h", tmp_path / "public"
    made = init(home, tree, kind=kind, public=public)
    assert made.simulated
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    private = {
        "host.json",
        "agent.json",
        "link.pem",
        *(["tpm.state"] if kind == "tpm" else ["tee/tee.key"]),
    }
    for name in private:
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600, name
    at = HostHome(home)
    assert at.config().name == made.request.host == "box"
    assert StatementRequest.parse((home / "request.json").read_bytes()) == made.request
    assert not (home / ".init").exists()
    assert str(home) in at.config().tpm or kind != "tpm"
    if kind == "tpm":  # what was made in the draft is found in the home
        with at.open_tpm() as tpm:
            assert tpm.ek_certificate() is not None
    names = ["anchors.json", "references.json", "request.json", "link.crt"]
    assert made.published == tuple(public / f"box.{n}" for n in names)
    anchors, references, request, link = (p.read_bytes() for p in made.published)
    assert link == (home / "link.crt").read_bytes()
    assert StatementRequest.parse(request) == made.request
    (anchor,) = TrustAnchors.parse(anchors).anchors
    assert anchor.simulated
    assert "/file" in ReferenceValues.parse(references, max_bytes=1 << 24).files
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o644 for p in made.published)
    before = content(home)
    assert code_of(home, tree, kind=kind) == "host.exists"
    assert content(home) == before


def test_t3_the_agents_key_is_sealed(tmp_path: Path) -> None:
    made = init_host(
        tmp_path / "h", name="box", passphrase=PASSPHRASE, runtime=tmp_path, kind="simulated-tee"
    )
    assert HostHome(tmp_path / "h").agent(PASSPHRASE).key_id == made.request.agent
    with pytest.raises(IntegrityError):
        HostHome(tmp_path / "h").agent(Secret(b"wrong"))


def test_a_home_with_a_runtime_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(target: Path) -> Path:
        target.mkdir()
        (target / "file").write_text("built")
        return target

    monkeypatch.setattr(setup, "build_runtime", build)
    init(tmp_path / "h", tmp_path, runtime=None)
    assert HostHome(tmp_path / "h").runtime == tmp_path / "h" / "runtime"
    assert (tmp_path / "h" / "runtime" / "file").read_text() == "built"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("tpm", OSError(28, "Full")),
        ("simulated-tee", HostError("x.y")),
        ("simulated-tee", KeyboardInterrupt),
    ],
)
def test_t3_what_fails_leaves_nothing(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, kind: str, step: str, error: Any
) -> None:
    """Neither in the home nor among what is published; and it may be tried again."""

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    home, public = tmp_path / "h", tmp_path / "public"
    for fresh in (True, False):
        if not fresh:
            home.mkdir(mode=0o700)
        runtime = None if step == "build_runtime" else tree
        with monkeypatch.context() as m:
            m.setattr(setup, step, fail)
            with pytest.raises((SvetovidError, KeyboardInterrupt)) as e:
                init(home, tree, kind=kind, public=public, runtime=runtime)
        if isinstance(e.value, SvetovidError):
            assert e.value.code in ("host.home", "x.y")
        assert home.exists() is not fresh
        assert not fresh or not home.exists()
        assert content(tmp_path) == {}
    assert init(home, tree, kind=kind, public=public).request.kind == kind


def test_t3_the_second_file_published_fails(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = setup._publish, []

    def second_fails(path: Path, document: Any) -> bool:
        seen.append(path)
        if len(seen) == 2:
            raise HostError("file.write", next_step="make room")
        return real(path, document)

    monkeypatch.setattr(setup, "_publish", second_fails)
    assert code_of(tmp_path / "h", tree, public=tmp_path / "public") == "file.write"
    assert content(tmp_path) == {}


def _killed_at(step: int, home: Path, tree: Path) -> None:
    """Set a host up, in a process of its own that ends at the ``step``-th change to the disk."""
    left = step

    def fatal(real: Any) -> Any:
        def act(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return act

    for name in ("rename", "replace", "mkdir", "open", "link"):
        setattr(os, name, fatal(getattr(os, name)))
    init(home, tree)


def test_t3_killed_anywhere(tmp_path: Path, tree: Path) -> None:
    """kill -9 at any step leaves a host or none, and never half of one."""
    home = tmp_path / "h"
    for step in range(1, 100):
        process = get_context("fork").Process(target=_killed_at, args=(step, home, tree))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        if (home / "host.json").exists():  # killed after the last step that counts, or not at all
            break
        assert process.exitcode != 0
        with pytest.raises(InputError) as e:
            host_status(home)
        assert e.value.code == "host.home"
    assert step > 20
    assert HostHome(home).agent(PASSPHRASE).name == host_status(home).name == "box"


def test_a_folder_that_is_not_ours_to_take(tmp_path: Path, tree: Path) -> None:
    home = tmp_path / "h"
    home.mkdir(mode=0o700)
    (home / "diary").write_text("mine")
    assert code_of(home, tree) == "host.exists"
    assert content(home) == {"diary": b"mine"}
    (home / "diary").unlink()
    home.chmod(0o755)
    assert code_of(home, tree) == "home.mode"
    link = tmp_path / "link"
    link.symlink_to(home)
    assert code_of(link, tree) == "home.folder"
    (tmp_path / "file").write_text("")
    assert code_of(tmp_path / "file" / "h", tree) == "host.home"
    assert code_of(tmp_path / "file", tree) == "host.home"
    public = tmp_path / "file" / "public"
    with pytest.raises(HostError) as e:
        init(tmp_path / "new", tree, public=public)
    assert e.value.code == "host.home"
    assert str(public) in e.value.reason.expected
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["", "a/b", "../box", "Box", "-box", "b" * 57, "bоx", "box\n"])
def test_names_that_are_no_names(tmp_path: Path, tree: Path, name: str) -> None:
    """Files are called by it: neither path tricks nor look-alikes."""
    assert code_of(tmp_path / "h", tree, name=name, public=tmp_path / "public") == "host.name"
    assert content(tmp_path) == {}
    longest = "b" * 56
    made = init(tmp_path / "h", tree, name=longest, public=tmp_path / "public")
    assert made.published[0].name == f"{longest}.anchors.json"


def test_two_set_ups_at_once(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "h"
    real = setup.reference_values

    def meanwhile(*args: Any, **kwargs: Any) -> ReferenceValues:
        before = content(home)
        assert code_of(home, tree) == "host.exists"
        assert content(home) == before
        return real(*args, **kwargs)

    monkeypatch.setattr(setup, "reference_values", meanwhile)
    init(home, tree, public=tmp_path / "public")


@pytest.mark.parametrize("left", ["anchors", "references", "request"])
def test_t3_a_name_that_another_host_has(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    public = tmp_path / "public"
    init(tmp_path / "one", tree, public=public)
    for path in public.iterdir():
        if path.name != f"box.{left}.json":
            path.unlink()
    before = content(public)
    with monkeypatch.context() as m:
        m.setattr(setup, "build_runtime", lambda _: pytest.fail("found out too late"))
        assert code_of(tmp_path / "two", tree, public=public, runtime=None) == "host.exists"
        m.setattr(setup, "_free", lambda _: None)  # both looked at the same moment
        assert code_of(tmp_path / "two", tree, public=public) == "file.exists"
    assert not (tmp_path / "two").exists()
    assert content(public) == before
    init(tmp_path / "two", tree, name="two", public=public)
    assert before.items() <= content(public).items()


def test_t3_a_tpm_keeps_the_certificate_it_came_with(tmp_path: Path, tree: Path) -> None:
    state = f"libtpms:{tmp_path / 'other.state'}"
    first = init(tmp_path / "h", tree, kind="tpm", tpm=state)
    again = init(tmp_path / "g", tree, kind="tpm", tpm=state)
    assert again.request.device == first.request.device
    assert HostHome(tmp_path / "g").config().tpm == state


def test_t3_a_real_tpm_needs_its_makers_certificate(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bare:
        def __enter__(self) -> Bare:
            return self

        def __exit__(self, *_: object) -> None:
            return

        def ek(self) -> bytes:
            return b"ek"

        def ek_certificate(self) -> None:
            return None

    monkeypatch.setattr(setup, "open_tpm", lambda spec: Bare())
    device = {"kind": "tpm", "tpm": "device:/dev/tpmrm0"}
    assert code_of(tmp_path / "h", tree, **device) == "host.ek_certificate"
    assert content(tmp_path) == {}
    monkeypatch.setattr(Bare, "ek_certificate", lambda _: b"certificate")
    made = init(tmp_path / "h", tree, public=tmp_path / "public", **device)
    assert not made.simulated
    assert [p.name for p in made.published] == [
        f"box.{n}" for n in ("references.json", "request.json", "link.crt")
    ]
    assert not (tmp_path / "h" / "simulated-ca").exists()
    assert not host_status(tmp_path / "h").simulated


def test_the_status_of_a_host(tmp_path: Path, tree: Path) -> None:
    init(tmp_path / "h", tree)
    status = host_status(tmp_path / "h")
    assert (status.name, status.host, status.managers) == ("box", None, ())
    assert status.simulated
    (tmp_path / "h" / "statement.json").write_text("{")
    with pytest.raises(InputError) as e:
        host_status(tmp_path / "h")
    assert e.value.code == "host.home"
