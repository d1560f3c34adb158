"""Logistic regression on the Wisconsin Diagnostic Breast Cancer set. Ordinary PyTorch.

Parameters of the job: epochs, lr. Slots: a, b (fields features float32 [30], benign uint8).
Output: model (mean and scale of the features, weight, bias). Metrics: loss (one an epoch).
"""

import torch
from torch import nn

import svetovid.training as sv

p = {"epochs": 200, "lr": 0.05} | sv.parameters()
sv.seed()

hospitals = [sv.tensors(slot) for slot in ("a", "b")]
x = torch.cat([h["features"] for h in hospitals])
y = torch.cat([h["benign"] for h in hospitals]).float()
mean, scale = x.mean(0), x.std(0)
x = (x - mean) / scale

model = nn.Linear(30, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=p["lr"], weight_decay=1e-3)
state = {"model": model, "optimizer": optimizer}

for epoch in range(sv.resume(state), p["epochs"]):
    optimizer.zero_grad()
    loss = nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y)
    loss.backward()
    optimizer.step()
    sv.log(loss=loss.item())
    sv.progress(epoch + 1, p["epochs"])
    if (epoch + 1) % 50 == 0:
        sv.checkpoint(state, step=epoch + 1)

sv.save("model", {**model.state_dict(), "mean": mean, "scale": scale})
