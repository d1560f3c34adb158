"""``svetovid tpm``: what stands in for a TPM where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from svetovid.cli.options import AsJson
from svetovid.cli.output import emit

group = typer.Typer(
    help="TPMs, and what simulates one.",
    epilog="`svetovid host init` does this by itself; `simulate` is for a TPM set up by hand, or "
    "for one authority over several hosts.",
    no_args_is_help=True,
)


@group.command()
def simulate(
    folder: Annotated[
        Path, typer.Argument(help="Private folder of the authority; made where there is none.")
    ],
    tpm: Annotated[
        str | None,
        typer.Option(
            "--tpm",
            help="Certify this SOFTWARE TPM: libtpms:STATEFILE, swtpm:unix:PATH or "
            "swtpm:tcp:HOST:PORT.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make an authority for software TPMs, and certify one. It protects nothing.

    Whoever runs the host reads a software TPM's keys; a production policy refuses it. Give the
    folder to `host init --simulated-ca`, to let several hosts share one authority.

    Example: `svetovid tpm simulate ca --tpm libtpms:tpm.state`
    """
    from svetovid.crypto.private import write_private
    from svetovid.host.tpm.simulated_ca import create_ca, issue_ek_certificate
    from svetovid.stakeholder.home import make_private

    make_private(folder)
    authority = create_ca(folder)
    data = {"ca_certificate": str(folder / "tpm-ca.pem"), "simulated": True, "protects": "nothing"}
    lines = [f"authority  {folder / 'tpm-ca.pem'}", "SIMULATED: it protects nothing"]
    if tpm is not None:
        from svetovid.host.home import open_tpm

        with open_tpm(tpm) as device:
            certificate = issue_ek_certificate(authority, device.ek())
            device.store_ek_certificate(certificate)
        write_private(folder / "ek.der", certificate)
        data["ek_certificate"] = str(folder / "ek.der")
        lines.append(f"EK         {folder / 'ek.der'}, also in the TPM")
    emit(data, lines, as_json)
