"""Evidence that was recorded, appraised without host, manager or network."""

from svetovid.evidence.recorded.appraise import Expectations, appraise_recorded
from svetovid.evidence.recorded.bundle import (
    FILES,
    MAX_BUNDLE_BYTES,
    RecordedEvidence,
    from_files,
    parse_nonce,
)
from svetovid.evidence.recorded.conformance import (
    BUNDLE,
    CASE,
    ConformanceCase,
    differences,
    judge_case,
    laid_over,
)
from svetovid.evidence.recorded.device import (
    MAX_AUTHORITIES_BYTES,
    Authorities,
    read_authorities,
)
from svetovid.evidence.recorded.tree import Node, Seen, Verdict

__all__ = [
    "BUNDLE",
    "CASE",
    "FILES",
    "MAX_AUTHORITIES_BYTES",
    "MAX_BUNDLE_BYTES",
    "Authorities",
    "ConformanceCase",
    "Expectations",
    "Node",
    "RecordedEvidence",
    "Seen",
    "Verdict",
    "appraise_recorded",
    "differences",
    "from_files",
    "judge_case",
    "laid_over",
    "parse_nonce",
    "read_authorities",
]
