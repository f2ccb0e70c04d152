"""LeNet: convolutions learn what to look for (LeCun et al. 1998)."""

from collections import OrderedDict

from torch import nn

from torchcnn.layers import FlattenLayer, NormLayer, init_as_keras, vector_norm


def _side(name: str, input_size: int) -> int:
    side = ((input_size - 4) // 2 - 4) // 2  # 4 of 28, 5 of 32
    if side < 1:
        raise ValueError(f"{name} takes images of at least 16 pixels, got input_size={input_size}")
    return side


def lenet(
    in_channels: int = 1,
    num_classes: int = 10,
    input_size: int = 28,
    norm_layer: NormLayer = nn.BatchNorm2d,
) -> nn.Sequential:
    """LeNet with a batch norm after every hidden affine layer: (n, c, s, s) -> (n, num_classes).

    The tutorials' form of LeNet-5: sigmoids, max pooling, a fully connected C5, linear outputs.

    Raises:
        ValueError: `input_size` leaves nothing for the head; 16 is the least.
    """
    side = _side("lenet", input_size)
    norm1d = vector_norm(norm_layer)
    return nn.Sequential(
        OrderedDict(
            stage1=nn.Sequential(
                nn.Conv2d(in_channels, 6, 5), norm_layer(6), nn.Sigmoid(), nn.MaxPool2d(2)
            ),  # (n, 6, 12, 12)
            stage2=nn.Sequential(
                nn.Conv2d(6, 16, 5), norm_layer(16), nn.Sigmoid(), nn.MaxPool2d(2)
            ),  # (n, 16, 4, 4)
            head=nn.Sequential(
                FlattenLayer(),
                nn.Linear(16 * side**2, 120), norm1d(120), nn.Sigmoid(),
                nn.Linear(120, 84), norm1d(84), nn.Sigmoid(),
                nn.Linear(84, num_classes),
            ),  # (n, num_classes)
        )
    )  # fmt: skip


def tf_lenet5(in_channels: int = 3, num_classes: int = 10, input_size: int = 32) -> nn.Sequential:
    """LeNet-5 as Keras courses build it, sigmoids and no norm: (n, c, s, s) -> (n, num_classes).

    Raises:
        ValueError: `input_size` leaves nothing for the head; 16 is the least.
    """
    side = _side("tf_lenet5", input_size)
    return init_as_keras(
        nn.Sequential(
            OrderedDict(
                stage1=nn.Sequential(
                    nn.Conv2d(in_channels, 6, 5), nn.Sigmoid(), nn.MaxPool2d(2)
                ),  # (n, 6, 14, 14)
                stage2=nn.Sequential(
                    nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.MaxPool2d(2)
                ),  # (n, 16, 5, 5)
                head=nn.Sequential(
                    FlattenLayer(),
                    nn.Linear(16 * side**2, 120), nn.Sigmoid(),
                    nn.Linear(120, 84), nn.Sigmoid(),
                    nn.Linear(84, num_classes),
                ),  # (n, num_classes)
            )
        )
    )  # fmt: skip
