"""The small networks a Keras course begins with: conv-norm-activation-pool-dropout, one by one."""

from collections import OrderedDict

from torch import nn

from torchcnn.layers import (
    FlattenLayer,
    KerasBatchNorm2d,
    NormLayer,
    SameConv2d,
    SameMaxPool2d,
    init_as_keras,
)
from torchcnn.models.variants import check_size


def tf_baseline(
    in_channels: int = 3,
    num_classes: int = 10,
    input_size: int = 32,
    norm_layer: NormLayer = KerasBatchNorm2d,
) -> nn.Sequential:
    """One convolutional and two dense layers: (n, c, s, s) -> (n, num_classes)."""
    side = -(-input_size // 2)  # 16 for 32 pixels
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        stage1=nn.Sequential(
            SameConv2d(in_channels, 6, 5),
            norm_layer(6),
            nn.ReLU(),
            SameMaxPool2d(2),
            nn.Dropout(0.2),
        ),  # (n, 6, 16, 16)
        head=nn.Sequential(
            FlattenLayer(),
            nn.Linear(6 * side**2, 128),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(128, num_classes),
        ),  # (n, num_classes)
    )
    return init_as_keras(nn.Sequential(stages))


def tf_sigmoid_cnn(
    in_channels: int = 3, num_classes: int = 10, input_size: int = 48
) -> nn.Sequential:
    """Three stages and a dense layer: (n, c, s, s) -> (n, num_classes).

    Each stage is a 5×5 convolution with 6 output channels, a sigmoid and a max pooling.

    Raises:
        ValueError: If `input_size` is below 36.
    """
    check_size("tf_sigmoid_cnn", 36, input_size)
    side = input_size
    for _ in range(3):
        side = (side - 4) // 2  # 22, 9, 2 for 48 pixels
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        (f"stage{i}", nn.Sequential(nn.Conv2d(c, 6, 5), nn.Sigmoid(), nn.MaxPool2d(2)))
        for i, c in enumerate((in_channels, 6, 6), start=1)
    )  # (n, 6, 22, 22), (n, 6, 9, 9), (n, 6, 2, 2)
    stages["head"] = nn.Sequential(FlattenLayer(), nn.Linear(6 * side**2, num_classes))
    return init_as_keras(nn.Sequential(stages))
