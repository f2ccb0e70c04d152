"""LeNet: convolutions learn what to look for (LeCun et al. 1998)."""

from collections import OrderedDict

from torch import nn

from torchcnn.layers import FlattenLayer, NormLayer, init_as_keras, vector_norm
from torchcnn.models.variants import check_size


def lenet(
    in_channels: int = 1,
    num_classes: int = 10,
    input_size: int = 28,
    norm_layer: NormLayer = nn.BatchNorm2d,
) -> nn.Sequential:
    """LeNet with batch norm: (n, c, s, s) -> (n, num_classes).

    This is the tutorials' form of LeNet-5: sigmoids, max pooling, a fully connected C5 layer and
    linear outputs, with a batch norm after every convolution and every hidden dense layer.

    Raises:
        ValueError: If `input_size` is below 16.
    """
    check_size("lenet", 16, input_size)
    side = ((input_size - 4) // 2 - 4) // 2  # 4 for 28 pixels
    norm1d = vector_norm(norm_layer)
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        stage1=nn.Sequential(
            nn.Conv2d(in_channels, 6, 5),
            norm_layer(6),
            nn.Sigmoid(),
            nn.MaxPool2d(2),
        ),  # (n, 6, 12, 12)
        stage2=nn.Sequential(
            nn.Conv2d(6, 16, 5),
            norm_layer(16),
            nn.Sigmoid(),
            nn.MaxPool2d(2),
        ),  # (n, 16, 4, 4)
        head=nn.Sequential(
            FlattenLayer(),
            nn.Linear(16 * side**2, 120),
            norm1d(120),
            nn.Sigmoid(),
            nn.Linear(120, 84),
            norm1d(84),
            nn.Sigmoid(),
            nn.Linear(84, num_classes),
        ),  # (n, num_classes)
    )
    return nn.Sequential(stages)


def tf_lenet5(in_channels: int = 3, num_classes: int = 10, input_size: int = 32) -> nn.Sequential:
    """LeNet-5 as Keras courses build it: (n, c, s, s) -> (n, num_classes).

    It has sigmoids and no normalisation.

    Raises:
        ValueError: If `input_size` is below 16.
    """
    check_size("tf_lenet5", 16, input_size)
    side = ((input_size - 4) // 2 - 4) // 2  # 5 for 32 pixels
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        stage1=nn.Sequential(
            nn.Conv2d(in_channels, 6, 5),
            nn.Sigmoid(),
            nn.MaxPool2d(2),
        ),  # (n, 6, 14, 14)
        stage2=nn.Sequential(
            nn.Conv2d(6, 16, 5),
            nn.Sigmoid(),
            nn.MaxPool2d(2),
        ),  # (n, 16, 5, 5)
        head=nn.Sequential(
            FlattenLayer(),
            nn.Linear(16 * side**2, 120),
            nn.Sigmoid(),
            nn.Linear(120, 84),
            nn.Sigmoid(),
            nn.Linear(84, num_classes),
        ),  # (n, num_classes)
    )
    return init_as_keras(nn.Sequential(stages))
