"""A host's log becomes reference values line by line, and only where a person wrote a plus."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence import vectors
from evidence.ima_bytes import fields, raw_entry
from evidence.test_offline import GENUINE, read
from svetovid.crypto import digest
from svetovid.errors import InputError, ParseError, SvetovidError
from svetovid.evidence import BootReferences
from svetovid.evidence.ima import boot_aggregate, build_entry
from svetovid.evidence.ima.listing import IMA_POLICY
from svetovid.evidence.recorded import Expectations, appraise_recorded
from svetovid.stakeholder.sources import (
    HostLogs,
    approved,
    make_references,
    merged_boots,
    propose,
    read_host,
)

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
    text, count = propose([HostLogs(LOG + BUFFER + violated), HostLogs(LOG)])
    assert count == 3
    assert '# written while it was measured, on some host: "/tmp/changing"' in text
    assert "# 1 of 2 hosts have it\n? buffer sha256:" in text
    assert f'# 2 of 2 hosts have it\n? file {A} "/bin/a"' in text
    with pytest.raises(InputError, match=r"proposal\.undecided"):
        approved(text, "ann, of lab1")
    reviewed = text.replace("? ", "+ ").replace(f"+ file {B}", f"- file {B}")
    found = approved(reviewed, "ann, of lab1")
    assert found.source.files == {"/bin/a": (A,)}
    assert found.source.artifact == digest(LOG + BUFFER + violated)
    assert (found.refused, found.buffers) == (1, {"kexec-cmdline": (digest(b"ro quiet"),)})
    made = make_references("lab", 1, [found.source], buffers=found.buffers)
    again, left = propose([HostLogs(LOG + BUFFER)], [made])
    assert left == 1
    assert f'? file {B} "/bin/b"' in again
    assert "/bin/a" not in again


def test_one_undecided_line_is_enough() -> None:
    text, _ = propose([HostLogs(LOG)])
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
    text, _ = propose([HostLogs(FIRST)])
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
    said, count = propose([HostLogs(FIRST + line)])
    assert said.isascii()
    assert (count, said.count("\n? ")) == (1, 1)
    assert said.isprintable() or set(filter(lambda c: not c.isprintable(), said)) == {"\n"}
    assert approved(said.replace("\n? ", "\n+ "), "ann").source.files == {"/" + name: (A,)}
    try:
        approved(said + text, "ann")
    except SvetovidError as e:
        assert e.code in ("proposal.malformed", "proposal.undecided")  # noqa: PT017


def test_logs_out_of_recordings(tmp_path: Path) -> None:
    boot = vectors.boot(vectors.BOOTS[0])
    found = read_host(vectors.ROOT / vectors.BOOTS[0])
    assert found.ima == boot.ima
    assert found.boot == (vectors.ROOT / vectors.BOOTS[0] / "bios.bin").read_bytes()
    assert found.line.startswith("console=ttyS0 ")
    (tmp_path / "log").write_bytes(boot.ima)
    assert read_host(tmp_path / "log") == HostLogs(boot.ima)
    (tmp_path / "bundle").write_bytes(read(vectors.BOOTS[0]).canonical())
    assert read_host(tmp_path / "bundle") == found


# -- the boot -----------------------------------------------------------------------------------

HOST = read_host(vectors.ROOT / "ovmf-tpm-crb")


TABBED = digest(b"ro\tx")


def reviewed(text: str) -> str:
    return text.replace("\n? event 4", "\n+ kernel 4").replace("\n? ", "\n+ ")


def judged(text: str) -> tuple[str, set[str]]:
    """What a recording of that host is worth under what was approved."""
    found = approved(text, "ann, of lab1")
    made = make_references("lab", 1, [found.source], boot=found.boot)
    said = appraise_recorded(read("ovmf-tpm-crb"), Expectations(now=GENUINE, references=[made]))
    flat = [c for top in said.claims for c in (top, *top.claims)]
    return said.measurement, {c.code for c in flat if c.ok is False} - {"ek.unanchored"}


def test_a_reviewed_boot_is_a_known_kernel() -> None:
    text, count = propose([HOST])
    assert "? line sha256:" in text
    assert "write kernel for event" in text
    measurement, codes = judged(reviewed(text))
    assert (measurement, codes) == ("kernel", set())
    found = approved(reviewed(text), "ann")
    made = make_references("lab", 1, [found.source], boot=found.boot)
    assert propose([HOST], [made]) == (propose([HOST], [made])[0], 0)
    assert propose([HOST], [make_references("b", 1, [], boot=found.boot)])[1] < count


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("+ kernel 4", "boot.unlisted"),
        ("+ event 0", "boot.unlisted"),
        ("+ event 9", "boot.unlisted"),
        ("+ line", "boot.cmdline"),
        ("+ file", "ima.unlisted"),
    ],
)
def test_one_line_refused_is_a_boot_refused(line: str, code: str) -> None:
    text = reviewed(propose([HOST])[0])
    measurement, codes = judged(text.replace(f"\n{line}", f"\n-{line[1:]}", 1))
    assert code in codes
    assert measurement == ("kernel" if code == "ima.unlisted" else "launcher")


def test_a_loader_is_no_kernel() -> None:
    text = propose([HOST])[0].replace("\n? ", "\n+ ")
    assert judged(text) == ("launcher", {"boot.kernel"})


@pytest.mark.parametrize(
    "line",
    [
        f'+ kernel 7 {A} "linux"',
        f'+ event 10 {A} "linux"',
        f'+ event 99 {A} "linux"',
        f'+ event 4 verity:{A} "linux"',
        f'+ event {A} "linux"',
        f'+ line {A} "root=/dev/sda"',
        f'+ line {TABBED} "ro\\tx"',
    ],
)
def test_lines_about_a_boot_that_nobody_proposed(line: str) -> None:
    with pytest.raises(ParseError, match=r"proposal\.malformed"):
        approved(f"svetovid proposal 1\n{line}\n", "ann")


def test_a_policy_file_that_was_approved_may_be_loaded() -> None:
    text = f'svetovid proposal 1\n+ file {A} "{IMA_POLICY}"\n+ event 4 {A} "loader"\n'
    found = approved(text, "ann").boot
    assert found is not None
    assert found.measured == (IMA_POLICY,)
    agent = "/opt/svetovid/svetovid/host/agent.py"
    with_agent = approved(f'{text}+ file {A} "{agent}"\n+ file {A} "/usr/bin/x"\n', "ann").boot
    assert with_agent is not None
    assert with_agent.measured == (IMA_POLICY, agent)
    assert approved(text.replace("+ event", "- event"), "ann").boot is None


def test_a_command_line_that_nothing_measured_is_not_proposed() -> None:
    for line in ("root=/dev/sda ima_policy=tcb", "", "é", HOST.line + " "):
        text, _ = propose([replace(HOST, line=line)])
        assert "? line" not in text
        assert "? event 9" in text


def test_several_boots_are_one_edition() -> None:
    one = BootReferences(kernels={"a": (A,)}, command_lines=("x",), events={"4": {"s": (A,)}})
    two = BootReferences(
        kernels={"a": (B,), "b": (B,)}, events={"4": {"s": (A,)}, "0": {"f": (B,)}}
    )
    assert merged_boots([one, None, two]) == BootReferences(
        kernels={"a": (A, B), "b": (B,)},
        command_lines=("x",),
        events={"4": {"s": (A,)}, "0": {"f": (B,)}},
    )
    assert merged_boots([None]) is None


def test_a_boot_log_that_proves_nothing_is_no_proposal() -> None:
    assert HOST.boot is not None
    with pytest.raises(SvetovidError, match=r"boot\."):
        propose([HostLogs(HOST.ima, HOST.boot[:-1])])
