"""Path rules, superseded digests and the sources of values: each refusal one step from good."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.authorities import NOW
from evidence.ima_bytes import fields, raw_entry
from evidence.small_world import FILES, World
from evidence.test_ima_templates import P256, signed, spki
from svetovid.crypto import b64encode, digest
from svetovid.errors import ParseError
from svetovid.evidence import BootReferences, ReferenceValues
from svetovid.evidence.ima import build_entry, parse_log
from svetovid.evidence.ima.growing import Entries
from svetovid.evidence.ima.listing import IMA_POLICY, Listing, compare
from svetovid.evidence.ima.rules import Rules, covers
from svetovid.evidence.references import Current, PathRule, Source

OLD, NEW = digest(b"old"), digest(b"new")
LATER = NOW + 600
PATH = "/usr/lib/libssl.so.3"


def rule(kind: str, path: str) -> PathRule:
    return PathRule(kind=kind, path=path, why="a cache")


def values(**changes: object) -> ReferenceValues:
    files = {path: (value,) for path, value in FILES.items()}
    return ReferenceValues(**{"product": "runtime", "version": 1, "files": files, **changes})


def codes(world: World, *references: ReferenceValues, now: int = NOW) -> list[str]:
    world.now = now
    proven = world.verify(now=NOW)
    return [c.code for c in world.appraise(proven, references=references).claims if not c.ok]


def claims(world: World, name: str, *references: ReferenceValues) -> list[tuple[object, str]]:
    appraisal = world.appraise(references=references)
    assert appraisal.affirmed
    return [(c.value, c.observed) for c in appraisal.claims if c.name == name]


# -- path rules ---------------------------------------------------------------------------------


def brute(want: str, path: str) -> bool:
    """A glob by trying everything: the reference that the fast one is held against."""
    if not want:
        return not path
    if want[0] == "*":
        return brute(want[1:], path) or (path[:1] not in ("", "/") and brute(want, path[1:]))
    return path[:1] == want[0] and brute(want[1:], path[1:])


GLOB = st.lists(st.text("ab*", min_size=1, max_size=5), max_size=3).map("/".join)
PARTS = st.lists(st.text("ab", max_size=7), max_size=4).map("/".join)


@settings(max_examples=400, deadline=None)
@given(GLOB, PARTS)
def test_a_glob_is_what_trying_everything_finds(glob: str, path: str) -> None:
    glob = f"/a/{glob}*".replace("**", "*").replace("**", "*").replace("**", "*")
    for tried in (f"/a/{path}", path, f"/a/{path}/", f"x/a/{path}"):
        assert covers(rule("glob", glob), tried) == brute(glob, tried)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=3), PARTS)
def test_a_subtree_is_all_that_has_these_parts_first(parts: list[str], path: str) -> None:
    at = "/" + "/".join(parts)
    for tried in (f"/{path}", f"{at}/{path}", f"{at}{path}", f"/x{at}/{path}"):
        below = tried.split("/")[: len(parts) + 1] == ["", *parts]
        assert covers(rule("subtree", at), tried) == (below and len(tried) > len(at))
        assert covers(rule("exact", at), tried) == (tried == at)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["/a", "/a/b", "/a/b*", "/ab", "/a/*b", "/a/b/a"])), PARTS)
def test_the_first_rule_that_covers_a_path_is_counted(paths: list[str], path: str) -> None:
    kinds = ("exact", "subtree")
    rules = [rule("glob" if "*" in p else kinds[i % 2], p) for i, p in enumerate(paths)]
    found = next((i for i, r in enumerate(rules) if covers(r, f"/a{path}")), None)
    assert Rules(rules).first(f"/a{path}") == found


def test_no_glob_and_no_path_is_slow() -> None:
    globs = ["/a/" + "a*" * 2000 + "b", "/a/" + "*a" * 2000 + "*b", "/a/" + "/".join("*a" * 900)]
    start = time.perf_counter()
    for glob in globs:
        assert not covers(rule("glob", glob.replace("/*a/", "/*/")), "/a/" + "a" * 4090)
    rules = Rules([rule("glob", f"/var/cache/*{i}/*x*x*x*z") for i in range(32)])
    for i in range(1000):
        assert rules.first(f"/var/cache/{i}/" + "x" * 200) is None
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("exact", "usr/bin/x"),
        ("exact", "/usr//x"),
        ("exact", "/usr/x/"),
        ("exact", "/usr/../x"),
        ("exact", "/usr/./x"),
        ("exact", "/usr/*"),
        ("exact", "/usr/a\nb"),
        ("subtree", "/"),
        ("subtree", ""),
        ("subtree", "/usr/*/x"),
        ("glob", "/usr/x"),
        ("glob", "/*/x"),
        ("glob", "/us*/x"),
        ("glob", "/usr/**/x"),
        ("regex", "/usr/.*"),
    ],
)
def test_a_rule_that_could_mean_more_than_it_says(kind: str, path: str) -> None:
    with pytest.raises(ParseError) as e:
        PathRule.from_json({"kind": kind, "path": path, "why": "a cache"})
    assert e.value.code == "document.invalid"


def test_files_under_a_rule_are_counted_and_shown() -> None:
    world = World()
    for i in range(3):
        world.measure(f"/var/cache/job/{i}", digest(b"%d" % i))
    world.measure("/etc/hostname", digest(b"node"))
    good = values(
        unchecked=(
            rule("subtree", "/var/cache"),
            rule("exact", "/etc/hostname"),
            rule("glob", "/o/*"),
        )
    )
    assert claims(world, "log.unchecked", good) == [
        (3, "3 measured files, first /var/cache/job/0"),
        (1, "1 measured files, first /etc/hostname"),
        (0, "0 measured files"),
    ]
    assert world.appraise(references=[good]).facts()["unchecked_files"] == 4
    assert world.appraise(references=[values()]).facts()["unchecked_files"] == 0
    assert codes(world, values(unchecked=good.unchecked[:1])) == ["ima.unlisted"] * 2
    assert codes(world, values()) == ["ima.unlisted"] * 5


def test_counts_go_on_as_the_log_grows() -> None:
    lines = [build_entry(f"/var/{i}", digest(b"%d" % i)) for i in range(6)]
    entries = Entries(parse_log(b"".join(lines)))
    now = Current.at([values(unchecked=(rule("subtree", "/var"),))], NOW)
    listing = Listing()
    for count in (2, 2, 5, 6):
        found = listing.compare(Entries(entries[:count]), now)
        assert found == compare(Entries(entries[:count]), now)
        assert (found.unchecked[0].count, found.unchecked[0].first) == (count, "/var/0")


def test_pending_lines_under_a_rule_count_as_well() -> None:
    world = World()
    world.measure("/var/a", NEW)
    world.lines.append(build_entry("/var/b", NEW))  # read after the quote
    good = values(unchecked=(rule("subtree", "/var"),))
    assert claims(world, "log.unchecked", good) == [(2, "2 measured files, first /var/a")]


def test_a_rule_is_silent_about_what_stands_in_a_set() -> None:
    """A wide rule, here or in another set, hides no changed file that somebody lists."""
    world = World()
    path = next(iter(FILES))
    world.measure(path, NEW)
    wide = ReferenceValues(product="wide", version=1, unchecked=(rule("subtree", "/opt"),))
    assert codes(world, values(), wide) == ["ima.digest"] * 2
    assert codes(World(), wide) == []


def test_a_rule_is_silent_about_what_the_boot_is_judged_by() -> None:
    boot = BootReferences(measured=("/etc/agent.conf",))
    everything = tuple(rule("subtree", at) for at in ("/opt", "/etc"))
    for path in ("/etc/agent.conf", IMA_POLICY):
        world = World()
        world.measure(path, NEW)
        assert "ima.unlisted" in codes(world, values(unchecked=everything, boot=boot))
        known = {**values().files, path: (NEW,)}
        good = values(unchecked=everything, boot=boot, files=known)
        assert "ima.unlisted" not in codes(world, good)


def test_m5_a_rule_is_no_word_on_violations_and_kernels() -> None:
    world = World()
    world.append(raw_entry(b"/var/a", bytes(32), sha1=bytes(20)), b"\xff" * 32)
    assert codes(world, values(unchecked=(rule("subtree", "/var"),))) == ["ima.violation"]
    world = World()
    again = world.lines[0]
    world.append(again, parse_log(again)[0].extension)
    assert "ima.kexec" in codes(world, values(unchecked=(rule("subtree", "/var"),)))


def test_a_rule_counts_within_the_time_of_its_set() -> None:
    world = World()
    world.measure("/var/a", NEW)
    brief = ReferenceValues(
        product="brief", version=1, unchecked=(rule("subtree", "/var"),), valid_until=LATER
    )
    assert codes(world, values(), brief) == []
    assert codes(world, values(), brief, now=LATER + 1) == ["ima.unlisted"] * 2


@pytest.mark.parametrize(
    ("glob", "path", "good"),
    [
        ("/a/ab*ba", "/a/aba", False),
        ("/a/ab*ba", "/a/abba", True),
        ("/a/*b*b", "/a/b", False),
        ("/a/*", "/a/", True),
        ("/a/*", "/a/b/c", False),
        ("/a/*.so", "/a/x.so/y.so", False),
        ("/a/*.so", "/b/x.so", False),
        ("/a/*.so", "/a/x.so.1", False),
        ("/a/[x]*", "/a/x1", False),
        ("/a/x?*", "/a/xy1", False),
    ],
)
def test_globs_that_are_easily_taken_for_more(glob: str, path: str, good: bool) -> None:
    assert covers(rule("glob", glob), path) is good


# -- superseded digests -------------------------------------------------------------------------


def updated(**changes: object) -> ReferenceValues:
    known = {**values().files, PATH: (NEW,)}
    return values(files=known, superseded={PATH: {OLD: LATER}}, **changes)


def measured(value: str) -> World:
    world = World()
    world.measure(PATH, value)
    return world


def test_old_and_new_are_good_until_the_old_one_is_refused() -> None:
    for now, good in ((NOW, True), (LATER - 1, True), (LATER, False), (LATER + 9, False)):
        assert codes(measured(NEW), updated(), now=now) == []
        found = codes(measured(OLD), updated(), now=now)
        assert found == ([] if good else ["ima.superseded"] * 2)
    assert codes(measured(digest(b"third")), updated()) == ["ima.digest"] * 2
    assert claims(measured(OLD), "log.outgoing", updated()) == [
        (1, f"1 measured files, first {PATH}")
    ]
    assert claims(measured(NEW), "log.outgoing", updated()) == [(0, "0 measured files")]
    assert claims(World(), "log.outgoing", values()) == []


def test_a_host_appraised_before_is_refused_from_that_time_on() -> None:
    """What was found of a log is remembered; not beyond a turn."""
    world = measured(OLD)
    proven = world.verify()
    found = []
    for now in (NOW, LATER - 1, LATER, LATER + 5, NOW):
        appraisal = world.appraise(proven, references=[updated()], now=now)
        found.append(appraisal.affirmed)
    assert found == [True, True, False, False, True]


def test_m17_what_one_set_supersedes_no_other_makes_good() -> None:
    """An older edition, a rule and a signature each say yes; the newer edition says no."""
    older = values(files={**values().files, PATH: (OLD,)})
    rules = values(product="rules", unchecked=(rule("subtree", "/usr"),))
    assert codes(measured(OLD), older) == []
    assert codes(measured(OLD), updated(), older, now=LATER) == ["ima.superseded"] * 2
    assert codes(measured(OLD), updated(), rules, now=LATER) == ["ima.superseded"] * 2
    raw = bytes.fromhex(OLD.partition(":")[2])
    parts = (b"sha256:\0" + raw, PATH.encode() + b"\0", signed(P256, b"old"))
    line = raw_entry(template=b"ima-sig", body=fields(*parts))
    signers = values(product="signers", file_signers=(b64encode(spki(P256)),))
    for references, now, wanted in (
        ([signers], LATER, []),
        ([signers, updated()], LATER - 1, []),
        ([signers, updated()], LATER, ["ima.superseded"]),
    ):
        found = compare(parse_log(line), Current.at(references, now), begins=False)
        assert [m.code for m in found.mismatches] == wanted


def test_a_path_that_only_was_listed_is_no_longer_anybodys_to_waive() -> None:
    third = digest(b"third")
    gone = values(superseded={PATH: {OLD: LATER, NEW: NOW}}, unchecked=(rule("subtree", "/usr"),))
    for now, expected in ((NOW, OLD), (LATER, "another file in the reference values")):
        (found,) = compare(
            parse_log(build_entry(PATH, third)), Current.at([gone], now), begins=False
        ).mismatches
        assert (found.code, found.expected) == ("ima.digest", expected)


def test_an_outgoing_file_that_is_pending_counts_as_well() -> None:
    world = World()
    world.lines.append(build_entry(PATH, OLD))
    assert claims(world, "log.outgoing", updated()) == [(1, f"1 measured files, first {PATH}")]
    world = measured(OLD)
    world.lines.append(build_entry(PATH, OLD))
    assert claims(world, "log.outgoing", updated()) == [(2, f"2 measured files, first {PATH}")]


def test_the_earliest_of_two_words_on_one_digest_counts() -> None:
    sooner = ReferenceValues(product="cve", version=1, superseded={PATH: {OLD: NOW + 10}})
    assert codes(measured(OLD), updated(), sooner, now=NOW + 9) == []
    assert codes(measured(OLD), updated(), sooner, now=NOW + 10) == ["ima.superseded"] * 2
    gone = replace_window(sooner, until=NOW + 5)
    assert codes(measured(OLD), updated(), gone, now=NOW + 10) == []


def replace_window(references: ReferenceValues, until: int) -> ReferenceValues:
    return references.model_copy(update={"valid_until": until})


def test_superseded_at_another_path_is_another_file() -> None:
    """An empty file may be old at one path and as it should be at a thousand others."""
    world = World()
    world.measure("/usr/lib/other.so", OLD)
    known = {**values().files, "/usr/lib/other.so": (OLD,)}
    assert codes(world, values(files=known, superseded={PATH: {OLD: NOW}})) == []


def test_editions_overlap() -> None:
    """Two editions, each with its window: in between both digests are good."""
    first = values(files={**values().files, PATH: (OLD,)}, valid_until=LATER)
    second = values(files={**values().files, PATH: (NEW,)}, version=2, valid_from=NOW + 60)
    for value, now, wanted in (
        (OLD, NOW, []),
        (NEW, NOW, ["ima.digest"] * 2),
        (OLD, NOW + 60, []),
        (NEW, NOW + 60, []),
        (NEW, LATER + 1, []),
        (OLD, LATER + 1, ["ima.digest"] * 2),
    ):
        assert codes(measured(value), first, second, now=now) == wanted


TABLE = st.dictionaries(
    st.sampled_from("abc"),
    st.dictionaries(st.sampled_from([OLD, NEW]), st.integers(0, 9)),
    max_size=3,
)


@settings(max_examples=200, deadline=None)
@given(TABLE, TABLE, st.sampled_from("abc"), st.sampled_from([OLD, NEW]), st.integers(0, 10))
def test_superseded_is_what_its_words_say(
    one: dict, two: dict, name: str, value: str, now: int
) -> None:
    """Held against the sentence in the specification, in a listing that was asked before."""
    sets = [
        values(
            files={"/a": (OLD,), "/b": (NEW,)}, superseded={f"/{n}": t for n, t in table.items()}
        )
        for table in (one, two)
    ]
    entries = Entries(parse_log(build_entry(f"/{name}", value)))
    listing = Listing()
    listing.compare(entries, Current.at(sets, 0))
    found = listing.compare(entries, Current.at(sets, now))
    times = [table[name][value] for table in (one, two) if value in table.get(name, {})]
    listed = (name, value) in {("a", OLD), ("b", NEW)}
    good = now < min(times) if times else listed
    assert (found.count == 0) == good
    if times and not good:
        assert found.mismatches[0].code == "ima.superseded"


# -- sources ------------------------------------------------------------------------------------


def test_values_of_sources_count_and_a_refusal_names_them() -> None:
    package = Source(kind="debian", name="libssl3 3.0.15 amd64", artifact=OLD, files={PATH: (NEW,)})
    image = Source(kind="container", name="lab/train:1", files={PATH: (OLD,)})
    good = values(sources=(package, image))
    assert codes(measured(NEW), good) == codes(measured(OLD), good) == []
    found = world_claim(measured(digest(b"third")), good)
    assert (
        found == f"{min(NEW, OLD)}, {max(NEW, OLD)} (debian {package.name}, container lab/train:1)"
    )
    assert good.listed[PATH] == (NEW, OLD)
    assert values(sources=(package, package)).listed[PATH] == (NEW,)


def world_claim(world: World, references: ReferenceValues) -> str:
    appraisal = world.appraise(references=[references])
    return next(c.expected for c in appraisal.claims if c.code == "ima.digest")


def test_a_changed_copy_forgets_what_was_computed() -> None:
    package = Source(kind="debian", name="a", files={PATH: (OLD,)})
    before = values(sources=(package,), superseded={PATH: {OLD: 5}})
    assert (before.listed[PATH], before.turns) == ((OLD,), [5])
    after = before.model_copy(update={"sources": (), "superseded": {}})
    assert PATH not in after.listed
    assert after.turns == []
    assert before == before.model_copy()
    again = ReferenceValues.parse(before.canonical())
    assert again == before
    assert again.digest() == before.digest()


def test_an_appraisal_shows_what_it_was_held_against() -> None:
    appraisal = World().appraise(references=[replace_window(values(), LATER)])
    assert appraisal.affirmed
    claim = next(c for c in appraisal.claims if c.name == "log.files")
    assert replace(claim, value=0).source == "reference values runtime v1"
