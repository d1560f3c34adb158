"""What leaves a host: outputs and metrics, sealed to the recipients named in the job (T9).

Each output is a container of its own with a fresh key. The key leaves only HPKE-sealed, once for
each recipient, in a context that names the container, the job and the recipient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import fsspec

from svetovid.assets import Manifest, seal_stream
from svetovid.assets.store import create
from svetovid.assets.urls import parse_url
from svetovid.crypto import Card, Secret, canonical, digest, seal
from svetovid.errors import HostError, SvetovidError
from svetovid.policy.documents import Job
from svetovid.protocol.contexts import output_context
from svetovid.protocol.output import OutputPackage, SealedFor

__all__ = ["deliver", "discard", "located", "metrics_blob", "metrics_digest", "present", "put"]

_BLOCK = 1 << 20
T = TypeVar("T")


def metrics_blob(job: Job, metrics: Mapping[str, list[float]], salt: Secret) -> bytes:
    """Metrics as they are sealed: JSON, filled up to the job's ``metrics_bytes``.

    The salt keeps their digest in the receipt from being guessed. One length for all keeps the
    sealed file's from telling the operator how much was logged (T9).
    """
    blob = canonical(
        {"salt": salt.reveal().hex(), "metrics": {k: list(metrics[k]) for k in metrics}}
    )
    return blob.ljust(job.metrics_bytes)


def metrics_digest(blob: bytes) -> str:
    """What a receipt says of the metrics: SHA-256 of the salted blob (T13)."""
    return digest(blob)


def _blocks(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    for start in range(0, len(view), _BLOCK):
        yield view[start : start + _BLOCK]


def located(url: str) -> tuple[Any, str]:
    """fsspec's file system for ``url``, and the path in it.

    fsspec takes the escapes of a ``file`` URL for letters of the name, so it is not asked: this is
    the very file that :func:`svetovid.assets.store.create` writes.

    Raises:
        InputError: ``asset.url``.
    """
    address = parse_url(url)
    return fsspec.filesystem(address.scheme), address.path


def _stored(url: str, aim: str, act: Callable[[Any, str], T]) -> T:
    try:
        return act(*located(url))
    except SvetovidError:
        raise
    except Exception as e:  # each fsspec back end has an error tree of its own
        raise HostError(
            "output.storage",
            expected=f"to {aim} {url}",
            observed=getattr(e, "strerror", None) or type(e).__name__,
            next_step="check the folder or bucket for outputs, and the rights on it",
        ) from e


def present(url: str) -> bool:
    """Whether anything bears this name, be it a link that leads nowhere.

    Raises:
        InputError: ``asset.url``.
        HostError: ``output.storage``.
    """
    return _stored(url, "look for", lambda fs, path: bool(fs.lexists(path)))


def _remove(url: str) -> None:
    if present(url):
        _stored(url, "write", lambda fs, path: fs.rm(path))


def discard(url: str) -> None:
    """Remove a container that an earlier, unfinished run left at ``url``."""
    for name in (url, url + ".manifest.json"):
        _remove(name)


def put(url: str, data: bytes) -> None:
    """Write ``data`` whole, in place of what an earlier, unfinished run left at ``url``.

    Raises:
        HostError: ``output.storage``, ``asset.*``.
    """
    _remove(url)
    with create(url) as sink:
        sink.write(data)


def deliver(job: Job, name: str, data: bytes, url: str) -> OutputPackage:
    """Seal one output to every recipient of ``job`` at ``url``, with its package beside it.

    Args:
        job: the agreed job.
        name: output's name in the job, or :data:`METRICS`.
        data: validated plaintext.
        url: fsspec URL of the container; the package goes to ``url + ".package.json"``.

    Raises:
        HostError: ``output.storage``, ``asset.*``.
    """
    first = Card.open(job.recipients[0].card)
    discard(url)
    manifest: Manifest
    manifest, key = seal_stream(
        url, _blocks(data), kind="output", name=name, owner=first.signing, manager=job.code.manager
    )
    asset = manifest.digest()
    keys = []
    for recipient in job.recipients:
        card = Card.open(recipient.card)
        context = output_context(asset, job.digest(), card.signing)
        keys.append(SealedFor(recipient=card.signing, sealed=seal(key, card.receiving, context)))
    package = OutputPackage(
        job=job.digest(), output=name, manifest=manifest.to_json(), keys=tuple(keys)
    )
    put(url + ".package.json", package.canonical())
    return package
