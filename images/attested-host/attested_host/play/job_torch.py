"""The job of ``job.py`` with PyTorch: the same steps by autograd, in double precision.

Slots: a, b (fields features float32 [8], label uint8). Output: model (weight, bias). Metric: loss.
"""

import torch
from torch import nn

import svetovid.training as sv

both = [sv.tensors(slot) for slot in ("a", "b")]
x = torch.cat([part["features"] for part in both]).double()
y = torch.cat([part["label"] for part in both]).double()
weight = torch.zeros(8, dtype=torch.double, requires_grad=True)
bias = torch.zeros(1, dtype=torch.double, requires_grad=True)
optimizer = torch.optim.SGD([weight, bias], lr=1.0)
for _ in range(sv.parameters()["epochs"]):
    optimizer.zero_grad()
    loss = nn.functional.binary_cross_entropy_with_logits(x @ weight + bias, y)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    sv.log(loss=loss.item())

sv.save("model", {"weight": weight.detach().float(), "bias": bias.detach().float()})
