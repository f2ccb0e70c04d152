"""ResNet: a block learns what to add to its input (He et al. 2015, arXiv:1512.03385)."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
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
from torchcnn.models.variants import variant


class Residual(nn.Module):
    """y = relu(x + f(x)): (n, in_channels, h, w) -> (n, out_channels, h / stride, w / stride).

    f is convolution, norm, ReLU, convolution, norm. If the channels or the size change,
    `use_1x1conv` must be set: a 1×1 convolution then gives x the new shape. As in the tutorial,
    but not in the paper, no norm follows this convolution.
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
    """A stage of residual blocks: (n, in_channels, h, w) -> (n, out_channels, h / 2, w / 2).

    With `first_block`, the stage keeps the size and the channels, because a pooling precedes it.

    Raises:
        ValueError: If `first_block` is set and `in_channels` differs from `out_channels`.
    """
    if first_block and in_channels != out_channels:
        raise ValueError(
            f"first_block keeps the number of channels, got {in_channels} -> {out_channels}"
        )
    stride = 1 if first_block else 2
    first = Residual(in_channels, out_channels, not first_block, stride, norm_layer)
    others = [
        Residual(out_channels, out_channels, norm_layer=norm_layer)
        for _ in range(num_residuals - 1)
    ]
    return nn.Sequential(first, *others)


def _stem(
    in_channels: int, norm_layer: NormLayer, small_input: bool, bias: bool = True
) -> nn.Sequential:
    """The first layers, which leave (n, 64, 56, 56) of 224 pixels."""
    stem = [nn.Conv2d(in_channels, 64, 3, padding=1, bias=bias), norm_layer(64), nn.ReLU()]
    if not small_input:
        stem[0] = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=bias)
        stem.append(nn.MaxPool2d(3, stride=2, padding=1))
    return nn.Sequential(*stem)


def resnet(
    depths: Sequence[int],
    in_channels: int = 1,
    num_classes: int = 10,
    norm_layer: NormLayer = nn.BatchNorm2d,
    small_input: bool = False,
) -> nn.Sequential:
    """The tutorial's ResNet: (n, in_channels, h, w) -> (n, num_classes).

    Every convolution has a bias, and no norm follows the 1×1 convolutions. The shapes in the
    comments are those for 224 pixels.

    Args:
        depths: The number of blocks in each of the four stages.
        small_input: Use a 3×3 stem of stride 1 instead of the 7×7 one of stride 2 with pooling.
    """
    return nn.Sequential(
        OrderedDict(
            stem=_stem(in_channels, norm_layer, small_input),  # (n, 64, 56, 56)
            stage1=resnet_block(64, 64, depths[0], first_block=True, norm_layer=norm_layer),
            stage2=resnet_block(64, 128, depths[1], norm_layer=norm_layer),  # (n, 128, 28, 28)
            stage3=resnet_block(128, 256, depths[2], norm_layer=norm_layer),  # (n, 256, 14, 14)
            stage4=resnet_block(256, 512, depths[3], norm_layer=norm_layer),  # (n, 512, 7, 7)
            pool=GlobalAvgPool2d(),  # (n, 512, 1, 1)
            head=nn.Sequential(FlattenLayer(), nn.Linear(512, num_classes)),  # (n, num_classes)
        )
    )


resnet18 = variant(resnet, "resnet18", "ResNet-18", (2, 2, 2, 2))
resnet34 = variant(resnet, "resnet34", "ResNet-34", (3, 4, 6, 3))


# --- the networks below: blocks in stages, of which all but the first halve the size ------------


def _staged(
    stem: nn.Module,
    block: Callable[[int, int, int], nn.Module],
    depths: Sequence[int],
    widths: Sequence[int],
    num_classes: int,
    expansion: int = 1,
) -> nn.Sequential:
    """Build a ResNet from its stem and from `block(in_channels, width, stride)`.

    A block has `expansion * width` output channels, the stem as many as the first width.
    """
    stages: OrderedDict[str, nn.Module] = OrderedDict(stem=stem)
    previous = widths[0]
    for i, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
        blocks = []
        for k in range(depth):
            blocks.append(block(previous, width, 2 if i > 1 and k == 0 else 1))
            previous = expansion * width
        stages[f"stage{i}"] = nn.Sequential(*blocks)
    stages["pool"] = GlobalAvgPool2d()
    stages["head"] = nn.Sequential(FlattenLayer(), nn.Linear(previous, num_classes))
    return nn.Sequential(stages)


def _init_convolutions(net: nn.Sequential) -> nn.Sequential:
    """Draw the weights of the convolutions as He et al. propose, in place."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


# --- the paper's deep networks for ImageNet, of bottleneck blocks --------------------------------


class Bottleneck(nn.Module):
    """y = relu(x + f(x)): (n, in_channels, h, w) -> (n, 4 * width, h / stride, w / stride).

    f is a 1×1, a 3×3 and a 1×1 convolution, each with a norm, and a ReLU after the first two. If
    the channels or the size change, a 1×1 convolution with a norm gives x the new shape. The stride
    is that of the 3×3 convolution, as in torchvision; in the paper it is that of the first.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        norm_layer: NormLayer = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = norm_layer(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = norm_layer(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = norm_layer(out_channels)
        self.relu = nn.ReLU()
        self.down: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.down = nn.Sequential(conv, norm_layer(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + self.down(x))


def bottleneck_resnet(
    depths: Sequence[int],
    in_channels: int = 3,
    num_classes: int = 1000,
    norm_layer: NormLayer = nn.BatchNorm2d,
    small_input: bool = False,
) -> nn.Sequential:
    """ResNet of bottleneck blocks: (n, in_channels, h, w) -> (n, num_classes).

    The convolutions have no bias, and are initialised as He et al. propose. Images of 224 pixels
    have sides of 56, 28, 14 and 7 in the stages, and 256, 512, 1024 and 2048 channels. The options
    are those of `resnet`.
    """
    stem = _stem(in_channels, norm_layer, small_input, bias=False)
    block = partial(Bottleneck, norm_layer=norm_layer)
    net = _staged(stem, block, depths, (64, 128, 256, 512), num_classes, expansion=4)
    return _init_convolutions(net)


_TITLE = "ResNet-{} (the paper's network for ImageNet)"
resnet50 = variant(bottleneck_resnet, "resnet50", _TITLE.format(50), (3, 4, 6, 3))
resnet101 = variant(bottleneck_resnet, "resnet101", _TITLE.format(101), (3, 4, 23, 3))
resnet152 = variant(bottleneck_resnet, "resnet152", _TITLE.format(152), (3, 8, 36, 3))


# --- the paper's networks for CIFAR-10, with and without shortcuts ------------------------------


class CifarResidual(nn.Module):
    """The paper's block for CIFAR-10, with its shortcut A: (n, in, h, w) -> (n, out, h/s, w/s).

    If the shape changes, the shortcut takes every second row and column and fills the new channels
    with zeros. A residual network therefore has as many parameters as the `plain` one, whose
    blocks have no shortcuts.
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
    """The paper's ResNet for CIFAR-10: (n, in_channels, h, w) -> (n, num_classes).

    It has 6n + 2 layers: n blocks each of 16, 32 and 64 channels. The convolutions are
    initialised as He et al. propose. Images of 32 pixels have sides of 32, 16 and 8 in the stages.

    Args:
        depth: The number of layers, 6n + 2.
        plain: Omit the shortcuts. The paper starts from the observation that such a network of 56
            layers has a higher error than one of 20 layers, on the training images as well.

    Raises:
        ValueError: If `depth` is not 6n + 2.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6n + 2, such as 20, 32, 44, 56 or 110, got {depth}")
    conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
    stem = nn.Sequential(conv, norm_layer(16), nn.ReLU())
    block = partial(CifarResidual, plain=plain, norm_layer=norm_layer)
    depths = [(depth - 2) // 6] * 3
    return _init_convolutions(_staged(stem, block, depths, (16, 32, 64), num_classes))


resnet20 = variant(cifar_resnet, "resnet20", "The paper's ResNet-20 for CIFAR-10", 20)
resnet32 = variant(cifar_resnet, "resnet32", "The paper's ResNet-32 for CIFAR-10", 32)
resnet44 = variant(cifar_resnet, "resnet44", "The paper's ResNet-44 for CIFAR-10", 44)
resnet56 = variant(cifar_resnet, "resnet56", "The paper's ResNet-56 for CIFAR-10", 56)
resnet110 = variant(cifar_resnet, "resnet110", "The paper's ResNet-110 for CIFAR-10", 110)


# --- Keras --------------------------------------------------------------------------------------


class ResnetBlock(nn.Module):
    """The Keras tutorials' residual block: (n, in_channels, h, w) -> (n, out_channels, h/s, w/s).

    The convolutions have no bias, and a norm follows each of them, including the 1×1 convolution
    of the shortcut (`residual_path`). With `bias`, as in the other tutorial, the convolutions have
    a bias, and no norm follows the 1×1 convolution.
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


def _tf_resnet18(
    stem: nn.Sequential, num_classes: int, norm_layer: NormLayer, bias: bool = False
) -> nn.Sequential:
    def block(in_channels: int, out_channels: int, stride: int) -> ResnetBlock:
        return ResnetBlock(in_channels, out_channels, stride, stride > 1, norm_layer, bias)

    return init_as_keras(_staged(stem, block, (2, 2, 2, 2), (64, 128, 256, 512), num_classes))


def tf_resnet18(
    in_channels: int = 3, num_classes: int = 10, norm_layer: NormLayer = KerasBatchNorm2d
) -> nn.Sequential:
    """ResNet-18 for images of 32 pixels: (n, in_channels, h, w) -> (n, num_classes).

    The source also adds an L2 penalty of 0.01 on the weights of the last layer to its loss.
    """
    conv = SameConv2d(in_channels, 64, 3, bias=False)
    stem = nn.Sequential(conv, norm_layer(64), nn.ReLU())  # (n, 64, 32, 32)
    return _tf_resnet18(stem, num_classes, norm_layer)  # sides of 32, 16, 8, 4 pixels


def tf_resnet18_pool(
    in_channels: int = 3, num_classes: int = 10, norm_layer: NormLayer = KerasBatchNorm2d
) -> nn.Sequential:
    """ResNet-18 for images of 32 pixels, with a pooling: (n, c, h, w) -> (n, num_classes).

    Its stem is a convolution without padding, which leaves 30 of 32 pixels, and a 2×2 max pooling
    of stride 1.
    """
    conv = nn.Conv2d(in_channels, 64, 3)
    stem = nn.Sequential(conv, norm_layer(64), nn.ReLU(), SameMaxPool2d(2, 1))  # (n, 64, 30, 30)
    return _tf_resnet18(stem, num_classes, norm_layer, bias=True)  # sides of 30, 15, 8, 4 pixels
