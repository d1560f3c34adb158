"""The script beside it, as a job runs it: three statements differ."""

import torch
from torch import nn
from torch.utils.data import DataLoader

import svetovid.training as sv

torch.manual_seed(7)

data = sv.dataset("records")
loader = DataLoader(data, batch_size=16, shuffle=True, num_workers=2)

model = nn.Sequential(nn.Linear(30, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)

for _ in range(5):
    for features, label in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(features), label).backward()
        optimizer.step()
    schedule.step()

sv.save("model", model.state_dict())
