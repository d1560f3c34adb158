"""PURE: policies, jobs and consents; request, appraisals, history and time in, a decision out."""

from svetovid.policy.cel_subset import parse as parse_condition
from svetovid.policy.conditions import (
    CLAIM_FIELDS,
    JOB_FIELDS,
    Outcome,
    evaluate,
    job_view,
    output_bytes,
)
from svetovid.policy.consents import open_consents
from svetovid.policy.decide import decide
from svetovid.policy.documents import (
    Condition,
    Consent,
    Export,
    Grant,
    Import,
    Job,
    JobAsset,
    JobLimits,
    Limits,
    Mode,
    Pin,
    Policy,
    Use,
)
from svetovid.policy.lint import Finding, lint, require_sound
from svetovid.policy.modes import require_available
from svetovid.policy.offload import Offload, OffloadWorker, collusion_bound, guarantees
from svetovid.policy.outputs import MetricSpec, OutputSpec, Recipient, TensorSpec
from svetovid.policy.pins import resolve_pin, resolve_policy
from svetovid.policy.renewal import decide_renewal
from svetovid.policy.request import (
    Appraised,
    ClauseResult,
    Decision,
    GrantUse,
    History,
    Request,
)
from svetovid.policy.speaking import open_owned, owner_keys
from svetovid.policy.succession import check_successor
from svetovid.policy.yaml_input import load_job, load_policy, load_yaml

__all__ = [
    "CLAIM_FIELDS",
    "JOB_FIELDS",
    "Appraised",
    "ClauseResult",
    "Condition",
    "Consent",
    "Decision",
    "Export",
    "Finding",
    "Grant",
    "GrantUse",
    "History",
    "Import",
    "Job",
    "JobAsset",
    "JobLimits",
    "Limits",
    "MetricSpec",
    "Mode",
    "Offload",
    "OffloadWorker",
    "Outcome",
    "OutputSpec",
    "Pin",
    "Policy",
    "Recipient",
    "Request",
    "TensorSpec",
    "Use",
    "check_successor",
    "collusion_bound",
    "decide",
    "decide_renewal",
    "evaluate",
    "guarantees",
    "job_view",
    "lint",
    "load_job",
    "load_policy",
    "load_yaml",
    "open_consents",
    "open_owned",
    "output_bytes",
    "owner_keys",
    "parse_condition",
    "require_available",
    "require_sound",
    "resolve_pin",
    "resolve_policy",
]
