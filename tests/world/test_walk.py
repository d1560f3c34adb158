"""The walk that everything else departs from."""

from __future__ import annotations

from svetovid.assets import Manifest, open_asset
from svetovid.protocol.contexts import output_context
from world.world import CANARY, World


def test_the_whole_walk(world: World) -> None:
    """Seal, agree, attest, release, open, put out, and only the recipient opens it."""
    job = world.agreed()
    run = world.run(job)
    assert run.open()["left"] == CANARY + b" of left"
    (bundle,) = run.finish(b"the weights")
    assert bundle.job == job
    package = run.packages["model"]
    context = output_context(package.asset, job.digest(), world.key("rita"))
    key = world.people["rita"].receiving.open(package.keys[0].sealed, context)
    url = world.urls[package.asset]
    with open_asset(url, Manifest.from_json(package.manifest), key, expected=package.asset) as r:
        assert r.read_at(0, r.size) == b"the weights"
    assert world.client("alice").job(job.digest()).state == "finished"
