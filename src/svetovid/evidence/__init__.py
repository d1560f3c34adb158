"""PURE: evidence, anchors, reference values and time in; claims about a host out.

No clock, file, network, environment or randomness: whatever decides about trust can be read, and
tested, in one sitting. ``docs/spec/evidence.md`` is the specification.
"""

from svetovid.evidence.appraisal import Appraisal, Claim, appraise
from svetovid.evidence.documents import (
    NO_JOB,
    NO_SUBJECT,
    BootReferences,
    Challenge,
    HostRecord,
    HostStatement,
    JobKeys,
    JobRole,
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
from svetovid.evidence.manager import activation_proof, check_manager, verify_manager
from svetovid.evidence.tee import SimulatedReport
from svetovid.evidence.tpm.credential import make_credential
from svetovid.evidence.tpm.quote import check_no_reset
from svetovid.evidence.verify import NEEDED_PCRS, Proven, verify_evidence

__all__ = [
    "NEEDED_PCRS",
    "NO_JOB",
    "NO_SUBJECT",
    "Appraisal",
    "BootReferences",
    "Challenge",
    "Claim",
    "HostRecord",
    "HostStatement",
    "JobKeys",
    "JobRole",
    "LogState",
    "Proven",
    "ReferenceValues",
    "Role",
    "SimulatedReport",
    "TeeEvidence",
    "TpmEvidence",
    "TrustAnchor",
    "TrustAnchors",
    "activation_proof",
    "appraise",
    "binding",
    "check_enrolment",
    "check_manager",
    "check_no_reset",
    "make_credential",
    "verify_evidence",
    "verify_manager",
]
