"""PURE: evidence, anchors, reference values and time in; claims about a host out.

No clock, file, network, environment or randomness: whatever decides about trust can be read, and
tested, in one sitting. ``docs/spec/evidence.md`` is the specification.
"""

from svetovid.evidence.appraisal import Appraisal, Claim, appraise
from svetovid.evidence.documents import (
    NO_SUBJECT,
    BootReferences,
    Challenge,
    HostRecord,
    HostStatement,
    JobKeys,
    ReferenceValues,
    Role,
    TeeEvidence,
    TpmEvidence,
    TrustAnchor,
    TrustAnchors,
    binding,
)
from svetovid.evidence.enrolment import check_enrolment
from svetovid.evidence.ima.state import LogState
from svetovid.evidence.tee import SimulatedReport
from svetovid.evidence.tpm.credential import make_credential
from svetovid.evidence.tpm.quote import check_no_reset
from svetovid.evidence.verify import NEEDED_PCRS, Proven, verify_evidence

__all__ = [
    "NEEDED_PCRS",
    "NO_SUBJECT",
    "Appraisal",
    "BootReferences",
    "Challenge",
    "Claim",
    "HostRecord",
    "HostStatement",
    "JobKeys",
    "LogState",
    "Proven",
    "ReferenceValues",
    "Role",
    "SimulatedReport",
    "TeeEvidence",
    "TpmEvidence",
    "TrustAnchor",
    "TrustAnchors",
    "appraise",
    "binding",
    "check_enrolment",
    "check_no_reset",
    "make_credential",
    "verify_evidence",
]
