"""How a machine becomes a host: a home that appears whole or not at all, and what it publishes.

Rules:

1. A home is made inside the folder that it will be, under ``.init``, and moved up at the end, its
   ``host.json`` last: without that file nothing is a host. The folder must be new or empty; what a
   set-up that was broken off left there is removed by the next.
2. What owners judge a host by is published under the host's name, and never over what another host
   published under that name.
3. Whatever fails, nothing stays: neither in the home nor in the public folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from svetovid.crypto import Document, Identity, Secret, b64encode, canonical, keystore
from svetovid.crypto.private import check_private, write_private
from svetovid.errors import HostError, InputError
from svetovid.evidence.documents import TrustAnchor, TrustAnchors
from svetovid.host.home import LINK, HostConfig, StatementRequest, open_tpm, writing
from svetovid.host.runtime import build_runtime, reference_values
from svetovid.host.tee import SimulatedTee
from svetovid.host.tpm.simulated_ca import CA_NAMES, CaKind, create_ca, issue_ek_certificate
from svetovid.offload.links import make_certificate

__all__ = ["HostMade", "init_host"]

_DRAFT = ".init"
_LAST = "host.json"
_STATE = "tpm.state"


@dataclass(frozen=True, slots=True)
class HostMade:
    """What setting up a host left.

    Attributes:
        request: what its operator is asked to sign; also ``request.json`` in the home.
        published: files that owners judge this host by.
        simulated: its TPM or TEE is software, and protects nothing.
    """

    request: StatementRequest
    published: tuple[Path, ...]
    simulated: bool


def init_host(
    home: Path,
    *,
    name: str,
    passphrase: Secret,
    kind: Literal["tpm", "simulated-tee"] = "tpm",
    tpm: str = "libtpms",
    runtime: Path | None = None,
    simulated_ca: Path | None = None,
    public: Path | None = None,
) -> HostMade:
    """Set up a host.

    Args:
        home: the new home, a folder that is new or empty.
        name: the operator's name for this host.
        passphrase: seals the agent's identity.
        kind: which evidence the host will give.
        tpm: transport, as :func:`svetovid.host.tpm.open_transport` takes it; ``libtpms`` alone
            means an embedded software TPM inside this home, which protects nothing.
        runtime: the tree that jobs run in (:func:`svetovid.host.runtime.build_runtime`); built in
            the home where none is given.
        simulated_ca: folder of the simulated authority that certifies a software TPM or TEE; one is
            made in the home where none is given.
        public: folder to publish the request (``NAME.request.json``), reference values
            (``NAME.references.json``), for a simulator its authority (``NAME.anchors.json``), and
            for workers the certificate of its links (``NAME.link.crt``) in; None publishes nothing.

    Raises:
        InputError: ``host.name``; ``host.exists`` for a folder that is not empty, or a name that
            another host published under; ``home.folder``, ``home.mode``; ``tpm.spec``.
        HostError: ``host.ek_certificate`` for a TPM without one, ``tpm.*``, ``runtime.*``,
            ``launcher.file``, ``host.home``, ``file.write``.
    """
    simulated = kind == "simulated-tee" or not tpm.startswith("device:")
    final = home.resolve()
    _check_name(name)
    if public is not None:
        for ending in ("anchors.json", "references.json", "request.json", "link.crt"):
            _free(public / f"{name}.{ending}")
    papers: dict[str, Document] = {}
    with _new_home(home) as draft, contextlib.ExitStack() as undo:
        authority = simulated_ca or draft / "simulated-ca"
        if simulated:
            papers["anchors"] = _anchors(authority, name, kind)
        own = tpm == "libtpms"
        if kind == "simulated-tee":
            device = SimulatedTee.create(draft / "tee", authority).device
        else:
            here = f"libtpms:{draft / _STATE}" if own else tpm
            device = _certified(here, authority if simulated else None)
        tree = build_runtime(draft / "runtime") if runtime is None else runtime.resolve()
        if public is not None:
            provenance = f"made on {name} from its own files"
            values = reference_values(tree, f"{name}-runtime", 1, provenance=provenance)
            papers["references"] = values
        agent = Identity.generate(name)
        request = StatementRequest(host=name, kind=kind, device=device, agent=agent.key_id)
        papers["request"] = request
        config = HostConfig(
            name=name,
            kind=kind,
            tpm=f"libtpms:{final / _STATE}" if own else tpm,
            runtime=str(final / "runtime" if runtime is None else tree),
        )
        (draft / "request.json").write_bytes(request.canonical())
        keystore.save(agent, draft / "agent.json", passphrase)
        make_certificate(draft / LINK)
        write_private(draft / _LAST, config.canonical())
        published: list[Path] = []
        if public is not None:
            files = {f"{what}.json": canonical(d.to_json()) for what, d in papers.items()}
            files["link.crt"] = (draft / LINK).with_suffix(".crt").read_bytes()
            for ending, data in files.items():
                published.append(public / f"{name}.{ending}")
                _publish(published[-1], data)
                undo.callback(published[-1].unlink, missing_ok=True)
        _move_up(draft, home)
        undo.pop_all()
    return HostMade(request, tuple(published), simulated)


def _check_name(name: str) -> None:
    """Files and products are called by it, so it is a :data:`Name` with room for what follows."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,55}", name):
        raise InputError(
            "host.name",
            expected="1 to 56 of a-z, 0-9, dot, dash and underscore, a letter or digit first",
            observed=name,
            next_step="choose another --name",
        )


# -- the home ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _new_home(home: Path) -> Iterator[Path]:
    """A folder whose content :func:`_move_up` makes that of ``home``; nothing stays otherwise."""
    with writing(home):
        fresh = not home.exists()
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(home)
        lock = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _claim(home, lock)
            draft = home / _DRAFT
            draft.mkdir(mode=0o700)
            try:
                yield draft
            except BaseException:
                _empty(home)
                if fresh:
                    with contextlib.suppress(OSError):
                        home.rmdir()
                raise
        finally:
            os.close(lock)


def _claim(home: Path, lock: int) -> None:
    """Make sure that ``home`` is nobody's, and empty; two cannot set it up at once."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _exists(home, "a set-up that is under way") from None
    if (home / _LAST).exists():
        raise _exists(home, "a host's home")
    if (home / _DRAFT).exists():
        _empty(home)  # rule 1: all that is here was made by a set-up that was broken off
    if any(home.iterdir()):
        raise _exists(home, "a folder with other files")


def _exists(home: Path, observed: str) -> InputError:
    return InputError(
        "host.exists",
        expected=f"no host yet, and an empty folder, at {home}",
        observed=observed,
        next_step="choose another folder; a host's home is never overwritten",
    )


def _empty(home: Path) -> None:
    for entry in home.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _move_up(draft: Path, home: Path) -> None:
    for entry in sorted(draft.iterdir(), key=lambda e: e.name == _LAST):
        entry.rename(home / entry.name)
    draft.rmdir()


def _certified(spec: str, simulated_ca: Path | None) -> str:
    """Digest of the EK of a TPM that has a certificate, from now on."""
    with open_tpm(spec) as tpm:
        ek = tpm.ek()
        if tpm.ek_certificate() is None:
            if simulated_ca is None:
                raise HostError(
                    "host.ek_certificate",
                    expected="an EK certificate in the TPM",
                    observed="none",
                    next_step="use a TPM whose vendor certified it",
                )
            tpm.store_ek_certificate(issue_ek_certificate(simulated_ca, ek))
    return "sha256:" + hashlib.sha256(ek).hexdigest()


# -- what is published ------------------------------------------------------------------------


def _anchors(authority: Path, name: str, kind: str) -> TrustAnchors:
    what: CaKind = "tpm" if kind == "tpm" else "tee"
    certificate = create_ca(authority, what).der
    return TrustAnchors(
        product=f"{name}-anchors",
        version=1,
        anchors=(
            TrustAnchor(
                kind="tpm-ek" if what == "tpm" else "tee",
                name=CA_NAMES[what],
                certificate=b64encode(certificate),
                simulated=True,
            ),
        ),
    )


def _free(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise InputError(
            "host.exists",
            expected=f"no other host whose files go by this name: {path}",
            observed="a file of that name",
            next_step="choose another --name; or remove that host's files if it is gone",
        )


def _publish(path: Path, data: bytes) -> None:
    """Write ``data`` for everybody to read, over nothing."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _free(path)
        write_private(path, data, replace=False)
        path.chmod(0o644)
