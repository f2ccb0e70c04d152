"""DenseNet: every layer sees all earlier ones (Huang et al. 2017, arXiv:1608.06993)."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from torchcnn.layers import FlattenLayer, GlobalAvgPool2d, NormLayer
from torchcnn.models.variants import variant


def conv_block(
    in_channels: int,
    out_channels: int,
    norm_layer: NormLayer = nn.BatchNorm2d,
    bottleneck: bool = False,
    bias: bool = True,
) -> nn.Sequential:
    """Norm, ReLU and 3×3 convolution: (n, in_channels, h, w) -> (n, out_channels, h, w).

    With `bottleneck`, they follow a norm, a ReLU and a 1×1 convolution that changes the number of
    channels to 4 * out_channels.
    """
    layers: list[nn.Module] = []
    if bottleneck:
        width = 4 * out_channels
        layers = [norm_layer(in_channels), nn.ReLU(), nn.Conv2d(in_channels, width, 1, bias=bias)]
        in_channels = width
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)
    return nn.Sequential(*layers, norm_layer(in_channels), nn.ReLU(), conv)


class DenseBlock(nn.Module):
    """Layers that append to their input: (n, c, h, w) -> (n, c + num_convs * growth, h, w).

    The output of each layer is concatenated with its input, and both are the input of the next.
    The argument `out_channels` is the growth, the number of channels that each layer adds. The
    attribute `out_channels` is the number of channels of the block's output. Both names are the
    tutorial's.
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
    """Norm, ReLU, 1×1 convolution and 2×2 average pooling between two dense blocks.

    (n, in_channels, h, w) -> (n, out_channels, h / 2, w / 2).
    """
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
    """DenseNet: (n, in_channels, h, w) -> (n, num_classes).

    The defaults are the tutorial's: a growth rate of 32, four blocks of four layers, no
    bottleneck, convolutions with bias, and transitions that halve the number of channels. Images
    must have at least 29 pixels. The shapes in the comments are those for 96 pixels.

    Args:
        growth_rate: The number of channels that each layer adds.
        num_layers: The number of layers of each block.
        bottleneck: Put a 1×1 convolution before each 3×3 one (the paper's DenseNet-B).
        compression: The fraction of the channels that a transition keeps (DenseNet-C if below 1).
        bias: Whether the convolutions have a bias; in the paper they do not.
        small_input: Use a 3×3 stem of stride 1 instead of the 7×7 one of stride 2 with pooling.
    """
    num_channels = 64
    conv = nn.Conv2d(in_channels, num_channels, 3, padding=1, bias=bias)
    stem = [conv, norm_layer(num_channels), nn.ReLU()]
    if not small_input:
        stem[0] = nn.Conv2d(in_channels, num_channels, 7, stride=2, padding=3, bias=bias)
        stem.append(nn.MaxPool2d(3, stride=2, padding=1))
    stages: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(*stem))  # (n, 64, 24, 24)
    for i, num_convs in enumerate(num_layers, start=1):
        block = DenseBlock(num_convs, num_channels, growth_rate, norm_layer, bottleneck, bias)
        stages[f"block{i}"] = block  # 192, 224, 240, 248 channels with sides of 24, 12, 6, 3
        num_channels = block.out_channels
        if i < len(num_layers):
            kept = int(num_channels * compression)
            stages[f"transition{i}"] = transition_block(num_channels, kept, norm_layer, bias)
            num_channels = kept  # 96, 112, 120 channels with sides of 12, 6, 3
    stages["norm"] = nn.Sequential(norm_layer(num_channels), nn.ReLU())
    stages["pool"] = GlobalAvgPool2d()  # (n, 248, 1, 1)
    stages["head"] = nn.Sequential(FlattenLayer(), nn.Linear(num_channels, num_classes))
    return nn.Sequential(stages)


_bc = partial(variant, densenet, in_channels=3, num_classes=1000, bottleneck=True, bias=False)
_TITLE = "DenseNet-{} (the paper's DenseNet-BC for ImageNet)"
densenet121 = _bc("densenet121", _TITLE.format(121), num_layers=(6, 12, 24, 16))
densenet169 = _bc("densenet169", _TITLE.format(169), num_layers=(6, 12, 32, 32))
densenet201 = _bc("densenet201", _TITLE.format(201), num_layers=(6, 12, 48, 32))
