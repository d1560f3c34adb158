"""Where reference values come from: folders, packages, container images, and hosts after review.

Each function makes a :class:`~svetovid.evidence.references.Source`, whose values carry their
provenance; :func:`make_references` puts them into one document. Nothing that is read is run.
"""

from svetovid.stakeholder.sources.booted import merged_boots
from svetovid.stakeholder.sources.container import from_container
from svetovid.stakeholder.sources.debian import from_debian
from svetovid.stakeholder.sources.directory import from_directory
from svetovid.stakeholder.sources.making import make_references, read_signer, supersede
from svetovid.stakeholder.sources.proposal import (
    HostLogs,
    Proposal,
    all_buffers,
    approved,
    propose,
    read_host,
    read_proposal,
)

__all__ = [
    "HostLogs",
    "Proposal",
    "all_buffers",
    "approved",
    "from_container",
    "from_debian",
    "from_directory",
    "make_references",
    "merged_boots",
    "propose",
    "read_host",
    "read_proposal",
    "read_signer",
    "supersede",
]
