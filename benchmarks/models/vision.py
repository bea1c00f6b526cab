"""Vision models with seeded random weights: what they compute matters, not what they know."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.models.entry import Example, from_config, image, randomize

_CLASSES = {"num_labels": 1000}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 2)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = shortcut(inputs, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (which strides), 1x1 convolutions and a shortcut (He et al. 2016, figure 5)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = shortcut(inputs, 4 * width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + self.shortcut(x))


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity, or a 1x1 convolution where the shape changes."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """ResNet for 224x224 images and 1000 classes (He et al. 2016, table 1)."""

    def __init__(self, block: type[BasicBlock | Bottleneck], depths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1)
        inputs, layers = 64, []
        for stage, depth in enumerate(depths):
            for index in range(depth):
                stride = 2 if stage and index == 0 else 1
                layers.append(block(inputs, 64 << stage, stride))
                inputs = (64 << stage) * block.expansion
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers(self.pool(F.relu(self.bn1(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


def resnet18() -> Example:
    """ResNet-18."""
    return randomize(ResNet(BasicBlock, (2, 2, 2, 2))), (image(224),)


def resnet50() -> Example:
    """ResNet-50."""
    return randomize(ResNet(Bottleneck, (3, 4, 6, 3))), (image(224),)


class MobileBlock(nn.Module):
    """Inverted residual with squeeze-excite and hard-swish (Howard et al. 2019, section 5)."""

    def __init__(self, inputs: int, wide: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide))
        depthwise = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False)
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(wide))
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, wide // 4, 1), nn.ReLU(),
            nn.Conv2d(wide // 4, wide, 1), nn.Hardsigmoid(),
        )  # fmt: skip
        self.project = nn.Sequential(
            nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.hardswish(self.depthwise(F.hardswish(self.expand(x))))
        y = self.project(y * self.squeeze(y))
        return x + y if self.residual else y


def mobilenet_v3() -> Example:
    """A MobileNetV3-like network: hard-swish, squeeze-excite, 5x5 depthwise."""
    rows = (
        (16, 64, 24, 3, 2),
        (24, 72, 24, 3, 1),
        (24, 96, 40, 5, 2),
        (40, 240, 40, 5, 1),
        (40, 240, 96, 5, 2),
    )
    stem = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish()]
    head = [
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 256),
        nn.Hardswish(),
        nn.Linear(256, 100),
    ]
    model = nn.Sequential(*stem, *(MobileBlock(*row) for row in rows), *head)
    return randomize(model), (image(224),)


class UNet(nn.Module):
    """Encoder, decoder of transposed convolutions, group norm, skips (Ronneberger et al. 2015)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()

        def double(inputs: int, outputs: int) -> nn.Sequential:
            parts: list[nn.Module] = []
            for first in (inputs, outputs):
                parts += [nn.Conv2d(first, outputs, 3, 1, 1), nn.GroupNorm(8, outputs), nn.SiLU()]
            return nn.Sequential(*parts)

        self.down1, self.down2 = double(3, width), double(width, 2 * width)
        self.middle = double(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 4, 2, 1)
        self.join2, self.join1 = double(4 * width, 2 * width), double(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.middle(F.max_pool2d(b, 2))
        b = self.join2(torch.cat([self.up2(c), b], 1))
        return self.head(self.join1(torch.cat([self.up1(b), a], 1)))


def unet() -> Example:
    """A small U-Net on 64x64 images."""
    return randomize(UNet()), (image(64),)


class MixerBlock(nn.Module):
    """Token mixing, then channel mixing (Tolstikhin et al. 2021, section 2)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(
            nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens)
        )
        self.channels = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """Patches, mixer blocks, a mean over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 128, 8, 8)
        self.blocks = nn.Sequential(*(MixerBlock(49, 128) for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(128), nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(1))


def mixer() -> Example:
    """A point-wise MLP-mixer."""
    return randomize(Mixer()), (image(56),)


def conv3d() -> Example:
    """A video network with 3-d convolutions and pools."""
    model = nn.Sequential(
        nn.Conv3d(3, 16, 3, 1, 1), nn.BatchNorm3d(16), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(16, 32, 3, (1, 2, 2), 1), nn.BatchNorm3d(32), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    return randomize(model), (
        torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1)),
    )


def mobilenet_v2() -> Example:
    """MobileNetV2 (Sandler et al. 2018)."""
    model, inputs = from_config("MobileNetV2", "ForImageClassification", _CLASSES, (image(224),))
    return randomize(model), inputs


def convnext() -> Example:
    """ConvNeXt-T (Liu et al. 2022)."""
    return from_config("ConvNext", "ForImageClassification", _CLASSES, (image(224),))


def efficientnet() -> Example:
    """An EfficientNet-B0 (Tan and Le 2019)."""
    sizes = {
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "image_size": 224,
        "hidden_dim": 1280,
    }
    options = {**sizes, **_CLASSES}
    model, inputs = from_config("EfficientNet", "ForImageClassification", options, (image(224),))
    return randomize(model), inputs


def deit() -> Example:
    """DeiT-T (Touvron et al. 2021)."""
    sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    options = {**sizes, **_CLASSES}
    return from_config("DeiT", "ForImageClassification", options, (image(224),))


def swin() -> Example:
    """Swin-T (Liu et al. 2021)."""
    return from_config("Swin", "ForImageClassification", _CLASSES, (image(224),))
