"""A small story of owners with a manager in this process: what they share and propose."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from svetovid import stakeholder
from svetovid.policy import Job
from svetovid.stakeholder import Stakeholder, read_names

NOW = int(time.time())

POLICY = """\
version: svetovid.policy/v1
name: {name}-policy
profile: test
accepts: [simulated, launcher]
anchors: {{document: $anchors}}
references: [{{document: $references}}]
operators: [$olga]
grants:
  - asset: $asset
    use: {use}
{code}    modes: [attested]
    recipients: [$rita]
    conditions:
      - {{name: few, cel: job.parameters.epochs <= 5}}
      - {{name: place, cel: claims.machine_owner == "lab"}}
    limits: {{runs: {runs}, output_bytes: 1000000, expires_at: 9000000000}}
"""

JOB = """\
version: svetovid.job/v1
name: little
mode: attested
assets:
  data: {manifest: $ann-data, owner: $ann, manager: $manager, use: data}
  code: {manifest: $code, owner: $carol, manager: $manager, use: code}
entry: train.py
parameters: {epochs: 3}
environment: $runtime
outputs:
  model: {tensors: {weight: {dtype: float32, shape: [1, 3]}}}
metrics: {loss: {type: float, max_count: 3}}
recipients: [$rita]
limits: {output_bytes: 100000}
"""


@dataclass
class Story:
    """Everybody who takes part, and the folder they share."""

    folder: Path
    public: Path
    people: dict[str, Stakeholder]

    def share(self, name: str, source: Path, use: str, runs: int = 2, asset: str = "") -> str:
        code = "    code: [$code]\n" if use == "data" else ""
        file = self.folder / f"{name}.yaml"
        file.write_text(POLICY.format(name=name, use=use, code=code, runs=runs))
        shared = stakeholder.share(
            self.people[name],
            source,
            file,
            public=self.public,
            name=asset or source.stem,
            anchors=[self.folder / "anchors.json"],
            references=[self.folder / "references.json"],
        )
        return shared.manifest.digest()

    def propose(self, text: str = JOB, *, by: str = "rita", replace: bool = True) -> Job:
        (self.folder / "job.yaml").write_text(text)
        job, signed = stakeholder.propose(
            self.people[by], self.folder / "job.yaml", read_names(self.public), replace=replace
        )
        stakeholder.write_job(self.public, job, signed)
        return job
