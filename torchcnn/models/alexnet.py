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


def _after_pools(side: int, lost: int, least: int, input_size: int) -> int:
    """The side that three 3×3 poolings of stride 2 leave, `lost` pixels gone before the second."""
    for before in (0, lost, 0):
        side = (side - before - 3) // 2 + 1
    if side < 1:
        raise ValueError(f"AlexNet takes images of at least {least} pixels here, got {input_size=}")
    return side


def _dense(features: int, hidden: int, dropout: float) -> list[nn.Module]:
    return [nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout)]


def alexnet(
    in_channels: int = 1,
    num_classes: int = 10,
    input_size: int = 224,
    hidden_layers: int = 1,
    small_input: bool = False,
) -> nn.Sequential:
    """AlexNet with one tower: (n, c, s, s) -> (n, num_classes); shapes are those of 224 pixels.

    Args:
        hidden_layers: of 4096; the tutorial has 1 for CPUs, and 2, as the paper, for GPUs.
        small_input: a 3×3 convolution of stride 1 in place of the 11×11 of stride 4.

    Raises:
        ValueError: `input_size` leaves nothing for the head; 67 is the least, 15 if `small_input`.
    """
    stem = nn.Conv2d(in_channels, 96, 3, padding=1) if small_input else (
        nn.Conv2d(in_channels, 96, 11, stride=4))  # fmt: skip
    side = input_size if small_input else (input_size - 11) // 4 + 1  # 54
    side = _after_pools(side, 0, 15 if small_input else 67, input_size)  # 5
    hidden = [m for i in range(hidden_layers)
              for m in _dense(4096 if i else 256 * side**2, 4096, 0.5)]  # fmt: skip
    return nn.Sequential(
        OrderedDict(
            stage1=nn.Sequential(stem, nn.ReLU(), nn.MaxPool2d(3, 2)),  # (n, 96, 26, 26)
            stage2=nn.Sequential(
                nn.Conv2d(96, 256, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)
            ),  # (n, 256, 12, 12)
            stage3=nn.Sequential(
                nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(),
                nn.Conv2d(384, 384, 3, padding=1), nn.ReLU(),
                nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
                nn.MaxPool2d(3, 2),
            ),  # (n, 256, 5, 5)
            head=nn.Sequential(
                FlattenLayer(),
                *hidden,
                nn.Linear(4096 if hidden else 256 * side**2, num_classes),
            ),  # (n, num_classes)
        )
    )  # fmt: skip


def tf_alexnet8(
    in_channels: int = 3,
    num_classes: int = 10,
    input_size: int = 32,
    norm_layer: NormLayer = KerasBatchNorm2d,
) -> nn.Sequential:
    """AlexNet for 32 pixels, batch norm where the paper has LRN: (n, c, s, s) -> (n, num_classes).

    Raises:
        ValueError: `input_size` leaves nothing for the head; 21 is the least.
    """
    side = _after_pools(input_size - 2, 2, 21, input_size)  # 2
    return init_as_keras(
        nn.Sequential(
            OrderedDict(
                stage1=nn.Sequential(
                    nn.Conv2d(in_channels, 96, 3), norm_layer(96), nn.ReLU(), nn.MaxPool2d(3, 2)
                ),  # (n, 96, 14, 14)
                stage2=nn.Sequential(
                    nn.Conv2d(96, 256, 3), norm_layer(256), nn.ReLU(), nn.MaxPool2d(3, 2)
                ),  # (n, 256, 5, 5)
                stage3=nn.Sequential(
                    SameConv2d(256, 384, 3), nn.ReLU(),
                    SameConv2d(384, 384, 3), nn.ReLU(),
                    SameConv2d(384, 256, 3), nn.ReLU(),
                    nn.MaxPool2d(3, 2),
                ),  # (n, 256, 2, 2)
                head=nn.Sequential(
                    FlattenLayer(),
                    *_dense(256 * side**2, 2048, 0.5),
                    *_dense(2048, 2048, 0.5),
                    nn.Linear(2048, num_classes),
                ),  # (n, num_classes)
            )
        )
    )  # fmt: skip


def tf_alexnet_half(
    in_channels: int = 3, num_classes: int = 1000, input_size: int = 224
) -> nn.Sequential:
    """One of AlexNet's two towers: (n, c, s, s) -> (n, num_classes).

    Neither VALID nor SAME gives the paper's 55 pixels: zeros are padded by hand, one before and
    two after. Dropout stands before each hidden layer.

    Raises:
        ValueError: `input_size` leaves nothing for the head; 64 is the least.
    """
    side = _after_pools((input_size + 3 - 11) // 4 + 1, 0, 64, input_size)  # 6
    return init_as_keras(
        nn.Sequential(
            OrderedDict(
                pad=nn.ZeroPad2d((1, 2, 1, 2)),  # (n, 3, 227, 227)
                stage1=nn.Sequential(
                    nn.Conv2d(in_channels, 48, 11, stride=4), nn.ReLU(), nn.MaxPool2d(3, 2)
                ),  # (n, 48, 27, 27)
                stage2=nn.Sequential(
                    SameConv2d(48, 128, 5), nn.ReLU(), nn.MaxPool2d(3, 2)
                ),  # (n, 128, 13, 13)
                stage3=nn.Sequential(
                    SameConv2d(128, 192, 3), nn.ReLU(),
                    SameConv2d(192, 192, 3), nn.ReLU(),
                    SameConv2d(192, 128, 3), nn.ReLU(),
                    nn.MaxPool2d(3, 2),
                ),  # (n, 128, 6, 6)
                head=nn.Sequential(
                    FlattenLayer(),
                    nn.Dropout(0.2), nn.Linear(128 * side**2, 2048), nn.ReLU(),
                    nn.Dropout(0.2), nn.Linear(2048, 2048), nn.ReLU(),
                    nn.Linear(2048, num_classes),
                ),  # (n, num_classes)
            )
        )
    )  # fmt: skip
