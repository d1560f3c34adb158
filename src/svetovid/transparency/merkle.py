"""The Merkle tree of RFC 9162, section 2.1 (and RFC 6962): roots, proofs, their verification.

Leaves and nodes are hashed under different prefixes, so that no node passes for a leaf (attack A4).
Hashes are raw 32 bytes inside, ``sha256:...`` where they leave.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from svetovid.errors import IntegrityError, LimitError, ParseError

__all__ = [
    "MAX_LEAVES",
    "MerkleTree",
    "check_consistency",
    "check_inclusion",
    "leaf_hash",
    "node_hash",
]

MAX_LEAVES = 2**40
MAX_PROOF = 2 * 41
_PREFIX = "sha256:"


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def _text(raw: bytes) -> str:
    return _PREFIX + raw.hex()


def _raw(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text.removeprefix(_PREFIX))
    except ValueError:
        raw = b""
    if len(raw) != 32 or _text(raw) != text:
        raise ParseError("log.hash", expected="sha256: and 64 hex digits", observed=text)
    return raw


def _split(n: int) -> int:
    """The largest power of two smaller than ``n`` (n >= 2)."""
    return int(1 << ((n - 1).bit_length() - 1))


class MerkleTree:
    """An append-only tree that keeps the hash of every complete subtree.

    Appending costs amortised O(1) hashes, a root or proof O(log n).
    """

    def __init__(self) -> None:
        self._levels: list[list[bytes]] = [[]]

    @property
    def size(self) -> int:
        """How many leaves it has."""
        return len(self._levels[0])

    def copy(self) -> MerkleTree:
        """An independent tree of the same leaves."""
        other = MerkleTree()
        other._levels = [level.copy() for level in self._levels]
        return other

    def append(self, leaf: bytes) -> int:
        """Add a leaf hash (see :func:`leaf_hash`); its index comes back.

        Raises:
            ParseError: ``log.hash`` for anything but 32 bytes.
            LimitError: ``limit.log`` beyond 2**40 leaves.
        """
        if len(leaf) != 32:
            raise ParseError("log.hash", expected="32 bytes", observed=str(len(leaf)))
        index = self.size
        if index >= MAX_LEAVES:
            raise LimitError("limit.log", expected=f"at most {MAX_LEAVES} entries")
        self._levels[0].append(leaf)
        level = 0
        while len(self._levels[level]) % 2 == 0:
            if level + 1 == len(self._levels):
                self._levels.append([])
            left, right = self._levels[level][-2:]
            self._levels[level + 1].append(node_hash(left, right))
            level += 1
        return index

    def _range(self, start: int, stop: int) -> bytes:
        n = stop - start
        level = n.bit_length() - 1
        if n == 1 << level and start % n == 0:
            return self._levels[level][start >> level]
        k = start + _split(n)
        return node_hash(self._range(start, k), self._range(k, stop))

    def _size(self, size: int | None) -> int:
        size = self.size if size is None else size
        if not 0 <= size <= self.size:
            raise ParseError("log.size", expected=f"0 to {self.size}", observed=str(size))
        return size

    def root(self, size: int | None = None) -> str:
        """Root over the first ``size`` leaves (all of them if left out)."""
        n = self._size(size)
        return _text(self._range(0, n) if n else hashlib.sha256().digest())

    def inclusion(self, index: int, size: int | None = None) -> tuple[str, ...]:
        """PATH(index, D[size]) of RFC 9162, section 2.1.3.1.

        Raises:
            ParseError: ``log.size`` where there is no such leaf or tree.
        """
        stop = self._size(size)
        if not 0 <= index < stop:
            raise ParseError("log.size", expected=f"an index below {stop}", observed=str(index))
        start, path = 0, []
        while stop - start > 1:
            k = start + _split(stop - start)
            if index < k:
                path.append(self._range(k, stop))
                stop = k
            else:
                path.append(self._range(start, k))
                start = k
        return tuple(_text(h) for h in reversed(path))

    def consistency(self, old: int, new: int | None = None) -> tuple[str, ...]:
        """PROOF(old, D[new]) of RFC 9162, section 2.1.4.1; empty for ``old`` 0 or equal to ``new``.

        Raises:
            ParseError: ``log.size``.
        """
        stop = self._size(new)
        if not 0 <= old <= stop:
            raise ParseError("log.size", expected=f"0 to {stop}", observed=str(old))
        if old in (0, stop):
            return ()
        start, path = 0, []
        whole = True
        while old != stop - start:
            k = _split(stop - start)
            if old <= k:
                path.append(self._range(start + k, stop))
                stop = start + k
            else:
                path.append(self._range(start, start + k))
                start, old, whole = start + k, old - k, False
        if not whole:
            path.append(self._range(start, stop))
        return tuple(_text(h) for h in reversed(path))


def _bounded(proof: Sequence[str], size: int) -> list[bytes]:
    if len(proof) > MAX_PROOF or not 0 <= size <= MAX_LEAVES:
        raise LimitError(
            "limit.log", expected=f"a proof of at most {MAX_PROOF} hashes", observed=len(proof)
        )
    return [_raw(p) for p in proof]


def check_inclusion(leaf: bytes, index: int, size: int, path: Sequence[str], root: str) -> None:
    """Verify that ``leaf`` (a leaf hash) stands at ``index`` of the tree (RFC 9162, 2.1.3.2).

    Args:
        leaf: 32 bytes.
        index: from 0.
        size: leaves of the tree.
        path: siblings from the leaf up, as digests.
        root: of the tree, as a digest.

    Raises:
        IntegrityError: ``log.inclusion``.
        InputError: ``log.hash``, ``limit.log``.
    """
    hashes = _bounded(path, size)
    ok = 0 <= index < size
    fn, sn, r = index, size - 1, leaf
    for p in hashes:
        if sn == 0 or not ok:
            ok = False
            break
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    if not ok or sn != 0 or _text(r) != root:
        raise IntegrityError(
            "log.inclusion",
            expected=f"entry {index} in the log of {size} entries with root {root}",
            observed="a path that does not lead there",
            next_step="ask the manager for the proof again; keep this one if it stays",
        )


def check_consistency(
    old_size: int, old_root: str, new_size: int, new_root: str, proof: Sequence[str]
) -> None:
    """Verify that the newer tree only appends to the older one (RFC 9162, 2.1.4.2).

    Args:
        old_size, new_size: leaves of the two trees.
        old_root, new_root: their roots, as digests.
        proof: as digests, in the order of RFC 9162.

    Raises:
        IntegrityError: ``log.fork``.
        InputError: ``log.hash``, ``limit.log``.
    """
    hashes = _bounded(proof, max(old_size, new_size))
    if not _grown(old_size, _raw(old_root), new_size, _raw(new_root), hashes):
        raise IntegrityError(
            "log.fork",
            expected=f"a log grown from {old_size} entries with root {old_root}",
            observed=f"{new_size} entries with root {new_root}",
            next_step="two histories were shown: keep both checkpoints, and ask the manager why",
        )


def _grown(m: int, first: bytes, n: int, second: bytes, proof: list[bytes]) -> bool:
    if m == n:
        return not proof and first == second
    if m == 0:
        return not proof and first == hashlib.sha256().digest()
    if m < 0 or m > n or not proof:
        return False
    if m & (m - 1) == 0:
        proof = [first, *proof]
    fn, sn = m - 1, n - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = proof[0]
    for c in proof[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return fr == first and sr == second and sn == 0
