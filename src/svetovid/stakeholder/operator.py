"""What operators and publishers sign: which machine this is, which devices and files are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from svetovid.crypto import Document, Envelope, b64encode, sign
from svetovid.errors import InputError
from svetovid.evidence.documents import HostStatement, ReferenceValues, TrustAnchors
from svetovid.stakeholder.home import read_bounded
from svetovid.stakeholder.identity import Stakeholder
from svetovid.stakeholder.manager import connect
from svetovid.stakeholder.names import read_signed

__all__ = ["make_anchors", "publish", "publish_file", "sign_host_statement"]

MAX_CERTIFICATE_BYTES = 64 << 10


def sign_host_statement(operator: Stakeholder, request: HostStatement) -> Envelope:
    """An operator's word on its own machine (T3).

    Raises:
        InputError: ``host.operator`` where the request names another operator.
    """
    if request.operator != operator.key_id:
        raise InputError(
            "host.operator",
            expected=operator.key_id,
            observed=request.operator,
            next_step="have the operator that the request names sign it",
        )
    return sign(request, operator.identity)


def make_anchors(
    certificates: Sequence[Path], *, kind: str, product: str, version: int, simulated: bool
) -> TrustAnchors:
    """A set of trust anchors out of CA certificates (PEM or DER), not yet signed.

    Args:
        certificates: one CA certificate a file.
        kind: ``tpm-ek`` or ``tee``.
        product, version: what the set is called, and its number.
        simulated: whether these authorities stand behind simulators; say so, whatever they claim.

    Raises:
        InputError: ``anchors.certificate``, ``file.*``, ``document.invalid``.
    """
    anchors = []
    for path in certificates:
        data = read_bounded(path, MAX_CERTIFICATE_BYTES, what="a CA certificate")
        try:
            pem = data.lstrip().startswith(b"-----BEGIN")
            load = x509.load_pem_x509_certificate if pem else x509.load_der_x509_certificate
            certificate = load(data)
            name = certificate.subject.rfc4514_string()
        except ValueError as e:
            raise InputError(
                "anchors.certificate",
                expected="an X.509 certificate, PEM or DER",
                observed=str(path),
                next_step="give the CA's certificate file",
            ) from e
        der = certificate.public_bytes(Encoding.DER)
        shown = "".join(c for c in name if c.isprintable())[:200]
        anchors.append(
            {"kind": kind, "name": shown, "certificate": b64encode(der), "simulated": simulated}
        )
    return TrustAnchors.from_json({"product": product, "version": version, "anchors": anchors})


def publish_file(
    who: Stakeholder, file: Path, kind: type[TrustAnchors] | type[ReferenceValues]
) -> str:
    """:func:`publish` what stands in a file.

    Args:
        who: who publishes, and signs where the file is not signed yet.
        file: JSON or YAML.
        kind: what it must hold.

    Raises:
        InputError, IntegrityError: ``file.*``, ``json.*``, ``document.invalid``, ``signature.*``.
    """
    document: TrustAnchors | ReferenceValues
    document, envelope = read_signed(file, kind)
    return publish(who, envelope or document)


def publish(who: Stakeholder, document: TrustAnchors | ReferenceValues | Envelope) -> str:
    """Sign (unless somebody has) and publish anchors or reference values; the digest back.

    Raises:
        IntegrityError: ``signature.*`` where an envelope does not hold.
    """
    if isinstance(document, Document) and not isinstance(document, Envelope):
        document = sign(document, who.identity)
    document.signed_by()
    with connect(who) as client:
        return client.publish(document)
