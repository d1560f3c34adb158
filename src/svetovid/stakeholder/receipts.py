"""Verifying a receipt offline, with anchors, reference values and a manager of one's own choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from svetovid.crypto import KeyId
from svetovid.errors import InputError
from svetovid.evidence.documents import ReferenceValues, TrustAnchors
from svetovid.stakeholder.home import read_bounded
from svetovid.stakeholder.labels import Labels
from svetovid.stakeholder.names import read_document
from svetovid.transparency import MAX_BUNDLE_BYTES, ReceiptBundle, Verdict, verify_receipt

__all__ = ["check_receipt", "read_given", "read_receipt", "receipt_labels"]


def read_receipt(path: Path) -> ReceiptBundle:
    """A receipt bundle from a file, nothing in it verified yet.

    Raises:
        InputError: ``file.*``, ``json.*``, ``document.invalid``.
    """
    data = read_bounded(path, MAX_BUNDLE_BYTES, what="a receipt bundle")
    return ReceiptBundle.parse(data, max_bytes=MAX_BUNDLE_BYTES)


def check_receipt(
    path: Path, *, anchors: Path, references: Sequence[Path], manager: KeyId, now: int
) -> Verdict:
    """Verify a receipt bundle without any network (T13).

    Args:
        path: the bundle.
        anchors, references: files with the documents that the reader chose to believe.
        manager: key of the manager, from a pin and not from the bundle.
        now: the time to judge at, Unix seconds.

    Returns:
        The verdict. It may be negative: look at ``affirmed`` and ``reasons()``.

    Raises:
        InputError, RefusalError: as :func:`svetovid.transparency.verify_receipt`.
    """
    return verify_receipt(
        read_receipt(path),
        anchors=read_document(anchors, TrustAnchors),
        references=[read_document(p, ReferenceValues) for p in references],
        manager=manager,
        now=now,
    )


def receipt_labels(verdict: Verdict, *known: Mapping[str, str]) -> Labels:
    """What to call the keys in a receipt.

    Args:
        verdict: of a receipt that was verified; what keys call themselves in it comes last.
        known: key or digest to name, what the reader trusts most first. A name that another key
            has already is not given a second time.
    """
    names: dict[str, str] = {}
    for source in (*known, verdict.names):
        taken = set(names.values())
        names |= {k: n for k, n in source.items() if k not in names and n not in taken}
    return Labels(names)


def read_given(items: Sequence[str]) -> dict[str, str]:
    """Names that a reader gave, ``KEY=NAME`` each.

    Raises:
        InputError: ``names.given``.
    """
    names: dict[str, str] = {}
    for item in items:
        key, separator, name = item.partition("=")
        if not (key and separator and name):
            raise InputError(
                "names.given",
                expected="KEY=NAME",
                observed=item,
                next_step="give a whole key, an equals sign and what to call it",
            )
        names[key] = name
    return names
