"""A job's receipt, from final evidence to the bundle that a third party verifies (T13)."""

from __future__ import annotations

from collections.abc import Mapping

from svetovid.assets import Manifest
from svetovid.crypto import Envelope, Identity, b64encode, digest, sign
from svetovid.host.link import ManagerLink, once_more
from svetovid.policy.documents import Job
from svetovid.transparency import ReceiptBundle, assemble, final_subject, make_receipt

__all__ = ["finish_with_receipt"]


def finish_with_receipt(
    link: ManagerLink,
    job: Job,
    signer: Identity,
    *,
    host_record: Envelope,
    outputs: Mapping[str, Manifest],
    metrics: str,
    log: bytes,
) -> ReceiptBundle:
    """Give final evidence to one manager, sign the receipt, and have it countersigned.

    Args:
        link: the manager, with the release that started this run.
        job: as agreed.
        signer: this job's key, bound in the start evidence.
        host_record: as this manager signed it.
        outputs: name to the sealed output's manifest, ``metrics`` among them.
        metrics: salted digest of the metrics.
        log: the whole measurement log; it must not grow from here on.

    Raises:
        RefusalError: the manager refuses the final evidence or the receipt.
    """
    named = {name: manifest.digest() for name, manifest in outputs.items()}
    subject = final_subject(named, digest(log), metrics)

    def hand_in(*, fresh: bool) -> ReceiptBundle:
        end = link.final(subject, fresh=fresh)
        receipt = make_receipt(
            job,
            manager=link.client.manager,
            consents=link.release.consents,
            start=link.start,
            end=end,
            outputs=named,
            metrics=metrics,
            log=digest(log),
        )
        signed = sign(receipt, signer)
        return assemble(
            signed,
            job=job,
            consents=link.release.consents,
            host=host_record,
            start=link.start,
            end=end,
            log=b64encode(log),
            countersignature=link.finish(end, signed, outputs),
        )

    return once_more(hand_in)
