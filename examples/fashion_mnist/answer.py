"""Which kind of clothing is each image? Answers questions with the model of ``train.py``.

Slots: model (its output), questions (field image uint8 [28, 28]).
Output: answers (label int64, one a question).
"""

import torch
from torch import nn

import svetovid.training as sv

model = nn.Sequential(
    *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)),
)
model.load_state_dict(sv.load_model("model"))
model.eval()

with torch.no_grad():
    images = sv.tensors("questions")["image"]
    labels = [model(part.unsqueeze(1).float() / 255).argmax(1) for part in images.split(500)]

sv.save("answers", {"label": torch.cat(labels)})
