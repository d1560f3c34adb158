"""YAML that means one thing, or is refused (V2)."""

from __future__ import annotations

import contextlib
import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.policy_world import ALICE, CODE, IMAGES, MANAGER, OPAL, RITA, RUNTIME, job
from svetovid.crypto import digest
from svetovid.errors import InputError, LimitError, ParseError, SvetovidError
from svetovid.policy import Policy, load_job, load_policy, load_yaml

POLICY = b"""
version: svetovid.policy/v1
name: hospital-a
owner: $alice
sequence: 1
manager: $manager
profile: production
anchors: {document: $anchors}
references:
  - {document: $runtime}
operators: [$opal]
grants:
  - asset: $images
    use: data
    code: [$code]
    modes: [attested]
    recipients: [$rita]
    conditions:
      - name: few-epochs
        cel: job.parameters.epochs <= 10   # memorisation
    limits: {runs: 3, expires_at: 1900000000, output_bytes: 100000}
"""
KNOWN = {
    "alice": ALICE.key_id,
    "manager": MANAGER.key_id,
    "opal": OPAL.key_id,
    "rita": RITA.key_id,
    "anchors": digest(b"anchors"),
    "runtime": RUNTIME,
    "images": IMAGES,
    "code": CODE,
}


def test_a_policy_as_an_owner_writes_it() -> None:
    p = load_policy(POLICY, resolve=KNOWN)
    assert p.grants[0].asset == IMAGES
    assert p.grants[0].limits.runs == 3
    assert Policy.parse(p.canonical()) == p
    assert load_policy(p.canonical(), resolve={}) == p  # JSON is YAML


def test_key_order_and_layout_do_not_change_the_hash() -> None:
    """V2: one meaning, one hash."""
    value = load_yaml(POLICY)
    flipped = dict(reversed(value.items()))
    again = yaml.safe_dump(flipped, sort_keys=False).encode()
    assert load_policy(again, resolve=KNOWN).digest() == load_policy(POLICY, resolve=KNOWN).digest()


def test_defaults_fill_what_is_left_out_and_nothing_else() -> None:
    short = POLICY.replace(b"sequence: 1\n", b"")
    p = load_policy(short, resolve=KNOWN, defaults={"sequence": 2, "name": "unused"})
    assert (p.sequence, p.name) == (2, "hospital-a")


def test_a_job_names_its_recipients() -> None:
    wanted = job()
    value = wanted.to_json() | {"recipients": ["$rita"]}
    nonce = value.pop("nonce")
    text = yaml.safe_dump(value).encode()
    cards = {"rita": RITA.signed_card()}
    assert load_job(text, resolve={}, cards=cards, defaults={"nonce": nonce}) == wanted
    for bad in ("$rick", "rita"):
        text = yaml.safe_dump(value | {"recipients": [bad]}).encode()
        with pytest.raises(ParseError, match=r"policy\.reference"):
            load_job(text, resolve={}, cards=cards)
    with pytest.raises(ParseError, match=r"job\.invalid"):
        load_job(yaml.safe_dump(value).encode(), resolve={}, cards=cards)
    with pytest.raises(ParseError, match=r"job\.invalid"):
        load_job(yaml.safe_dump(value | {"recipients": [3]}).encode(), resolve={})


REFUSED = {
    "alias": b"a: &x 1\nb: *x\n",
    "alias alone": b"a: *x\n",
    "anchor": b"a: &x 1\n",
    "bomb": b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
    "tag": b"a: !!python/object/apply:os.system [ls]\n",
    "string tag": b"a: !!str 1\n",
    "own tag": b"a: !x 1\n",
    "directive": b"%YAML 1.1\n---\na: 1\n",
    "merge": b"a: {<<: {b: 1}}\n",
    "duplicate": b"a: 1\na: 2\n",
    "duplicate nested": b"a: {b: 1, 'b': 2}\n",
    "number key": b"1: a\n",
    "bool key": b"true: a\n",
    "null key": b"~: a\n",
    "list key": b"? [a]\n: b\n",
    "yes": b"a: yes\n",
    "no": b"a: NO\n",
    "on": b"a: On\n",
    "off": b"a: off\n",
    "True": b"a: True\n",
    "Null": b"a: NULL\n",
    "tilde": b"a: ~\n",
    "octal": b"a: 017\n",
    "new octal": b"a: 0o17\n",
    "hex": b"a: 0x1f\n",
    "binary": b"a: 0b11\n",
    "underscore": b"a: 1_000\n",
    "sexagesimal": b"a: 12:30:45\n",
    "date": b"a: 2026-01-01\n",
    "time": b"a: 2026-01-01T00:00:00Z\n",
    "nan": b"a: .nan\n",
    "inf": b"a: -.Inf\n",
    "plus": b"a: +1\n",
    "dot": b"a: .5\n",
    "trailing dot": b"a: 1.\n",
    "big": b"a: 9007199254740993\n",
    "huge": b"a: 1" + b"0" * 5000 + b"\n",
    "huge float": b"a: 1e999\n",
    "big float": b"a: 9007199254740992.0\n",
    "value": b"a: =\n",
    "two documents": b"a: 1\n---\nb: 2\n",
    "empty": b"",
    "comment": b"# nothing\n",
    "not utf-8": b"a: \xff\n",
    "utf-16": "a: 1\n".encode("utf-16"),
    "nul": b"a: \x00\n",
    "tab": b"a:\n\t- b\n",
    "unclosed": b"a: [1\n",
    "surrogate": b'a: "\\ud800"\n',
    "a value left out": b"- [",
    "unclosed quote": b"a: 'x\n",
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused(name: str) -> None:
    with pytest.raises(ParseError, match=r"policy\.yaml") as e:
        load_yaml(REFUSED[name])
    assert e.value.reason.next_step


def test_read() -> None:
    text = b"a: [1, -2, 1.5, 1e3, true, false, null, '017', \"yes\", x y]\nb: {}\nc:\n"
    assert load_yaml(text) == {
        "a": [1, -2, 1.5, 1000.0, True, False, None, "017", "yes", "x y"],
        "b": {},
        "c": None,
    }


def test_bounds() -> None:
    """V10: size, depth."""
    with pytest.raises(LimitError, match=r"limit\.size"):
        load_yaml(b"a: " + b"x" * (256 << 10))
    for deep in (b"[" * 100_000, b"{a: " * 50_000, b"- " * 100_000, b"? " * 50_000):
        with pytest.raises(InputError, match=r"limit\.depth|policy\.yaml"):
            load_yaml(deep)


def test_not_a_mapping() -> None:
    with pytest.raises(ParseError, match=r"policy\.yaml"):
        load_policy(b"[1]", resolve={})


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b"$opal", b"$nobody", "policy.reference"),
        (b"hospital-a", "hospital-\N{CYRILLIC SMALL LETTER A}".encode(), "policy.invalid"),
        (b"hospital-a", b"../a", "policy.invalid"),
        (b"sequence: 1", b"sequence: '1'", "policy.invalid"),
        (b"sequence: 1", b"sequence: 0", "policy.invalid"),
        (b"sequence: 1", b"sequence: true", "policy.invalid"),
        (b"profile: production", b"profile: prod", "policy.invalid"),
        (b"profile: production", b"profile: production\nextra: 1", "policy.invalid"),
        (b"runs: 3", b"runs: -3", "policy.invalid"),
        (b"{document: $anchors}", b"{}", "policy.invalid"),
        (b"{document: $anchors}", b"{document: $anchors, product: x}", "policy.invalid"),
        (b"{document: $anchors}", b"{signer: $opal, product: x}", "policy.invalid"),
        (
            b"few-epochs\n        cel: job",
            b"few-epochs\n        cel: " + b"j" * 1025,
            "policy.invalid",
        ),
    ],
)
def test_policies_that_are_none(old: bytes, new: bytes, code: str) -> None:
    with pytest.raises(ParseError) as e:
        load_policy(POLICY.replace(old, new, 1), resolve=KNOWN)
    assert e.value.code == code


def test_truncated_at_every_byte() -> None:
    for n in range(0, len(POLICY), 7):
        with contextlib.suppress(InputError):
            load_policy(POLICY[:n], resolve=KNOWN)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_bytes_give_our_errors_only(data: bytes) -> None:
    with contextlib.suppress(SvetovidError):
        load_policy(data, resolve=KNOWN)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from("abc:-[]{}?&*!|>'\"%@`#,$~ \n1.0"), max_size=60))
def test_yaml_like_text_gives_our_errors_or_json(parts: list[str]) -> None:
    text = "".join(parts)
    try:
        value = load_yaml(text.encode())
    except SvetovidError:
        return
    # What is read means the same to PyYAML's own safe loader.
    assert value == yaml.safe_load(text)


_CHARACTERS = st.characters(exclude_categories=["Cc", "Cs", "Cn", "Zl", "Zp"])
_leaf = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(
        st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Zl", "Zp"]), max_size=12
    )
)
_value = st.recursive(
    _leaf,
    lambda v: (
        st.lists(v, max_size=3) | st.dictionaries(st.text("abcyn", max_size=3), v, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(_value)
def test_whatever_json_can_say_survives(value: object) -> None:
    text = yaml.safe_dump({"v": value}, default_style='"', allow_unicode=True)
    assert load_yaml(json.dumps({"v": value}, ensure_ascii=False).encode()) == {"v": value}
    assert "!!" in text or load_yaml(text.encode()) == {"v": value}


def test_v10_d1_many_values_end_early() -> None:
    """V10, D1: 256 KiB of zeros took more than a second."""
    assert load_yaml(b"a: [" + b"0," * 19_990 + b"0]") == {"a": [0] * 19_991}
    with pytest.raises(LimitError) as e:
        load_yaml(b"a: [" + b"0," * 100_000 + b"0]")
    assert e.value.code == "limit.size"
