"""DenseNet: every layer sees all earlier ones (Huang et al. 2017, arXiv:1608.06993)."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from torchcnn.layers import FlattenLayer, GlobalAvgPool2d, NormLayer


def conv_block(
    in_channels: int,
    out_channels: int,
    norm_layer: NormLayer = nn.BatchNorm2d,
    bottleneck: bool = False,
    bias: bool = True,
) -> nn.Sequential:
    """norm-relu-conv: (n, in_channels, h, w) -> (n, out_channels, h, w).

    With `bottleneck` a 1×1 convolution first leaves 4 * out_channels, with a norm of its own.
    """
    layers: list[nn.Module] = []
    if bottleneck:
        width = 4 * out_channels
        layers = [norm_layer(in_channels), nn.ReLU(), nn.Conv2d(in_channels, width, 1, bias=bias)]
        in_channels = width
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)
    return nn.Sequential(*layers, norm_layer(in_channels), nn.ReLU(), conv)


class DenseBlock(nn.Module):
    """Each layer adds to all it has seen: (n, c, h, w) -> (n, c + num_convs * growth, h, w).

    `out_channels` is the growth, what a single layer adds, as the argument; afterwards the
    attribute `out_channels` tells what leaves the block. Both are the tutorial's names.
    """

    def __init__(
        self,
        num_convs: int,
        in_channels: int,
        out_channels: int,
        norm_layer: NormLayer = nn.BatchNorm2d,
        bottleneck: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            conv_block(in_channels + i * out_channels, out_channels, norm_layer, bottleneck, bias)
            for i in range(num_convs)
        )
        self.out_channels = in_channels + num_convs * out_channels

    def forward(self, x: Tensor) -> Tensor:
        for block in self.net:
            x = torch.cat((x, block(x)), dim=1)
        return x


def transition_block(
    in_channels: int,
    out_channels: int,
    norm_layer: NormLayer = nn.BatchNorm2d,
    bias: bool = True,
) -> nn.Sequential:
    """Fewer channels, half the size: (n, in_channels, h, w) -> (n, out_channels, h / 2, w / 2)."""
    return nn.Sequential(
        norm_layer(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, 1, bias=bias),
        nn.AvgPool2d(2),
    )


def densenet(
    in_channels: int = 1,
    num_classes: int = 10,
    norm_layer: NormLayer = nn.BatchNorm2d,
    growth_rate: int = 32,
    num_layers: Sequence[int] = (4, 4, 4, 4),
    bottleneck: bool = False,
    compression: float = 0.5,
    bias: bool = True,
    small_input: bool = False,
) -> nn.Sequential:
    """DenseNet: (n, in_channels, h, w) -> (n, num_classes); shapes are those of 96 pixels.

    The defaults are the tutorial's: growth 32, four blocks of four layers, no bottleneck, biased
    convolutions, and transitions that halve the channels. 29 pixels are the least.

    Args:
        growth_rate: channels that a layer adds.
        num_layers: layers of each block.
        bottleneck: a 1×1 convolution before each 3×3 (the paper's DenseNet-B).
        compression: the share of the channels that a transition keeps (below 1: DenseNet-C).
        bias: of the convolutions; the paper has none.
        small_input: a 3×3 stem of stride 1 in place of the 7×7 of stride 2 and its pooling.
    """
    num_channels = 64
    stem = [nn.Conv2d(in_channels, num_channels, 3, padding=1, bias=bias),
            norm_layer(num_channels), nn.ReLU()]  # fmt: skip
    if not small_input:
        stem[0] = nn.Conv2d(in_channels, num_channels, 7, stride=2, padding=3, bias=bias)
        stem.append(nn.MaxPool2d(3, stride=2, padding=1))
    stages: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(*stem))  # (n, 64, 24, 24)
    for i, num_convs in enumerate(num_layers, start=1):
        block = DenseBlock(num_convs, num_channels, growth_rate, norm_layer, bottleneck, bias)
        stages[f"block{i}"] = block  # 192, 224, 240, 248 channels of 24, 12, 6, 3 pixels
        num_channels = block.out_channels
        if i < len(num_layers):
            kept = int(num_channels * compression)
            stages[f"transition{i}"] = transition_block(num_channels, kept, norm_layer, bias)
            num_channels = kept  # 96, 112, 120 channels of 12, 6, 3 pixels
    stages["norm"] = nn.Sequential(norm_layer(num_channels), nn.ReLU())
    stages["pool"] = GlobalAvgPool2d()  # (n, 248, 1, 1)
    stages["head"] = nn.Sequential(FlattenLayer(), nn.Linear(num_channels, num_classes))
    return nn.Sequential(stages)


# The paper's DenseNet-BC for ImageNet.
_bc = partial(densenet, in_channels=3, num_classes=1000, bottleneck=True, bias=False)
densenet121 = partial(_bc, num_layers=(6, 12, 24, 16))
densenet169 = partial(_bc, num_layers=(6, 12, 32, 32))
