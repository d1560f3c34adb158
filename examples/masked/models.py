"""The models of masked mode: ordinary PyTorch, with the names that their state dicts usually have.

Nothing here knows of masks; ``svetovid.offload.protect`` replaces layers by name. ``Attention`` is
``scaled_dot_product_attention`` as a layer, so that a plan can name it too.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from svetovid.offload.layers import Attention


def cnn() -> nn.Sequential:
    """The CNN of ``examples/fashion_mnist``: images ``[N, 1, 28, 28]`` to logits ``[N, 10]``."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


class VGG11(nn.Module):
    """VGG11 with batch norm (Simonyan and Zisserman, 2015) for images of 32 x 32, with names as in
    torchvision.

    Args:
        classes: put out.
        channels: of an image.
        width: channels of the first convolution; 64 in the paper.
    """

    def __init__(self, classes: int = 10, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for factor in (1, "pool", 2, "pool", 4, 4, "pool", 8, 8, "pool", 8, 8, "pool"):
            if isinstance(factor, str):
                layers.append(nn.MaxPool2d(2))
                continue
            out = factor * width
            conv = nn.Conv2d(channels, out, 3, padding=1)
            layers += [conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            channels = out
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            *(nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Dropout()),
            *(nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Dropout()),
            nn.Linear(channels, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images ``[N, channels, 32, 32]`` to logits ``[N, classes]``."""
        found: torch.Tensor = self.classifier(self.features(x).flatten(1))
        return found


class BasicBlock(nn.Module):
    """Two convolutions and a way past them (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            past = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(past, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        found: torch.Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return found


class ResNet18(nn.Module):
    """ResNet-18 for images of 32 x 32 (a first convolution of 3 x 3, no first pool), with names as
    in torchvision.

    Args:
        classes: put out.
        channels: of an image.
        width: channels of the first convolution; 64 in the paper.
    """

    def __init__(self, classes: int = 10, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        stages = [(width, width, 1)] + [(width << i, width << (i + 1), 2) for i in range(3)]
        made = [
            nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1))
            for inputs, outputs, stride in stages
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = made
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images ``[N, channels, 32, 32]`` to logits ``[N, classes]``."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        found: torch.Tensor = self.fc(self.avgpool(x).flatten(1))
        return found


class CausalSelfAttention(nn.Module):
    """Attention of many heads to what came before."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.attention = Attention(dropout, causal=True)
        self.c_proj = nn.Linear(width, width)
        self.resid_dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        split = (x.shape[0], x.shape[1], self.heads, -1)
        q, k, v = (y.reshape(split).transpose(1, 2) for y in self.c_attn(x).chunk(3, -1))
        y = self.attention(q, k, v).transpose(1, 2).flatten(2)
        found: torch.Tensor = self.resid_dropout(self.c_proj(y))
        return found


class Block(nn.Module):
    """A transformer block of the kind of GPT-2 (Radford et al., 2019), with its names.

    Args:
        width: numbers a token.
        heads: of attention; a divisor of ``width``.
        dropout: probability.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = CausalSelfAttention(width, heads, dropout)
        self.ln_2 = nn.LayerNorm(width)
        layers: dict[str, nn.Module] = {
            "c_fc": nn.Linear(width, 4 * width),
            "act": nn.GELU(approximate="tanh"),
            "c_proj": nn.Linear(4 * width, width),
            "dropout": nn.Dropout(dropout),
        }
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, T, width]`` to the same shape."""
        x = x + self.attn(self.ln_1(x))
        found: torch.Tensor = x + self.mlp(self.ln_2(x))
        return found


class GPT(nn.Module):
    """A small GPT-2, whose last layer has the weight of its first.

    Args:
        words: of the vocabulary.
        length: most tokens of a text.
        width, heads, depth: numbers a token, heads of attention, blocks.
    """

    def __init__(self, words: int, length: int, width: int, heads: int, depth: int) -> None:
        super().__init__()
        wte, wpe = nn.Embedding(words, width), nn.Embedding(length, width)
        h = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        ln_f = nn.LayerNorm(width)
        self.transformer = nn.ModuleDict({"wte": wte, "wpe": wpe, "h": h, "ln_f": ln_f})
        self.lm_head = nn.Linear(width, words, bias=False)
        nn.init.normal_(self.lm_head.weight, std=0.02)
        wte.weight = self.lm_head.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens ``[N, T]`` to logits ``[N, T, words]``."""
        parts = self.transformer
        x = parts["wte"](tokens) + parts["wpe"](torch.arange(tokens.shape[1]))
        found: torch.Tensor = self.lm_head(parts["ln_f"](parts["h"](x)))
        return found
