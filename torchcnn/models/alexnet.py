"""AlexNet: deeper, with ReLU and dropout (Krizhevsky, Sutskever and Hinton 2012)."""

from collections import OrderedDict

from torch import nn

from torchcnn.layers import (
    FlattenLayer,
    KerasBatchNorm2d,
    NormLayer,
    SameConv2d,
    init_as_keras,
)
from torchcnn.models.variants import check_size


def _pooled(side: int) -> int:
    """Return the side that a 3×3 max pooling of stride 2 leaves, in pixels."""
    return (side - 3) // 2 + 1


def _stage(*convs: nn.Conv2d) -> nn.Sequential:
    """Convolutions with ReLU, and a 3×3 max pooling of stride 2."""
    layers = [layer for conv in convs for layer in (conv, nn.ReLU())]
    return nn.Sequential(*layers, nn.MaxPool2d(3, 2))


def _dense(features: int, hidden: int) -> list[nn.Module]:
    return [nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(0.5)]


def alexnet(
    in_channels: int = 1,
    num_classes: int = 10,
    input_size: int = 224,
    hidden_layers: int = 1,
    small_input: bool = False,
) -> nn.Sequential:
    """AlexNet with one tower: (n, c, s, s) -> (n, num_classes).

    The shapes in the comments are those for images of 224 pixels.

    Args:
        hidden_layers: The number of dense layers of 4096 units. The tutorial uses 1 on CPUs, and
            2, as the paper does, on GPUs.
        small_input: Use a 3×3 convolution of stride 1 instead of the 11×11 one of stride 4.

    Raises:
        ValueError: If `input_size` is below 67, or below 15 with `small_input`.
    """
    check_size("alexnet", 15 if small_input else 67, input_size)
    if small_input:
        stem = nn.Conv2d(in_channels, 96, 3, padding=1)
        side = input_size
    else:
        stem = nn.Conv2d(in_channels, 96, 11, stride=4)
        side = (input_size - 11) // 4 + 1  # 54
    side = _pooled(_pooled(_pooled(side)))  # 26, 12, 5
    features = 256 * side**2
    hidden: list[nn.Module] = []
    for _ in range(hidden_layers):
        hidden += _dense(features, 4096)
        features = 4096
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        stage1=_stage(stem),  # (n, 96, 26, 26)
        stage2=_stage(nn.Conv2d(96, 256, 5, padding=2)),  # (n, 256, 12, 12)
        stage3=_stage(
            nn.Conv2d(256, 384, 3, padding=1),
            nn.Conv2d(384, 384, 3, padding=1),
            nn.Conv2d(384, 256, 3, padding=1),
        ),  # (n, 256, 5, 5)
        head=nn.Sequential(
            FlattenLayer(),
            *hidden,
            nn.Linear(features, num_classes),
        ),  # (n, num_classes)
    )
    return nn.Sequential(stages)


def tf_alexnet8(
    in_channels: int = 3,
    num_classes: int = 10,
    input_size: int = 32,
    norm_layer: NormLayer = KerasBatchNorm2d,
) -> nn.Sequential:
    """AlexNet for images of 32 pixels: (n, c, s, s) -> (n, num_classes).

    It has batch norm where the paper has local response normalisation.

    Raises:
        ValueError: If `input_size` is below 21.
    """
    check_size("tf_alexnet8", 21, input_size)
    side = _pooled(input_size - 2)  # 14
    side = _pooled(_pooled(side - 2))  # 5, 2
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        stage1=nn.Sequential(
            nn.Conv2d(in_channels, 96, 3),
            norm_layer(96),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        ),  # (n, 96, 14, 14)
        stage2=nn.Sequential(
            nn.Conv2d(96, 256, 3),
            norm_layer(256),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        ),  # (n, 256, 5, 5)
        stage3=_stage(
            SameConv2d(256, 384, 3),
            SameConv2d(384, 384, 3),
            SameConv2d(384, 256, 3),
        ),  # (n, 256, 2, 2)
        head=nn.Sequential(
            FlattenLayer(),
            *_dense(256 * side**2, 2048),
            *_dense(2048, 2048),
            nn.Linear(2048, num_classes),
        ),  # (n, num_classes)
    )
    return init_as_keras(nn.Sequential(stages))


def tf_alexnet_half(
    in_channels: int = 3, num_classes: int = 1000, input_size: int = 224
) -> nn.Sequential:
    """One of AlexNet's two towers: (n, c, s, s) -> (n, num_classes).

    Neither VALID nor SAME padding gives the paper's 55 pixels, so the image is padded explicitly
    by one row and column of zeros before it and two after it. Dropout precedes each hidden layer.

    Raises:
        ValueError: If `input_size` is below 64.
    """
    check_size("tf_alexnet_half", 64, input_size)
    side = (input_size + 3 - 11) // 4 + 1  # 55
    side = _pooled(_pooled(_pooled(side)))  # 27, 13, 6
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        pad=nn.ZeroPad2d((1, 2, 1, 2)),  # (n, 3, 227, 227)
        stage1=_stage(nn.Conv2d(in_channels, 48, 11, stride=4)),  # (n, 48, 27, 27)
        stage2=_stage(SameConv2d(48, 128, 5)),  # (n, 128, 13, 13)
        stage3=_stage(
            SameConv2d(128, 192, 3),
            SameConv2d(192, 192, 3),
            SameConv2d(192, 128, 3),
        ),  # (n, 128, 6, 6)
        head=nn.Sequential(
            FlattenLayer(),
            nn.Dropout(0.2),
            nn.Linear(128 * side**2, 2048),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(2048, 2048),
            nn.ReLU(),
            nn.Linear(2048, num_classes),
        ),  # (n, num_classes)
    )
    return init_as_keras(nn.Sequential(stages))
