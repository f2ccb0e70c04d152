"""GoogLeNet: windows of several sizes side by side (Szegedy et al. 2014, arXiv:1409.4842)."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from torchcnn.layers import (
    FlattenLayer,
    GlobalAvgPool2d,
    KerasBatchNorm2d,
    NormLayer,
    SameConv2d,
    SameMaxPool2d,
    init_as_keras,
)


def _conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    norm_layer: NormLayer | None = None,
    relu: bool = True,
) -> nn.Sequential:
    """Convolution with symmetric padding, `norm_layer` unless it is None, and ReLU if `relu`."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2)
    norm = [norm_layer(out_channels)] if norm_layer else []
    return nn.Sequential(conv, *norm, *([nn.ReLU()] if relu else []))


class Inception(nn.Module):
    """Four parallel paths: (n, in_c, h, w) -> (n, c1 + c2[1] + c3[1] + c4, h, w).

    The paths are a 1×1 convolution; 1×1 and 3×3; 1×1 and 5×5; pooling and 1×1. Their outputs are
    concatenated. `c2` and `c3` hold the output channels of both convolutions of their path.
    """

    def __init__(
        self,
        in_c: int,
        c1: int,
        c2: tuple[int, int],
        c3: tuple[int, int],
        c4: int,
        norm_layer: NormLayer | None = None,
    ) -> None:
        super().__init__()
        conv = partial(_conv, norm_layer=norm_layer)
        self.p1 = conv(in_c, c1, 1)
        self.p2 = nn.Sequential(conv(in_c, c2[0], 1), conv(c2[0], c2[1], 3))
        self.p3 = nn.Sequential(conv(in_c, c3[0], 1), conv(c3[0], c3[1], 5))
        self.p4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), conv(in_c, c4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.p1(x), self.p2(x), self.p3(x), self.p4(x)), dim=1)


INCEPTIONS = {  # the arguments (c1, c2, c3, c4) of each Inception block, by stage
    "stage3": [
        ( 64, ( 96, 128), (16,  32),  32),
        (128, (128, 192), (32,  96),  64),
    ],
    "stage4": [
        (192, ( 96, 208), (16,  48),  64),
        (160, (112, 224), (24,  64),  64),
        (128, (128, 256), (24,  64),  64),
        (112, (144, 288), (32,  64),  64),
        (256, (160, 320), (32, 128), 128),
    ],
    "stage5": [
        (256, (160, 320), (32, 128), 128),
        (384, (192, 384), (48, 128), 128),
    ],
}  # fmt: skip


def _googlenet(
    stem: nn.Module,
    stage2: list[nn.Module],
    pool: Callable[[], nn.Module],
    num_classes: int,
    norm_layer: NormLayer | None = None,
) -> nn.Sequential:
    """Build GoogLeNet from its first two stages and a function that makes its poolings.

    These differ between the PyTorch and the Keras tutorial, the Inception blocks do not. The
    shapes in the comments are those for 96 pixels.
    """
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        stage1=stem,  # (n, 64, 24, 24)
        stage2=nn.Sequential(*stage2, pool()),  # (n, 192, 12, 12)
    )
    channels = 192
    for name, blocks in INCEPTIONS.items():  # 480, 832, 1024 channels with sides of 6, 3, 3
        layers: list[nn.Module] = []
        for c1, c2, c3, c4 in blocks:
            layers.append(Inception(channels, c1, c2, c3, c4, norm_layer))
            channels = c1 + c2[1] + c3[1] + c4
        stages[name] = nn.Sequential(*layers, *([pool()] if name != "stage5" else []))
    stages["pool"] = GlobalAvgPool2d()  # (n, 1024, 1, 1)
    stages["head"] = nn.Sequential(FlattenLayer(), nn.Linear(channels, num_classes))
    # In this format poolings of stride 1 are several times faster on a CPU.
    return nn.Sequential(stages).to(memory_format=torch.channels_last)


def googlenet(
    in_channels: int = 1,
    num_classes: int = 10,
    norm_layer: NormLayer | None = None,
    small_input: bool = False,
) -> nn.Sequential:
    """GoogLeNet: (n, in_channels, h, w) -> (n, num_classes).

    As in the tutorial, stage 2 has no ReLU.

    Args:
        norm_layer: The norm after every convolution; the paper and the tutorial have none.
        small_input: Use a 3×3 stem of stride 1 instead of the 7×7 one of stride 2 with pooling.
    """
    conv = partial(_conv, norm_layer=norm_layer)
    pool = partial(nn.MaxPool2d, 3, 2, padding=1)
    stem = [conv(in_channels, 64, 3)] if small_input else [conv(in_channels, 64, 7, 2), pool()]
    stage2: list[nn.Module] = [conv(64, 64, 1, relu=False), conv(64, 192, 3, relu=False)]
    return _googlenet(nn.Sequential(*stem), stage2, pool, num_classes, norm_layer)


def tf_googlenet(in_channels: int = 1, num_classes: int = 10) -> nn.Sequential:
    """GoogLeNet as the Keras tutorial builds it: (n, in_channels, h, w) -> (n, num_classes).

    It has a ReLU after every convolution, and SAME padding. For stride 1 and an odd kernel SAME
    padding is symmetric, so the Inception blocks are the same as those of `googlenet`.
    """
    pool = partial(SameMaxPool2d, 3, 2)
    stem = nn.Sequential(SameConv2d(in_channels, 64, 7, stride=2), nn.ReLU(), pool())
    stage2: list[nn.Module] = [_conv(64, 64, 1), _conv(64, 192, 3)]
    return init_as_keras(_googlenet(stem, stage2, pool, num_classes))


class ConvBNRelu(nn.Sequential):
    """Convolution, batch norm and ReLU: (n, in_channels, h, w) -> (n, out_channels, h/s, w/s).

    With `frozen_norm`, the norm is always in evaluation mode: it never uses the statistics of the
    batch, and its moving statistics keep their initial values. The tutorial's author does the
    same by calling it with `training=False`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        norm_layer: NormLayer = KerasBatchNorm2d,
        frozen_norm: bool = False,
    ) -> None:
        super().__init__(
            SameConv2d(in_channels, out_channels, kernel_size, stride),
            norm_layer(out_channels),
            nn.ReLU(),
        )
        self.frozen_norm = frozen_norm

    def train(self, mode: bool = True) -> "ConvBNRelu":
        super().train(mode)
        if self.frozen_norm:
            self[1].eval()
        return self


class InceptionBlk(nn.Module):
    """Inception with `out_channels` in each path: (n, in, h, w) -> (n, 4 out, h/s, w/s).

    The first convolution of each path has the given stride; the pooling has stride 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        norm_layer: NormLayer = KerasBatchNorm2d,
        frozen_norm: bool = False,
    ) -> None:
        super().__init__()
        conv = partial(ConvBNRelu, norm_layer=norm_layer, frozen_norm=frozen_norm)
        c = out_channels
        self.p1 = conv(in_channels, c, 1, stride)
        self.p2 = nn.Sequential(conv(in_channels, c, 1, stride), conv(c, c, 3))
        self.p3 = nn.Sequential(conv(in_channels, c, 1, stride), conv(c, c, 5))
        self.p4 = nn.Sequential(SameMaxPool2d(3, 1), conv(in_channels, c, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.p1(x), self.p2(x), self.p3(x), self.p4(x)), dim=1)


def tf_inception10(
    in_channels: int = 3,
    num_classes: int = 10,
    norm_layer: NormLayer = KerasBatchNorm2d,
    frozen_norm: bool = False,
) -> nn.Sequential:
    """An Inception network of ten layers: (n, in_channels, h, w) -> (n, num_classes).

    The shapes in the comments are those for images of 32 pixels.

    Args:
        frozen_norm: Keep every batch norm in evaluation mode, even in training, as the author
            does. It is off by default, because a network with it is not normalised at all.
    """
    conv = partial(ConvBNRelu, norm_layer=norm_layer, frozen_norm=frozen_norm)
    block = partial(InceptionBlk, norm_layer=norm_layer, frozen_norm=frozen_norm)
    net = nn.Sequential(
        OrderedDict(
            stem=conv(in_channels, 16),  # (n, 16, 32, 32)
            stage1=nn.Sequential(block(16, 16, 2), block(64, 16)),  # (n, 64, 16, 16)
            stage2=nn.Sequential(block(64, 32, 2), block(128, 32)),  # (n, 128, 8, 8)
            pool=GlobalAvgPool2d(),  # (n, 128, 1, 1)
            head=nn.Sequential(FlattenLayer(), nn.Linear(128, num_classes)),
        )
    )
    return init_as_keras(net).to(memory_format=torch.channels_last)  # see `_googlenet`
