"""ResNet: a block learns what to add to its input (He et al. 2015, arXiv:1512.03385)."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
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


class Residual(nn.Module):
    """y = relu(x + f(x)): (n, in_channels, h, w) -> (n, out_channels, h / stride, w / stride).

    f is conv-norm-relu-conv-norm. Where shape or stride changes, `use_1x1conv` brings x along:
    a bare convolution, with no norm behind it, as the tutorial has it and the paper has not.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        use_1x1conv: bool = False,
        stride: int = 1,
        norm_layer: NormLayer = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)
        self.bn1 = norm_layer(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bn2 = norm_layer(out_channels)
        self.conv3 = nn.Conv2d(in_channels, out_channels, 1, stride) if use_1x1conv else None
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.conv3 is not None:
            x = self.conv3(x)
        return self.relu(y + x)


def resnet_block(
    in_channels: int,
    out_channels: int,
    num_residuals: int,
    first_block: bool = False,
    norm_layer: NormLayer = nn.BatchNorm2d,
) -> nn.Sequential:
    """A stage: (n, in_channels, h, w) -> (n, out_channels, h / 2, w / 2).

    The `first_block` follows a pooling: it halves nothing and keeps its channels.

    Raises:
        ValueError: a `first_block` that would change its channels.
    """
    if first_block and in_channels != out_channels:
        raise ValueError(f"the first block keeps its channels, got {in_channels} -> {out_channels}")
    blocks = [Residual(in_channels, out_channels, not first_block, 1 if first_block else 2,
                       norm_layer)]  # fmt: skip
    blocks += [
        Residual(out_channels, out_channels, norm_layer=norm_layer)
        for _ in range(num_residuals - 1)
    ]
    return nn.Sequential(*blocks)


def _resnet(
    depths: Sequence[int],
    in_channels: int,
    num_classes: int,
    norm_layer: NormLayer,
    small_input: bool,
) -> nn.Sequential:
    stem = [nn.Conv2d(in_channels, 64, 3, padding=1), norm_layer(64), nn.ReLU()]
    if not small_input:
        stem[0] = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3)
        stem.append(nn.MaxPool2d(3, stride=2, padding=1))
    return nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(*stem),  # (n, 64, 56, 56)
            stage1=resnet_block(64, 64, depths[0], first_block=True, norm_layer=norm_layer),
            stage2=resnet_block(64, 128, depths[1], norm_layer=norm_layer),  # (n, 128, 28, 28)
            stage3=resnet_block(128, 256, depths[2], norm_layer=norm_layer),  # (n, 256, 14, 14)
            stage4=resnet_block(256, 512, depths[3], norm_layer=norm_layer),  # (n, 512, 7, 7)
            pool=GlobalAvgPool2d(),  # (n, 512, 1, 1)
            head=nn.Sequential(FlattenLayer(), nn.Linear(512, num_classes)),  # (n, num_classes)
        )
    )


def resnet18(
    in_channels: int = 1,
    num_classes: int = 10,
    norm_layer: NormLayer = nn.BatchNorm2d,
    small_input: bool = False,
) -> nn.Sequential:
    """ResNet-18: (n, in_channels, h, w) -> (n, num_classes); shapes are those of 224 pixels.

    As the tutorial builds it: every convolution has a bias, and the 1×1 paths have no norm.
    `small_input` has a 3×3 convolution of stride 1 in place of the 7×7 of stride 2 and its pooling.
    """
    return _resnet((2, 2, 2, 2), in_channels, num_classes, norm_layer, small_input)


def resnet34(
    in_channels: int = 1,
    num_classes: int = 10,
    norm_layer: NormLayer = nn.BatchNorm2d,
    small_input: bool = False,
) -> nn.Sequential:
    """ResNet-34, built as `resnet18` is, of (3, 4, 6, 3) blocks."""
    return _resnet((3, 4, 6, 3), in_channels, num_classes, norm_layer, small_input)


# --- the paper's networks for CIFAR-10, and what they are measured against ----------------------


class CifarResidual(nn.Module):
    """The paper's block for CIFAR-10 (its shortcut A): (n, in, h, w) -> (n, out, h/s, w/s).

    Where the shape changes, the shortcut takes every second pixel and fills the new channels with
    zeros, so that a residual network has not a parameter more than the `plain` one, which has no
    shortcut at all.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        plain: bool,
        norm_layer: NormLayer = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = norm_layer(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = norm_layer(out_channels)
        self.relu = nn.ReLU()
        self.stride, self.plain = stride, plain
        self.new_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if not self.plain:
            x = x[:, :, :: self.stride, :: self.stride]
            y = y + F.pad(x, (0, 0, 0, 0, 0, self.new_channels))
        return self.relu(y)


def cifar_resnet(
    depth: int,
    in_channels: int = 3,
    num_classes: int = 10,
    norm_layer: NormLayer = nn.BatchNorm2d,
    plain: bool = False,
) -> nn.Sequential:
    """The paper's ResNet for CIFAR-10: (n, c, h, w) -> (n, num_classes); shapes are of 32 pixels.

    6n + 2 layers, n blocks of 16, 32 and 64 channels each, He's initialisation. `plain` leaves the
    shortcuts out: of such networks the one with 56 layers is worse than the one with 20, in
    training too, which is what the paper sets out from.

    Raises:
        ValueError: a depth that is not 6n + 2.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"the depth is 6n + 2, such as 20, 32, 44, 56 or 110, got {depth}")
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Sequential(
            nn.Conv2d(in_channels, 16, 3, padding=1, bias=False), norm_layer(16), nn.ReLU()
        )  # (n, 16, 32, 32)
    )
    previous = 16
    for i, c in enumerate((16, 32, 64), start=1):  # 32, 16, 8 pixels
        blocks = []
        for k in range((depth - 2) // 6):
            blocks.append(
                CifarResidual(previous, c, 2 if i > 1 and k == 0 else 1, plain, norm_layer)
            )
            previous = c
        stages[f"stage{i}"] = nn.Sequential(*blocks)
    stages["pool"] = GlobalAvgPool2d()  # (n, 64, 1, 1)
    stages["head"] = nn.Sequential(FlattenLayer(), nn.Linear(64, num_classes))
    net = nn.Sequential(stages)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


resnet20 = partial(cifar_resnet, 20)
resnet32 = partial(cifar_resnet, 32)
resnet44 = partial(cifar_resnet, 44)
resnet56 = partial(cifar_resnet, 56)
resnet110 = partial(cifar_resnet, 110)


# --- Keras --------------------------------------------------------------------------------------


class ResnetBlock(nn.Module):
    """The Keras tutorials' residual block: (n, in_channels, h, w) -> (n, out_channels, h/s, w/s).

    Convolutions without bias, a norm behind each, on the 1×1 path (`residual_path`) too. The other
    tutorial has a `bias` in each, and with it no norm on that path.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        residual_path: bool = False,
        norm_layer: NormLayer = KerasBatchNorm2d,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = SameConv2d(in_channels, out_channels, 3, stride, bias=bias)
        self.bn1 = norm_layer(out_channels)
        self.conv2 = SameConv2d(out_channels, out_channels, 3, bias=bias)
        self.bn2 = norm_layer(out_channels)
        self.down: nn.Module = nn.Identity()
        if residual_path:
            conv = SameConv2d(in_channels, out_channels, 1, stride, bias=bias)
            self.down = conv if bias else nn.Sequential(conv, norm_layer(out_channels))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.down(x))


def tf_resnet18(
    in_channels: int = 3, num_classes: int = 10, norm_layer: NormLayer = KerasBatchNorm2d
) -> nn.Sequential:
    """ResNet-18 for 32 pixels: (n, in_channels, h, w) -> (n, num_classes).

    The source adds an L2 penalty of 0.01 on the kernel of its classifier to the loss.
    """
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Sequential(SameConv2d(in_channels, 64, 3, bias=False), norm_layer(64), nn.ReLU())
    )  # (n, 64, 32, 32)
    previous = 64
    for i, c in enumerate((64, 128, 256, 512), start=1):  # 32, 16, 8, 4 pixels
        stages[f"stage{i}"] = nn.Sequential(
            ResnetBlock(previous, c, 1 if i == 1 else 2, i > 1, norm_layer),
            ResnetBlock(c, c, norm_layer=norm_layer),
        )
        previous = c
    stages["pool"] = GlobalAvgPool2d()  # (n, 512, 1, 1)
    stages["head"] = nn.Sequential(FlattenLayer(), nn.Linear(512, num_classes))
    return init_as_keras(nn.Sequential(stages))


def tf_resnet18_pool(
    in_channels: int = 3, num_classes: int = 10, norm_layer: NormLayer = KerasBatchNorm2d
) -> nn.Sequential:
    """ResNet-18 with a VALID stem and a 2×2 pooling of stride 1: (n, c, h, w) -> (n, num_classes).

    Shapes are those of 32 pixels, of which the stem leaves 30.
    """
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Sequential(
            nn.Conv2d(in_channels, 64, 3), norm_layer(64), nn.ReLU(), SameMaxPool2d(2, 1)
        )
    )  # (n, 64, 30, 30)
    previous = 64
    for i, c in enumerate((64, 128, 256, 512), start=1):  # 30, 15, 8, 4 pixels
        stages[f"stage{i}"] = nn.Sequential(
            ResnetBlock(previous, c, 1 if i == 1 else 2, i > 1, norm_layer, bias=True),
            ResnetBlock(c, c, norm_layer=norm_layer, bias=True),
        )
        previous = c
    stages["pool"] = GlobalAvgPool2d()  # (n, 512, 1, 1)
    stages["head"] = nn.Sequential(FlattenLayer(), nn.Linear(512, num_classes))
    return init_as_keras(nn.Sequential(stages))
