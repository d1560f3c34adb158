"""What a Merkle tree does not take: hashes, sizes and proofs of another form."""

from __future__ import annotations

import pytest

from svetovid.errors import LimitError, ParseError
from svetovid.transparency.merkle import (
    MAX_LEAVES,
    MAX_PROOF,
    MerkleTree,
    check_consistency,
    check_inclusion,
    leaf_hash,
)


def tree(n: int) -> MerkleTree:
    out = MerkleTree()
    for i in range(n):
        out.append(leaf_hash(b"%d" % i))
    return out


def test_leaves_are_hashes() -> None:
    with pytest.raises(ParseError) as e:
        tree(1).append(b"short")
    assert e.value.code == "log.hash"


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "A" * 64, "md5:" + "0" * 64])
def test_roots_have_one_form(text: str) -> None:
    with pytest.raises(ParseError) as e:
        check_consistency(1, text, 1, text, ())
    assert e.value.code == "log.hash"


@pytest.mark.parametrize("size", [-1, 4])
def test_sizes_the_tree_never_had(size: int) -> None:
    three = tree(3)
    for ask in (three.root, lambda s: three.inclusion(0, s), lambda s: three.consistency(0, s)):
        with pytest.raises(ParseError) as e:
            ask(size)
        assert e.value.code == "log.size"
    with pytest.raises(ParseError, match=r"log\.size"):
        three.inclusion(3)
    with pytest.raises(ParseError, match=r"log\.size"):
        three.consistency(4)


def test_proofs_are_bounded() -> None:
    long = ("sha256:" + "0" * 64,) * (MAX_PROOF + 1)
    for proof, size in ((long, 3), ((), MAX_LEAVES + 1)):
        with pytest.raises(LimitError) as e:
            check_inclusion(leaf_hash(b"0"), 0, size, proof, tree(3).root())
        assert e.value.code == "limit.log"
