"""The owners' side: a home folder, sealing, policies, consents, opening, verifying.

Everything the command line does for an owner is one of these functions.
"""

from svetovid.stakeholder.choosing import Choice, choose
from svetovid.stakeholder.consenting import check_job, consent, own_slots
from svetovid.stakeholder.creating import check_new, create
from svetovid.stakeholder.editions import Change, changes, describe_changes
from svetovid.stakeholder.home import Home
from svetovid.stakeholder.identity import (
    Stakeholder,
    load,
    publish_card,
    read_card,
    rotate,
    rotations,
)
from svetovid.stakeholder.jobs import describe, promised, propose, read_job, write_job
from svetovid.stakeholder.labels import Labels, read_labels
from svetovid.stakeholder.manager import (
    ManagerClaims,
    announce,
    connect,
    hand_over,
    records,
    revoke_key,
    status,
    verify_manager,
)
from svetovid.stakeholder.names import Names, read_document, read_names, write_public
from svetovid.stakeholder.operator import make_anchors, publish, publish_file, sign_host_statement
from svetovid.stakeholder.outputs import Opened, open_output
from svetovid.stakeholder.pins import pin_manager, pinned_manager, read_pin
from svetovid.stakeholder.policies import (
    Checked,
    check_policy,
    own_policies,
    publish_policy,
    read_policy,
    withdraw_consents,
)
from svetovid.stakeholder.progress import read_progress
from svetovid.stakeholder.readers import Column, read_columns
from svetovid.stakeholder.receipts import check_receipt, read_receipt
from svetovid.stakeholder.sealing import (
    deposit_key,
    newest_manifest,
    read_manifest,
    seal_asset,
    verify_asset,
)
from svetovid.stakeholder.sharing import Shared, share
from svetovid.stakeholder.telling import Told, tell

__all__ = [
    "Change",
    "Checked",
    "Choice",
    "Column",
    "Home",
    "Labels",
    "ManagerClaims",
    "Names",
    "Opened",
    "Shared",
    "Stakeholder",
    "Told",
    "announce",
    "changes",
    "check_job",
    "check_new",
    "check_policy",
    "check_receipt",
    "choose",
    "connect",
    "consent",
    "create",
    "deposit_key",
    "describe",
    "describe_changes",
    "hand_over",
    "load",
    "make_anchors",
    "newest_manifest",
    "open_output",
    "own_policies",
    "own_slots",
    "pin_manager",
    "pinned_manager",
    "promised",
    "propose",
    "publish",
    "publish_card",
    "publish_file",
    "publish_policy",
    "read_card",
    "read_columns",
    "read_document",
    "read_job",
    "read_labels",
    "read_manifest",
    "read_names",
    "read_pin",
    "read_policy",
    "read_progress",
    "read_receipt",
    "records",
    "revoke_key",
    "rotate",
    "rotations",
    "seal_asset",
    "share",
    "sign_host_statement",
    "status",
    "tell",
    "verify_asset",
    "verify_manager",
    "withdraw_consents",
    "write_job",
    "write_public",
]
