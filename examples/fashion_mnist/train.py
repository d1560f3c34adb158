"""A small CNN on Fashion-MNIST. Ordinary PyTorch (see ``three_lines``), with all a job can have.

Parameters of the job: epochs, batch, lr. Slots: a, b (fields image uint8 [28, 28], label uint8).
Output: model. Metrics: loss (one an epoch), step_s (one a step).
"""

import time

import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader

import svetovid.training as sv

p = {"epochs": 1, "batch": 128, "lr": 0.05, "workers": 0} | sv.parameters()
sv.seed()


def prepare(sample):
    image, label = sample
    return image.unsqueeze(0).float() / 255, label.long()


data = ConcatDataset([sv.dataset(s, prepare) for s in ("a", "b")])
loader = DataLoader(data, batch_size=p["batch"], shuffle=True, num_workers=p["workers"])

model = nn.Sequential(
    *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)),
)
optimizer = torch.optim.SGD(model.parameters(), lr=p["lr"], momentum=0.9)
state = {"model": model, "optimizer": optimizer}

# Optional: metrics, progress and checkpoints, for whoever may see them.
for epoch in range(sv.resume(state), p["epochs"]):
    total = 0.0
    begun = time.perf_counter()
    for step, (images, labels) in enumerate(loader):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
        now = time.perf_counter()
        sv.log(step_s=now - begun)
        begun = now
        sv.progress(epoch * len(loader) + step + 1, p["epochs"] * len(loader))
    sv.log(loss=total / len(loader))
    sv.checkpoint(state, step=epoch + 1)

sv.save("model", model.state_dict())
