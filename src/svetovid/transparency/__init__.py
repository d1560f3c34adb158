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
from svetovid.transparency.receipt import (
    MAX_BUNDLE_BYTES,
    METRICS,
    Countersignature,
    Receipt,
    ReceiptBundle,
    assemble,
    final_subject,
    make_receipt,
)
from svetovid.transparency.verify import Verdict, not_verified, verify_receipt

__all__ = [
    "MAX_BUNDLE_BYTES",
    "METRICS",
    "Checkpoint",
    "Countersignature",
    "EntryKind",
    "LogEntry",
    "LogProof",
    "MerkleTree",
    "Receipt",
    "ReceiptBundle",
    "Verdict",
    "advance",
    "assemble",
    "check_consistency",
    "check_inclusion",
    "final_subject",
    "leaf_hash",
    "make_receipt",
    "node_hash",
    "not_verified",
    "verify_consistency",
    "verify_inclusion",
    "verify_proof",
    "verify_receipt",
]
