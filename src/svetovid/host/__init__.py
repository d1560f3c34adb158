"""The proving wing: TPM transports, measurement, enrolment, data server, sandbox, the agent.

An operator's program needs four calls, in this order: :func:`init_host`, :func:`enrol_host` with
what the operator signed, :func:`run_host` for each job, :func:`host_status` at any time.
"""

from svetovid.host.accelerators import Accelerators
from svetovid.host.agent import Event, JobOutcome, run_job
from svetovid.host.attesting import Push, attest_host
from svetovid.host.check import Finding, check_host
from svetovid.host.home import HostHome, StatementRequest
from svetovid.host.life import HostStatus, enrol_host, host_status, run_host
from svetovid.host.setup import HostMade, init_host
from svetovid.host.storage import find_storage

__all__ = [
    "Accelerators",
    "Event",
    "Finding",
    "HostHome",
    "HostMade",
    "HostStatus",
    "JobOutcome",
    "Push",
    "StatementRequest",
    "attest_host",
    "check_host",
    "enrol_host",
    "find_storage",
    "host_status",
    "init_host",
    "run_host",
    "run_job",
]
