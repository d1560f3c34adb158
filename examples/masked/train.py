"""A model trained where accelerators see only masked numbers. Ordinary PyTorch but for two calls.

Parameters of the job: net (cnn, the one of ``fashion_mnist``, or vgg11), masked (0 trains it
plainly, in fp32, to compare), epochs, batch, lr. Slots: a, b (fields image uint8 [28, 28] or
[3, 32, 32], label uint8). Output: model. Metric: loss (one an epoch).
"""

import torch
from models import VGG11, cnn
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader

import svetovid.training as sv

p = {"net": "cnn", "masked": 1, "epochs": 2, "batch": 128, "lr": 0.05} | sv.parameters()
sv.seed()


def prepare(sample):
    image, label = sample
    return image.view(-1, *image.shape[-2:]).float() / 255, label.long()


data = ConcatDataset([sv.dataset(s, prepare) for s in ("a", "b")])
loader = DataLoader(data, batch_size=p["batch"], shuffle=True)
model = {"cnn": cnn, "vgg11": VGG11}[p["net"]]()
if p["masked"]:
    model = sv.protect(model)
optimizer = torch.optim.SGD(model.parameters(), lr=p["lr"], momentum=0.9)
steps = p["epochs"] * len(loader)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
state = {"model": model, "optimizer": optimizer, "schedule": schedule}

for epoch in range(sv.resume(state), p["epochs"]):
    total = 0.0
    for number, (images, labels) in enumerate(loader):

        def body(images=images, labels=labels):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            return loss.item()

        # Whatever a worker spoils is done again: the body may run more than once.
        total += sv.step(body, model) if p["masked"] else body()
        optimizer.step()
        schedule.step()
        sv.progress(epoch * len(loader) + number + 1, steps)
    sv.log(loss=total / len(loader))
    sv.checkpoint(state, step=epoch + 1)

sv.save("model", model.state_dict())
