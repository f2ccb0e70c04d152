"""DenseNet: every layer sees all earlier ones (Huang et al. 2017, arXiv:1608.06993)."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from torchcnn.layers import FlattenLayer, GlobalAvgPool2d, NormLayer


def conv_block(
    in_channels: int, out_channels: int, norm_layer: NormLayer = nn.BatchNorm2d
) -> nn.Sequential:
    """norm-relu-conv: (n, in_channels, h, w) -> (n, out_channels, h, w)."""
    return nn.Sequential(
        norm_layer(in_channels), nn.ReLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
    )


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
    ) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            conv_block(in_channels + i * out_channels, out_channels, norm_layer)
            for i in range(num_convs)
        )
        self.out_channels = in_channels + num_convs * out_channels

    def forward(self, x: Tensor) -> Tensor:
        for block in self.net:
            x = torch.cat((x, block(x)), dim=1)
        return x


def transition_block(
    in_channels: int, out_channels: int, norm_layer: NormLayer = nn.BatchNorm2d
) -> nn.Sequential:
    """Fewer channels, half the size: (n, in_channels, h, w) -> (n, out_channels, h / 2, w / 2)."""
    return nn.Sequential(
        norm_layer(in_channels), nn.ReLU(), nn.Conv2d(in_channels, out_channels, 1), nn.AvgPool2d(2)
    )


def densenet(
    in_channels: int = 1, num_classes: int = 10, norm_layer: NormLayer = nn.BatchNorm2d
) -> nn.Sequential:
    """DenseNet, growth 32, four blocks of four layers: (n, in_channels, h, w) -> (n, num_classes).

    As the tutorial builds it: no bottleneck, and a transition halves the channels. Shapes are
    those of 96 pixels; 29 is the least.
    """
    num_channels, growth_rate, num_convs_in_dense_blocks = 64, 32, (4, 4, 4, 4)
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Sequential(
            nn.Conv2d(in_channels, num_channels, 7, stride=2, padding=3),
            norm_layer(num_channels), nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        ),  # (n, 64, 24, 24)
    )  # fmt: skip
    for i, num_convs in enumerate(num_convs_in_dense_blocks, start=1):
        block = DenseBlock(num_convs, num_channels, growth_rate, norm_layer)
        stages[f"block{i}"] = block  # 192, 224, 240, 248 channels of 24, 12, 6, 3 pixels
        num_channels = block.out_channels
        if i < len(num_convs_in_dense_blocks):
            stages[f"transition{i}"] = transition_block(
                num_channels, num_channels // 2, norm_layer
            )  # 96, 112, 120 channels of 12, 6, 3 pixels
            num_channels //= 2
    stages["norm"] = nn.Sequential(norm_layer(num_channels), nn.ReLU())
    stages["pool"] = GlobalAvgPool2d()  # (n, 248, 1, 1)
    stages["head"] = nn.Sequential(FlattenLayer(), nn.Linear(num_channels, num_classes))
    return nn.Sequential(stages)
