"""A case of the conformance suite: recorded evidence, what a reader brings, what must come of it.

``docs/spec/conformance.md`` is the specification. A case is files by name; whoever reads them from
a disk lays the case's own over those of its world (:func:`laid_over`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from svetovid.crypto.canonical import Document, Name, Text
from svetovid.errors import ParseError, SvetovidError
from svetovid.evidence.documents import ReferenceValues
from svetovid.evidence.recorded.appraise import Expectations, appraise_recorded
from svetovid.evidence.recorded.bundle import (
    MAX_BUNDLE_BYTES,
    Hex,
    RecordedEvidence,
    from_files,
)
from svetovid.evidence.recorded.device import read_authorities
from svetovid.evidence.recorded.tree import Seen

__all__ = ["BUNDLE", "CASE", "ConformanceCase", "differences", "judge_case", "laid_over"]

CASE = "case.json"
BUNDLE = "evidence.json"
"""Where it is there, the evidence is this document and not the usual files."""
FileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
AttackId = Annotated[str, StringConstraints(pattern=r"^[A-Z]{1,2}[0-9]{1,2}$")]
CaseName = Annotated[str, StringConstraints(pattern=r"^(worlds|cases)/[a-z0-9][a-z0-9.-]{0,63}$")]
Code = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_.]{1,64}$")]


class Given(Document):
    """What the reader of the evidence brings.

    Attributes:
        now: Unix seconds.
        nonce: what the quote must carry; absent where the reader asks for none.
        ak: name of the attestation key that was enrolled.
        references: files with reference values that the reader believes.
        authorities: file with certificates and revocation lists of TPM makers.
        after: world or case whose recording the reader appraised before, of the same host.
        offset: entries of the log that the reader holds from then, and that are left out here.
    """

    now: int
    nonce: Hex | None = None
    ak: Hex | None = None
    references: Annotated[tuple[FileName, ...], Field(max_length=8)] = ()
    authorities: FileName | None = None
    after: CaseName | None = None
    offset: Annotated[int, Field(ge=0)] = 0


class Expected(Document):
    """What a verifier must say.

    Attributes:
        verdict: ``affirmed``, ``refused``, or ``unreadable`` where there is nothing to judge.
        reasons: every reason code of the refusal, in any order.
        measurement, simulated: words of the verdict, where there is one.
        claims: name to ``ok``, of claims that matter here.
    """

    verdict: Literal["affirmed", "refused", "unreadable"]
    reasons: tuple[Code, ...] = ()
    measurement: Literal["kernel", "launcher"] | None = None
    simulated: bool | None = None
    claims: dict[str, bool | None] = {}


class ConformanceCase(Document):
    """``case.json``.

    Attributes:
        attacks: ids of the attack list; none for a case that is good.
        what: the one step from the good world.
        origin: who made the quote: a software TPM (``libtpms``), a guest with one (``qemu``), or a
            key in a file, which says what no TPM would (``forged``).
        world: the good world whose files the case's own replace.
        without: files of the world that the case lacks.
    """

    TYPE: ClassVar[str] = "conformance-case"
    attacks: Annotated[tuple[AttackId, ...], Field(max_length=8)]
    what: Text
    origin: Literal["libtpms", "qemu", "forged"]
    world: Name | None = None
    without: tuple[FileName, ...] = ()
    given: Given
    expected: Expected


def laid_over(
    case: ConformanceCase, world: Mapping[str, bytes], own: Mapping[str, bytes]
) -> dict[str, bytes]:
    """The files of a case: its own, and those of its world that it neither has nor lacks.

    Args:
        case: says which files of its world it does without.
        world: name to content.
        own: name to content; goes first.
    """
    return {**{n: d for n, d in world.items() if n not in case.without}, **own}


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise ParseError(
            "conformance.suite",
            expected=f"the file {name}",
            observed="none of this name in the case or its world",
            next_step="get the suite again: it is not whole",
        )
    return files[name]


def judge_case(
    case: ConformanceCase, files: Mapping[str, bytes], seen: Seen | None = None
) -> tuple[dict[str, Any], Seen | None]:
    """The verdict on a case's files, as ``svetovid appraise --json`` writes it.

    Args:
        seen: what came of the case that ``given.after`` names.

    Returns:
        the verdict; and what a case behind this one is held against.

    Raises:
        ParseError: ``conformance.suite`` for a file that the case names and that is not there.
    """
    given = case.given
    named = [_file(files, name) for name in given.references]
    pem = None if given.authorities is None else _file(files, given.authorities)
    try:
        wanted = Expectations(
            now=given.now,
            nonce=None if given.nonce is None else bytes.fromhex(given.nonce),
            ak_name=None if given.ak is None else bytes.fromhex(given.ak),
            references=[ReferenceValues.parse(data) for data in named],
            authorities=None if pem is None else read_authorities(pem),
            seen=seen,
            offset=given.offset,
        )
        if BUNDLE in files:
            evidence = RecordedEvidence.parse(files[BUNDLE], max_bytes=MAX_BUNDLE_BYTES)
        else:
            evidence = from_files(files)
        verdict = appraise_recorded(evidence, wanted)
    except SvetovidError as e:
        reasons = list(dict.fromkeys(r.code for r in e.reasons))
        return {**e.to_dict(), "verdict": "unreadable", "reasons": reasons, "claims": []}, None
    return verdict.to_json(), verdict.seen


def _claims(nodes: list[dict[str, Any]]) -> dict[str, bool | None]:
    found: dict[str, bool | None] = {}
    for node in nodes:
        found[node["name"]] = node["ok"]
        found |= _claims(node["claims"])
    return found


def differences(expected: Expected, said: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What is not as expected: its name, what was expected, what was said."""
    pairs: dict[str, tuple[Any, Any]] = {
        "verdict": (expected.verdict, said["verdict"]),
        "reasons": (sorted(expected.reasons), sorted(said["reasons"])),
    }
    for word in ("measurement", "simulated"):
        wanted = getattr(expected, word)
        if wanted is not None:
            pairs[word] = (wanted, said.get(word))
    claims = _claims(said["claims"])
    for name, ok in expected.claims.items():
        pairs[f"claims.{name}"] = (ok, claims.get(name, "absent"))
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
