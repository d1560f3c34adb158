"""``svetovid anchors``, and what it shares with ``svetovid reference``: what an owner believes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svetovid.cli.options import AsJson, HomeOption, passphrase
from svetovid.cli.output import emit

if TYPE_CHECKING:
    from svetovid.evidence.documents import ReferenceValues, TrustAnchors

anchors = typer.Typer(
    help="Certificate authorities of devices, chosen.",
    epilog="In order: `make`, read what came of it, `publish`, or give it to `svetovid share`.",
    no_args_is_help=True,
)
Product = Annotated[str, typer.Option("--product", help="What the document is called.")]
Version = Annotated[int, typer.Option("--version", help="Its number; it only rises.")]
Out = Annotated[Path, typer.Option("--out", help="File to write.")]
DocumentFile = Annotated[
    Path, typer.Argument(help="The document, signed by somebody or by nobody.")
]


class DeviceKind(StrEnum):
    """What the authority certifies."""

    TPM = "tpm-ek"
    TEE = "tee"


@anchors.command("make")
def make_anchors(
    certificates: Annotated[list[Path], typer.Argument(help="CA certificates, PEM or DER.")],
    product: Product,
    out: Out,
    kind: Annotated[DeviceKind, typer.Option("--kind")] = DeviceKind.TPM,
    simulated: Annotated[
        bool,
        typer.Option("--simulated", help="They stand behind simulators, which protect nothing."),
    ] = False,
    version: Version = 1,
    as_json: AsJson = False,
) -> None:
    """Make a set of trust anchors out of certificates, to be read and then published.

    Example: `svetovid anchors make vendor-ca.pem --product tpm-vendors --out vendors.anchors.json`
    """
    from svetovid import stakeholder

    document = stakeholder.make_anchors(
        certificates, kind=kind.value, product=product, version=version, simulated=simulated
    )
    stakeholder.write_public(out, document)
    emit(
        {"document": document.digest(), "file": str(out)},
        [f"{out}: {document.digest()}", *(f"  {a.kind} {a.name}" for a in document.anchors)],
        as_json,
    )


@anchors.command("publish")
def publish_anchors(file: DocumentFile, home: HomeOption, as_json: AsJson = False) -> None:
    """Sign a set of trust anchors, unless somebody has, and give it to the manager.

    Example: `svetovid anchors publish vendors.anchors.json --home alice`
    """
    from svetovid.evidence.documents import TrustAnchors

    publish_document(file, TrustAnchors, home, as_json)


def publish_document(
    file: Path, kind: type[TrustAnchors] | type[ReferenceValues], home: Path, as_json: bool
) -> None:
    from svetovid import stakeholder

    digest = stakeholder.publish_file(stakeholder.load(home, passphrase(home)), file, kind)
    emit({"document": digest}, [f"published {digest}"], as_json)
