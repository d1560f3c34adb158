"""A host that plays its own evidence twice: a process of the operator's, with the host's home.

``python -m svetovid.cli.demo.replaying HOME JOB PIN``: gets the job's keys for good evidence, gives
the lease back, and sends the very same bytes again. Answers as a command with ``--json`` does.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from svetovid import stakeholder
from svetovid.cli.options import passphrase
from svetovid.cli.output import emit, emit_error
from svetovid.crypto import Identity, ReceivingKey
from svetovid.errors import SvetovidError
from svetovid.host.home import HostHome
from svetovid.host.link import ManagerLink
from svetovid.protocol.client import ManagerClient


def replay(folder: Path, job_file: Path, pin_file: Path) -> None:
    """Ask once, then send the evidence again.

    Raises:
        SvetovidError: ``challenge.used``, from a manager that is worth its name.
    """
    job, pin = stakeholder.read_job(job_file)[0], stakeholder.read_pin(pin_file)
    home, signer = HostHome(folder), Identity.generate("lab")
    agent, attester = home.agent(passphrase(folder)), home.attester()
    with contextlib.closing(attester), ManagerClient(pin, agent) as client:
        attester.measure()
        link = ManagerLink(
            client, home.host_id, job, ReceivingKey.generate(), signer.key_id, attester
        )
        link.ask()
        client.end_lease(link.lease_id, "played", signer)
        client.release(link.start)


def main() -> int:
    try:
        replay(*map(Path, sys.argv[1:4]))
    except SvetovidError as e:
        emit_error(e, as_json=True)
        return e.exit_code
    emit({"replayed": True}, (), as_json=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
