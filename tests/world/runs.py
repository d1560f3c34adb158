"""One run of an agreed job on a machine, past the sandbox: its outputs are bytes the test makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svetovid.assets import Manifest, open_asset
from svetovid.crypto import Identity, ReceivingKey, Secret
from svetovid.host.attester import Attester
from svetovid.host.checkpoints import CheckpointStore
from svetovid.host.deliver import deliver, metrics_blob, metrics_digest
from svetovid.host.heads import joint_key, newest_head
from svetovid.host.link import ManagerLink
from svetovid.host.receipts import finish_with_receipt
from svetovid.policy.documents import Job
from svetovid.protocol import Head
from svetovid.protocol.output import OutputPackage
from svetovid.transparency import METRICS, ReceiptBundle

if TYPE_CHECKING:
    from world.machines import Machine
    from world.world import World


class Run:
    """Links to every manager of the job, made as the agent makes them."""

    def __init__(self, world: World, machine: Machine, job: Job) -> None:
        self.world = world
        self.machine = machine
        self.job = job
        self.signer = Identity.generate("job")
        self.receiving = ReceivingKey.generate()
        self.attester: Attester = machine.attester()
        self.links = [
            ManagerLink(
                world.by_key(m).client(machine.agent),
                machine.host_id,
                job,
                self.receiving,
                self.signer.key_id,
                self.attester,
            )
            for m in sorted(job.managers)
        ]
        self.packages: dict[str, OutputPackage] = {}

    @property
    def main(self) -> ManagerLink:
        return next(x for x in self.links if x.client.manager == self.job.code.manager)

    def ask(self) -> Run:
        """Prove this machine to every manager, and take what each releases."""
        for link in self.links:
            link.ask()
        return self

    def open(self) -> dict[str, bytes]:
        """Slot to plaintext, opened with what was released."""
        out = {}
        for link in self.links:
            for slot, (manifest, key) in link.keys().items():
                agreed = self.job.assets[slot].manifest
                url = self.world.urls[agreed]
                with open_asset(url, Manifest.from_json(manifest), key, expected=agreed) as reader:
                    out[slot] = reader.read_at(0, reader.size)
        return out

    def renew(self) -> None:
        for link in self.links:
            link._renew()

    def checkpoints(self) -> CheckpointStore:
        prefix = f"file://{self.world.folder}/{self.job.digest()[7:23]}.checkpoint"
        name = self.job.digest()
        key = joint_key(name, {x.client.manager: x.checkpoint_key() for x in self.links})
        head = newest_head(name, {x.client.manager: x.release.head for x in self.links})
        return CheckpointStore(prefix, self.job, key, head)

    def record(self, head: Head) -> None:
        for link in self.links:
            link.record_head(head, self.signer)

    def save(self, store: CheckpointStore, data: bytes) -> Head:
        head = store.save(data)
        self.record(head)
        store.recorded(head)
        return head

    def give_back(self, why: str = "stopped") -> None:
        for link in self.links:
            link.client.end_lease(link.lease_id, why, self.signer)

    def finish(self, output: bytes = b"weights") -> list[ReceiptBundle]:
        """Seal ``output`` to the recipients, and get a receipt from every manager."""
        blob = metrics_blob(self.job, {}, Secret.random(32))
        for name, data in (("model", output), (METRICS, blob)):
            url = f"file://{self.world.folder}/{self.job.digest()[7:23]}.{name}.sealed"
            self.packages[name] = deliver(self.job, name, data, url)
            self.world.urls[self.packages[name].asset] = url
        return [
            finish_with_receipt(
                link,
                self.job,
                self.signer,
                host_record=self.machine.home.signed_record(link.client.manager),
                outputs={n: Manifest.from_json(p.manifest) for n, p in self.packages.items()},
                metrics=metrics_digest(blob),
                log=self.attester.log,
            )
            for link in self.links
        ]
