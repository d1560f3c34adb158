"""The log: RFC 9162, against a straightforward reference and the RFC's well-known trees."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import svetovid.transparency.merkle as merkle
from svetovid.errors import IntegrityError, LimitError, ParseError, SvetovidError
from svetovid.transparency import (
    MerkleTree,
    check_consistency,
    check_inclusion,
    leaf_hash,
    node_hash,
)

INPUTS = [
    bytes.fromhex(x)
    for x in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
# Roots over the first n of these inputs, as Certificate Transparency's own vectors have them.
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def tree(n: int) -> MerkleTree:
    t = MerkleTree()
    for i in range(n):
        t.append(leaf_hash(b"%d" % i))
    return t


def reference(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1, word by word."""
    n = len(leaves)
    if n == 0:
        return hashlib.sha256(b"").digest()
    if n == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < n:
        k *= 2
    left, right = reference(leaves[:k]), reference(leaves[k:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def test_known_roots() -> None:
    t = MerkleTree()
    assert t.root() == "sha256:" + ROOTS[0]
    for i, data in enumerate(INPUTS):
        assert t.append(leaf_hash(data)) == i
        assert t.root() == "sha256:" + ROOTS[i + 1]
    assert [t.root(n) for n in range(9)] == ["sha256:" + r for r in ROOTS]


def test_every_small_tree() -> None:
    leaves = [b"%d" % i for i in range(34)]
    t = tree(34)
    for n in range(35):
        assert t.root(n) == "sha256:" + reference(leaves[:n]).hex()
        for i in range(n):
            check_inclusion(leaf_hash(leaves[i]), i, n, t.inclusion(i, n), t.root(n))
        for m in range(n + 1):
            check_consistency(m, t.root(m), n, t.root(n), t.consistency(m, n))


def test_a_copy_is_independent() -> None:
    t = tree(5)
    other = t.copy()
    other.append(leaf_hash(b"x"))
    assert (t.size, other.size) == (5, 6)
    assert other.root(5) == t.root()


def test_a_node_is_no_leaf() -> None:
    """A4: prefix confusion."""
    left, right = leaf_hash(b"0"), leaf_hash(b"1")
    assert node_hash(left, right) != leaf_hash(left + right)
    t = tree(4)
    inner = node_hash(left, right)
    with pytest.raises(IntegrityError, match=r"log\.inclusion"):
        check_inclusion(leaf_hash(left + right), 0, 2, t.inclusion(0)[1:], t.root())
    with pytest.raises(IntegrityError, match=r"log\.inclusion"):
        check_inclusion(inner, 0, 4, t.inclusion(0)[1:], t.root())


@settings(max_examples=60)
@given(st.integers(1, 40), st.data())
def test_any_other_proof_of_inclusion_is_refused(n: int, data: st.DataObject) -> None:
    """A1, A4: another entry, place, size, root or path."""
    t = tree(n)
    i = data.draw(st.integers(0, n - 1))
    path, leaf, root = list(t.inclusion(i)), leaf_hash(b"%d" % i), t.root()
    other = "sha256:" + "ab" * 32
    bad = [
        (leaf_hash(b"other"), i, n, path, root),
        (leaf, i, n, path, other),
        (leaf, i, n, [*path, other], root),
        (leaf, n, n, path, root),
        (leaf, -1, n, path, root),
        (leaf, i, 0, path, root),
    ]
    if path:
        k = data.draw(st.integers(0, len(path) - 1))
        bad.append((leaf, i, n, path[:k] + path[k + 1 :], root))
        bad.append((leaf, i, n, [*path[:k], other, *path[k + 1 :]], root))
        bad.append((leaf, i ^ 1, n, path, root))
    for args in bad:
        with pytest.raises(IntegrityError, match=r"log\.inclusion"):
            check_inclusion(*args)


@settings(max_examples=60)
@given(st.integers(0, 40), st.integers(0, 40), st.data())
def test_any_other_proof_of_growth_is_refused(a: int, b: int, data: st.DataObject) -> None:
    """A1: an entry changed, removed or put in between."""
    m, n = min(a, b), max(a, b)
    t = tree(n)
    proof, old, new = list(t.consistency(m)), t.root(m), t.root()
    other = "sha256:" + "cd" * 32
    bad = [(m, old, n, other, proof), (m, old, n, new, [*proof, other])]
    if m:
        bad.append((m, other, n, new, proof))
    if m < n:
        bad.append((n, new, m, old, proof))
    if proof:
        k = data.draw(st.integers(0, len(proof) - 1))
        bad.append((m, old, n, new, proof[:k] + proof[k + 1 :]))
        bad.append((m, old, n, new, [*proof[:k], other, *proof[k + 1 :]]))
    for args in bad:
        if m == 0 and args[3] == other and not args[4]:
            continue  # anything has grown from nothing
        with pytest.raises(IntegrityError, match=r"log\.fork"):
            check_consistency(*args)


@settings(max_examples=100)
@given(
    st.integers(-2, 2**41),
    st.integers(-2, 2**41),
    st.lists(st.text(max_size=72) | st.just("sha256:" + "00" * 32), max_size=90),
)
def test_hostile_proofs_give_our_errors(i: int, n: int, path: list[str]) -> None:
    root = "sha256:" + "00" * 32
    for check in (
        lambda: check_inclusion(bytes(32), i, n, path, root),
        lambda: check_consistency(i, root, n, root, path),
    ):
        try:
            check()
        except SvetovidError:
            continue


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(1).root()
    with pytest.raises(LimitError, match=r"limit\.log"):
        check_inclusion(bytes(32), 0, 1, [root] * 83, root)
    with pytest.raises(LimitError, match=r"limit\.log"):
        check_inclusion(bytes(32), 0, 2**41, [], root)
    with pytest.raises(ParseError, match=r"log\.hash"):
        check_inclusion(bytes(32), 0, 1, ["sha256:zz"], root)
    with pytest.raises(ParseError, match=r"log\.hash"):
        check_consistency(1, "SHA256:" + "0" * 64, 1, root, [])
    with pytest.raises(ParseError, match=r"log\.hash"):
        MerkleTree().append(b"short")
    for wrong in (lambda: tree(2).root(3), lambda: tree(2).inclusion(2), lambda: tree(2).root(-1)):
        with pytest.raises(ParseError, match=r"log\.size"):
            wrong()
    with pytest.raises(ParseError, match=r"log\.size"):
        tree(2).consistency(3)
    monkeypatch.setattr(merkle, "MAX_LEAVES", 2)
    with pytest.raises(LimitError, match=r"limit\.log"):
        tree(3)
