"""A host's log becomes reference values line by line, and only where a person wrote a plus."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence import vectors
from evidence.ima_bytes import fields, raw_entry
from svetovid.crypto import digest
from svetovid.errors import InputError, ParseError, SvetovidError
from svetovid.evidence import ReferenceValues
from svetovid.evidence.ima import boot_aggregate, build_entry
from svetovid.stakeholder.sources import approved, make_references, propose, read_log

FIRST = boot_aggregate({i: bytes(32) for i in range(10)})
A, B = digest(b"a"), digest(b"b")
LOG = b"".join([FIRST, build_entry("/bin/a", A), build_entry("/bin/b", B)])
BUFFER = raw_entry(
    template=b"ima-buf",
    body=fields(
        b"sha256:\0" + hashlib.sha256(b"ro quiet").digest(), b"kexec-cmdline\0", b"ro quiet"
    ),
)


def test_propose_review_and_make() -> None:
    violated = raw_entry(b"/tmp/changing", bytes(32), sha1=bytes(20))
    text, count = propose([LOG + BUFFER + violated, LOG])
    assert count == 3
    assert '# written while it was measured, on some host: "/tmp/changing"' in text
    assert "# 1 of 2 logs have it\n? buffer sha256:" in text
    assert f'# 2 of 2 logs have it\n? file {A} "/bin/a"' in text
    with pytest.raises(InputError, match=r"proposal\.undecided"):
        approved(text, "ann, of lab1")
    reviewed = text.replace("? ", "+ ").replace(f"+ file {B}", f"- file {B}")
    found = approved(reviewed, "ann, of lab1")
    assert found.source.files == {"/bin/a": (A,)}
    assert found.source.artifact == digest(LOG + BUFFER + violated)
    assert (found.refused, found.buffers) == (1, {"kexec-cmdline": (digest(b"ro quiet"),)})
    made = make_references("lab", 1, [found.source], buffers=found.buffers)
    again, left = propose([LOG + BUFFER], [made])
    assert left == 1
    assert f'? file {B} "/bin/b"' in again
    assert "/bin/a" not in again


def test_one_undecided_line_is_enough() -> None:
    text, _ = propose([LOG])
    for decided in (text.replace("?", "+", 1), text.replace("?", "-", 1)):
        with pytest.raises(InputError, match=r"proposal\.undecided"):
            approved(decided, "ann")


@pytest.mark.parametrize(
    "line",
    [
        f'* file {A} "/bin/a"',
        f"+ file {A} /bin/a",
        f'+  file {A} "/bin/a"',
        '+ file sha256:00 "/bin/a"',
        f'+ file {A} "/bin/a" "/bin/b"',
        f'+ file {A} "/bin/\\ud800"',
        f'+ file {A} "/bin/a\\n"',
        f'+ file {A} "\\x"',
        f'+ thing {A} "/bin/a"',
        "approve all",
        f'+ file {A} "/bin/a"\n- file {A} "/bin/a"',
    ],
)
def test_lines_that_nobody_wrote_on_purpose(line: str) -> None:
    text, _ = propose([FIRST])
    assert not approved(text, "ann").source.files
    with pytest.raises(ParseError, match=r"proposal\.malformed"):
        approved(text + line + "\n", "ann")


def test_a_text_that_is_no_proposal() -> None:
    for text in ("", "\n", "svetovid proposal 2\n", f'+ file {A} "/bin/a"\n'):
        with pytest.raises(ParseError, match=r"proposal\.malformed"):
            approved(text, "ann")


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=30), st.text(max_size=60))
def test_no_name_hides_a_line_and_no_text_breaks_the_reader(name: str, text: str) -> None:
    try:
        line = build_entry("/" + name, A)
    except SvetovidError:
        return
    said, count = propose([FIRST + line])
    assert said.isascii()
    assert (count, said.count("\n? ")) == (1, 1)
    assert said.isprintable() or set(filter(lambda c: not c.isprintable(), said)) == {"\n"}
    assert approved(said.replace("\n? ", "\n+ "), "ann").source.files == {"/" + name: (A,)}
    try:
        approved(said + text, "ann")
    except SvetovidError as e:
        assert e.code in ("proposal.malformed", "proposal.undecided")  # noqa: PT017


def test_logs_out_of_recordings(tmp_path: Path) -> None:
    boot = vectors.BOOTS[0]
    log = read_log(vectors.ROOT / boot)
    assert log == vectors.boot(boot).ima
    (tmp_path / "log").write_bytes(log)
    assert read_log(tmp_path / "log") == log
    text, count = propose([log])
    assert count > 20
    made = make_references("p", 1, [approved(text.replace("\n? ", "\n+ "), "ann").source])
    assert propose([log], [made])[1] == 0
    assert isinstance(made, ReferenceValues)
