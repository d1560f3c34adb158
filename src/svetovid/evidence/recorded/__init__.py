"""Evidence that was recorded, appraised without host, manager or network."""

from svetovid.evidence.recorded.appraise import Expectations, appraise_recorded
from svetovid.evidence.recorded.bundle import (
    FILES,
    MAX_BUNDLE_BYTES,
    RecordedEvidence,
    from_files,
    parse_nonce,
)
from svetovid.evidence.recorded.device import (
    MAX_AUTHORITIES_BYTES,
    Authorities,
    read_authorities,
)
from svetovid.evidence.recorded.tree import Node, Verdict

__all__ = [
    "FILES",
    "MAX_AUTHORITIES_BYTES",
    "MAX_BUNDLE_BYTES",
    "Authorities",
    "Expectations",
    "Node",
    "RecordedEvidence",
    "Verdict",
    "appraise_recorded",
    "from_files",
    "parse_nonce",
    "read_authorities",
]
