"""The heart: may the keys of this job's assets go to this host? One pure function.

Rules, all of which must hold; every one that does not is named:

1. The evidence was given for this purpose and this job (T6).
2. No other instance of the job is live, it is not finished, and resumes are left (T11); the host
   runs no other job (T8).
3. Every recipient's card holds. Recipients, owners, importers and the host's operator stand: no
   key of the history of any of them was revoked, however old the key that the documents name.
4. Every slot of the job has the consent of its owner, whichever manager holds its key (T5). For an
   asset held here, where its owner said nothing to the slot, an importer may consent in its stead:
   of several, one whose clauses hold.
5. Each asset held here was deposited by the owner that the job names.
6. Each owner of an asset held here, and each importer, has a policy here that appraised the
   evidence by its own anchors and reference values (T2), and accepts this host (T3, T4).
7. Each asset held here has a grant that admits the code, mode, recipients and devices, whose
   conditions are all true and whose limits are not used up.

Calling loop::

    request = Request(job=job, manager=me, role="release", ...)
    decision = decide(request)
    log.append(decision)            # before anything else
    keys = decision.require().assets
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from svetovid.crypto.identity import Card
from svetovid.errors import SvetovidError
from svetovid.evidence.documents import NO_JOB, Role
from svetovid.policy.conditions import job_view
from svetovid.policy.consents import Consents
from svetovid.policy.documents import JobAsset
from svetovid.policy.grant_clauses import Context, check_export, check_narrower, check_slot
from svetovid.policy.modes import BUILT, NEXT_STEP, NOT_BUILT
from svetovid.policy.once import Once
from svetovid.policy.owner_clauses import check_owner
from svetovid.policy.request import Book, Decision, Held, Request, Stakes

__all__ = ["choose", "decide"]


def decide(request: Request) -> Decision:
    """Decide on a release; deterministic, and complete in its reasons.

    Refusals carry ``release.purpose``, ``job.live``, ``host.live``, ``job.finished``,
    ``limit.resumes``, ``mode.plain``, ``mode.unavailable``, ``recipient.card``,
    ``recipient.revoked``,
    ``asset.manager``, ``asset.unknown``, ``asset.owner``, ``consent.*``, ``policy.*``,
    ``grant.*``, ``host.revoked``, ``mode.evidence``, ``limit.*`` or a code of the evidence itself.
    However many slots, grants and importers there are, it ends soon: see :mod:`.once`.
    """
    book = Book()
    purpose(book, request, "release")
    history = request.history
    book.check(
        not history.live,
        "job.live",
        "one live instance a job",
        observed="live" if history.live else "not live",
        expected="no live instance",
        next_step="wait until its lease ends, or stop it",
    )
    book.check(
        not history.busy,
        "host.live",
        "one live job a host",
        observed="another job's lease" if history.busy else "no other job",
        expected="no live lease for another job on this host's device",
        next_step="wait until that job's lease ends, stop it, or restart the machine",
    )
    not_finished(book, request)
    if history.started:
        book.check(
            history.resumes < request.job.limits.resumes,
            "limit.resumes",
            "job limits.resumes",
            observed=f"{history.resumes} used",
            expected=f"at most {request.job.limits.resumes}",
            next_step="propose a new job",
        )
    return book.decision(everything(book, request, counting=True))


def purpose(book: Book, request: Request, role: Role) -> None:
    """Note whether the evidence was given for ``role`` in this very job (K2), or in none."""
    job = NO_JOB if role == "attest" else request.job_name
    book.check(
        request.role == role and request.evidence_job == job,
        "release.purpose",
        "evidence role and job",
        observed=f"{request.role} of {request.evidence_job}",
        expected=f"{role} of {job}",
        next_step="ask for a challenge for this job and purpose",
    )


def not_finished(book: Book, request: Request) -> None:
    book.check(
        not request.history.finished,
        "job.finished",
        "a job finishes once",
        observed="finished" if request.history.finished else "not finished",
        expected="not finished",
        next_step="propose a new job",
    )


def everything(book: Book, request: Request, *, counting: bool) -> Stakes:
    """Note all that a release and a renewal have in common."""
    recipients = _recipients(book, request)
    view: Mapping[str, Any] = job_view(request.job) if recipients is not None else {}
    slots = sorted(request.job.assets.items())
    here = [(n, a) for n, a in slots if a.manager == request.manager]
    book.check(
        request.job.mode != "plain",
        "mode.plain",
        "job mode",
        observed=request.job.mode,
        expected="a protected mode",
        next_step="plain mode is for baselines; propose the job in another mode",
    )
    book.check(
        request.job.mode not in NOT_BUILT,
        "mode.unavailable",
        "job mode",
        observed=request.job.mode,
        expected=BUILT,
        next_step=NEXT_STEP,
    )
    book.check(
        bool(here),
        "asset.manager",
        "job assets",
        observed=f"{len(here)} assets of this manager",
        expected="at least one",
        next_step="ask the managers that the job names",
    )
    consents = Consents(request)
    part = consents.import_bytes()
    ctx = Context(request, recipients, counting, Once(request, view), part)
    importers: dict[str, str] = {}
    for slot, asset in slots:
        importer = None
        if asset.manager == request.manager:
            importer = _importer(ctx, consents, slot, asset)
            _deposit(book, request, slot, asset)
        if importer:
            importers[slot] = importer
        consents.check(book, importer or asset.owner, slot)
    parties = tuple(sorted({a.owner for _, a in here} | {*importers.values()}))
    for owner in parties:
        check_owner(book, request, owner)
    # Slots that hold one asset in one use are admitted by the same clauses: noted once.
    noted = {
        (a.owner, a.manifest, a.use, importers.get(slot)): check_slot(ctx, a, importers.get(slot))
        for slot, a in here
    }
    for clauses in noted.values():
        book.clauses.extend(clauses.clauses)
    return Stakes(tuple(sorted({a.manifest for _, a in here})), parties, importers)


def _importer(ctx: Context, consents: Consents, slot: str, asset: JobAsset) -> str | None:
    """Who consented in the owner's stead: the first, by key, whose clauses hold, else the first.

    So an importer can refuse for itself, and not for the others.
    """
    candidates = consents.importers(slot, asset)
    holds = (o for o in candidates if _willing(ctx, asset, o) and check_slot(ctx, asset, o).ok)
    return next(holds, next(iter(candidates), None))


def choose(request: Request, owner: str, held: Sequence[Held], *, counting: bool) -> int:
    """Which of several policies an exporter who consented to nothing is held to: its index.

    The first that accepts the host, and under which each slot of ``owner`` held here has an
    importer whose clauses hold; the very first where there is none such. Nobody else's choice has
    to do with it, so that the work is the sum of all such policies, not their product, and no
    importer's policies stand between another and the exporter's (T5).

    Args:
        counting: whether the decision will use up a run.
    """
    recipients = _recipients(Book(), request)
    view: Mapping[str, Any] = job_view(request.job) if recipients is not None else {}
    consents = Consents(request)
    part = consents.import_bytes()
    ctx = Context(request, recipients, counting, Once(request, view), part)
    # What importers' own clauses come to follows from no policy of the exporter's: asked once.
    able = [
        (asset, [i for i in consents.importers(slot, asset) if _willing(ctx, asset, i)])
        for slot, asset in sorted(request.job.assets.items())
        if (asset.owner, asset.manager) == (owner, request.manager)
    ]
    for i, one in enumerate(held):
        asked = request.held_to(owner, one)
        ctx = Context(asked, recipients, counting, Once(asked, view), part)
        book = Book()
        check_owner(book, asked, owner)
        if book.ok and all(
            any(check_export(ctx, asset, importer).ok for importer in importers)
            for asset, importers in able
        ):
            return i
    return 0


def _willing(ctx: Context, asset: JobAsset, importer: str) -> bool:
    """Whether the clauses of an importer's own policy hold."""
    whole = ctx.once.noted(("owner", importer), partial(_owner, ctx.request, importer))
    return whole.ok and check_narrower(ctx, asset, importer).ok


def _owner(request: Request, owner: str, book: Book) -> None:
    check_owner(book, request, owner)


def _recipients(book: Book, request: Request) -> tuple[str, ...] | None:
    try:
        keys = tuple(sorted({Card.open(r.card).signing for r in request.job.recipients}))
    except SvetovidError as e:
        book.check(
            False,
            "recipient.card",
            "job recipients",
            observed=e.code,
            expected="self-signed cards",
            next_step="propose the job with the recipients' own cards",
        )
        return None
    revoked = [k for k in keys if k in request.revoked]
    book.check(
        not revoked,
        "recipient.revoked",
        "job recipients",
        observed=", ".join(revoked) or f"{len(keys)} recipients",
        expected="keys that are not revoked",
        next_step="propose the job with the recipients' new cards",
    )
    return keys


def _deposit(book: Book, request: Request, slot: str, asset: JobAsset) -> None:
    """A job may name whom it likes as owner: whoever deposited the key is."""
    owner = request.deposits.get(asset.manifest)
    book.check(
        owner == asset.owner,
        "asset.unknown" if owner is None else "asset.owner",
        f"job assets {slot}",
        owner=owner or asset.owner,
        observed=asset.owner if owner else "no such asset here",
        expected=owner or "an asset deposited with this manager",
        next_step="name the asset's own owner"
        if owner
        else "its owner must deposit the asset with this manager first",
    )
