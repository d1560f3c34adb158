"""An ordinary PyTorch script: opens a file, trains, writes a file. Beside it, what a job runs."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(7)

data = TensorDataset(*map(torch.from_numpy, np.load("records.npz").values()))
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

torch.save(model.state_dict(), "model.pt")
