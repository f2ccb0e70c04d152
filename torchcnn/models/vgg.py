"""VGG: nothing but 3×3 convolutions, in blocks (Simonyan and Zisserman 2014, arXiv:1409.1556)."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import nn

from torchcnn.layers import (
    FlattenLayer,
    KerasBatchNorm2d,
    NormLayer,
    SameConv2d,
    SameMaxPool2d,
    init_as_keras,
)
from torchcnn.models.variants import check_size, variant

CHANNELS = (64, 128, 256, 512, 512)
DEEP = 8  # convolutions of VGG-11, the deepest that learns from torch's default weights


def vgg_block(
    num_convs: int, in_channels: int, out_channels: int, norm_layer: NormLayer | None = None
) -> nn.Sequential:
    """`num_convs` 3×3 convolutions with ReLU, and a max pooling.

    (n, in_channels, h, w) -> (n, out_channels, h / 2, w / 2).

    Args:
        norm_layer: The norm that follows each convolution, if there is one.
    """
    layers: list[nn.Module] = []
    for i in range(num_convs):
        c = out_channels if i else in_channels
        norm = [norm_layer(out_channels)] if norm_layer else []
        layers += [nn.Conv2d(c, out_channels, 3, padding=1), *norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2))


def vgg(
    num_convs: Sequence[int],
    in_channels: int = 1,
    num_classes: int = 10,
    input_size: int = 224,
    width: float = 1.0,
    small_input: bool = False,
    norm_layer: NormLayer | None = None,
) -> nn.Sequential:
    """VGG: (n, c, s, s) -> (n, num_classes).

    Each block halves the size: from 224 pixels to 112, 56, 28, 14 and 7. Networks deeper than
    VGG-11 begin with weights drawn as torchvision draws them: torch's default weights let signals
    fade, and nothing is learned. The paper began them with the trained layers of VGG-11.

    Args:
        num_convs: The number of convolutions in each of the five blocks.
        width: A factor for the numbers of channels and for the units of the hidden dense layers.
        small_input: Omit the pooling of the first block, so that it does not halve the size.
        norm_layer: The norm after each convolution. The paper has none: they were invented later
            (arXiv:1502.03167).

    Raises:
        ValueError: If `input_size` is below 32, or below 16 with `small_input`.
    """
    least = 16 if small_input else 32
    check_size("vgg", least, input_size)
    side = input_size // least  # 7 for 224 pixels
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    previous = in_channels
    *channels, hidden = (max(1, round(width * c)) for c in (*CHANNELS, 4096))
    for i, (count, c) in enumerate(zip(num_convs, channels, strict=True), start=1):
        block = vgg_block(count, previous, c, norm_layer)
        stages[f"stage{i}"] = block[:-1] if small_input and i == 1 else block
        previous = c
    stages["head"] = nn.Sequential(
        FlattenLayer(),
        nn.Linear(previous * side**2, hidden),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(hidden, num_classes),
    )
    net = nn.Sequential(stages)
    return _init_deep(net) if sum(num_convs) > DEEP and norm_layer is None else net


def _init_deep(net: nn.Sequential) -> nn.Sequential:
    """Draw new weights as torchvision does, by He et al. 2015, arXiv:1502.01852."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    return net


# The number in a name is that of the convolutions plus the three dense layers.
vgg11 = variant(vgg, "vgg11", "VGG-11 (the paper's configuration A)", (1, 1, 2, 2, 2))
vgg13 = variant(vgg, "vgg13", "VGG-13 (the paper's configuration B)", (2, 2, 2, 2, 2))
vgg16 = variant(vgg, "vgg16", "VGG-16 (the paper's configuration D)", (2, 2, 3, 3, 3))
vgg19 = variant(vgg, "vgg19", "VGG-19 (the paper's configuration E)", (2, 2, 4, 4, 4))
_with_norm = partial(variant, vgg, norm_layer=nn.BatchNorm2d)
vgg11_bn = _with_norm("vgg11_bn", "VGG-11 with batch norm", (1, 1, 2, 2, 2))
vgg13_bn = _with_norm("vgg13_bn", "VGG-13 with batch norm", (2, 2, 2, 2, 2))
vgg16_bn = _with_norm("vgg16_bn", "VGG-16 with batch norm", (2, 2, 3, 3, 3))
vgg19_bn = _with_norm("vgg19_bn", "VGG-19 with batch norm", (2, 2, 4, 4, 4))


def tf_vgg13(in_channels: int = 3, num_classes: int = 10, input_size: int = 32) -> nn.Sequential:
    """VGG-13 for images of 32 pixels: (n, c, s, s) -> (n, num_classes).

    Its hidden dense layers have 256 and 128 units.
    """
    side, previous = input_size, in_channels
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    for i, c in enumerate(CHANNELS, start=1):
        side = -(-side // 2)
        stages[f"stage{i}"] = nn.Sequential(
            SameConv2d(previous, c, 3),
            nn.ReLU(),
            SameConv2d(c, c, 3),
            nn.ReLU(),
            SameMaxPool2d(2),
        )  # (n, c, side, side), where side is 16, 8, 4, 2, 1
        previous = c
    stages["head"] = nn.Sequential(
        FlattenLayer(),
        nn.Linear(512 * side**2, 256),
        nn.ReLU(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, num_classes),
    )
    return init_as_keras(nn.Sequential(stages))


def tf_vgg16(
    in_channels: int = 3,
    num_classes: int = 10,
    input_size: int = 32,
    norm_layer: NormLayer = KerasBatchNorm2d,
) -> nn.Sequential:
    """VGG-16 for images of 32 pixels: (n, c, s, s) -> (n, num_classes).

    It has batch norm after every convolution, and dropout of 0.2.
    """
    side, previous = input_size, in_channels
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (num_convs, c) in enumerate(zip((2, 2, 3, 3, 3), CHANNELS, strict=True), start=1):
        layers: list[nn.Module] = []
        for _ in range(num_convs):
            layers += [SameConv2d(previous, c, 3), norm_layer(c), nn.ReLU()]
            previous = c
        side = -(-side // 2)
        stages[f"stage{i}"] = nn.Sequential(*layers, SameMaxPool2d(2), nn.Dropout(0.2))
    stages["head"] = nn.Sequential(
        FlattenLayer(),
        nn.Linear(512 * side**2, 512),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(512, num_classes),
    )
    return init_as_keras(nn.Sequential(stages))
