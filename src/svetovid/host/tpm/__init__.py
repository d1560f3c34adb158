"""The host's TPM 2.0, over a device, swtpm, or libtpms in process."""

from svetovid.host.tpm.libtpms import LibtpmsTransport
from svetovid.host.tpm.simulated_ca import SimulatedCa, create_ca, issue_ek_certificate
from svetovid.host.tpm.tpm import DEFAULT_PCRS, Quote, Tpm
from svetovid.host.tpm.transports import (
    DeviceTransport,
    SwtpmTransport,
    Transport,
    open_transport,
)

__all__ = [
    "DEFAULT_PCRS",
    "DeviceTransport",
    "LibtpmsTransport",
    "Quote",
    "SimulatedCa",
    "SwtpmTransport",
    "Tpm",
    "Transport",
    "create_ca",
    "issue_ek_certificate",
    "open_transport",
]
