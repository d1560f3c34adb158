"""PURE: the manager's Merkle log, its checkpoints, receipts and their offline verification."""

from svetovid.transparency.checkpoint import (
    Checkpoint,
    advance,
    verify_consistency,
    verify_inclusion,
)
from svetovid.transparency.entries import EntryKind, LogEntry, LogProof, verify_proof
from svetovid.transparency.merkle import (
    MerkleTree,
    check_consistency,
    check_inclusion,
    leaf_hash,
    node_hash,
)

__all__ = [
    "Checkpoint",
    "EntryKind",
    "LogEntry",
    "LogProof",
    "MerkleTree",
    "advance",
    "check_consistency",
    "check_inclusion",
    "leaf_hash",
    "node_hash",
    "verify_consistency",
    "verify_inclusion",
    "verify_proof",
]
