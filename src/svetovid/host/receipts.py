"""A job's receipt, from final evidence to the bundle that a third party verifies (T13)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from svetovid.assets import Manifest
from svetovid.crypto import Envelope, Identity, b64encode, digest, sign
from svetovid.evidence.documents import TeeEvidence, TpmEvidence
from svetovid.host.link import ManagerLink, once_more
from svetovid.policy.documents import Job
from svetovid.transparency import ReceiptBundle, assemble, final_subject, make_receipt

__all__ = ["finish_with_receipt"]

_TRIES = 3


def finish_with_receipt(
    link: ManagerLink,
    job: Job,
    signer: Identity,
    *,
    host_record: Envelope,
    outputs: Mapping[str, Manifest],
    metrics: str,
    log: Callable[[], bytes],
) -> ReceiptBundle:
    """Give final evidence to one manager, sign the receipt, and have it countersigned.

    Args:
        link: the manager, with the release that started this run.
        job: as agreed.
        signer: this job's key, bound in the start evidence.
        host_record: as this manager signed it.
        outputs: name to the sealed output's manifest, ``metrics`` among them.
        metrics: salted digest of the metrics.
        log: reads the whole measurement log.

    A kernel enters what any program of the host reads. Where that was between the log and the quote
    that binds its digest, both are taken again, and at last handed in as they are.

    Raises:
        RefusalError: the manager refuses the final evidence or the receipt.
    """
    named = {name: manifest.digest() for name, manifest in outputs.items()}

    def final(*, fresh: bool) -> tuple[bytes, TpmEvidence | TeeEvidence]:
        for _ in range(_TRIES):
            known = log()
            end = link.final(final_subject(named, digest(known), metrics), fresh=fresh)
            if log() == known:
                break
        return known, end

    def hand_in(*, fresh: bool) -> ReceiptBundle:
        known, end = final(fresh=fresh)
        receipt = make_receipt(
            job,
            manager=link.client.manager,
            consents=link.release.consents,
            start=link.start,
            end=end,
            outputs=named,
            metrics=metrics,
            log=digest(known),
        )
        signed = sign(receipt, signer)
        return assemble(
            signed,
            job=job,
            consents=link.release.consents,
            host=host_record,
            start=link.start,
            end=end,
            log=b64encode(known),
            countersignature=link.finish(end, signed, outputs),
        )

    return once_more(hand_in)
