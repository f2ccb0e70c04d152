"""NiN: small networks in place of layers, and no dense head (Lin et al. 2013, arXiv:1312.4400)."""

from collections import OrderedDict

import torch
from torch import nn

from torchcnn.layers import FlattenLayer, GlobalAvgPool2d, SameConv2d, init_as_keras
from torchcnn.models.variants import check_size


def nin_block(
    in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int
) -> nn.Sequential:
    """A convolution and two 1×1 convolutions, each followed by ReLU.

    (n, in_channels, h, w) -> (n, out_channels, h', w').
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 1),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 1),
        nn.ReLU(),
    )


def nin(
    in_channels: int = 1,
    num_classes: int = 10,
    dropout: float = 0.5,
    small_input: bool = False,
    width: float = 1.0,
) -> nn.Sequential:
    """NiN with AlexNet's kernel sizes: (n, in_channels, h, w) -> (n, num_classes).

    The last block has one channel for each class; the logit of a class is the mean of its channel,
    taken after a ReLU, as in the tutorials. With torch's first weights the logits of about half of
    the classes are 0, whatever the image, and get no gradient; some may stay so: see `evaluate`.
    The shapes in the comments are those for 224 pixels and a width of 1.

    Args:
        dropout: The probability of dropout before the last block.
        small_input: Use a 5×5 convolution of stride 1 instead of the 11×11 one of stride 4.
        width: A factor for the numbers of channels.
    """
    stem = (5, 1, 2) if small_input else (11, 4, 0)  # kernel size, stride, padding
    c1, c2, c3 = (max(1, round(width * c)) for c in (96, 256, 384))
    return nn.Sequential(
        OrderedDict(
            stage1=nin_block(in_channels, c1, *stem),  # (n, 96, 54, 54)
            pool1=nn.MaxPool2d(3, 2),  # (n, 96, 26, 26)
            stage2=nin_block(c1, c2, 5, 1, 2),
            pool2=nn.MaxPool2d(3, 2),  # (n, 256, 12, 12)
            stage3=nin_block(c2, c3, 3, 1, 1),
            pool3=nn.MaxPool2d(3, 2),  # (n, 384, 5, 5)
            dropout=nn.Dropout(dropout),
            stage4=nin_block(c3, num_classes, 3, 1, 1),  # (n, 10, 5, 5)
            pool=GlobalAvgPool2d(),
            head=FlattenLayer(),  # (n, 10)
        )
    )


def tf_nin(in_channels: int = 1, num_classes: int = 10) -> nn.Sequential:
    """NiN as the Keras tutorial builds it: (n, in_channels, h, w) -> (n, num_classes).

    It has no dropout, and Glorot initialisation. The tutorial's SAME convolutions have stride 1
    and odd kernels, for which symmetric padding is equivalent.
    """
    net = init_as_keras(nin(in_channels, num_classes, dropout=0.0))
    return net.to(memory_format=torch.channels_last)  # TensorFlow's own, and faster here


def tf_nin_dense(
    in_channels: int = 32, num_classes: int = 1028, input_size: int = 512
) -> nn.Sequential:
    """A student's variation of NiN: (n, c, s, s) -> (n, num_classes).

    It has 1×1 convolutions between poolings and two dense layers of 1028 units. The source
    reshapes its output to a 1×1 image of 1028 channels; here it remains a vector, like the logits
    of all other networks. The ReLU after the last layer is kept.

    Raises:
        ValueError: If `input_size` is below 45.
    """
    check_size("tf_nin_dense", 45, input_size)
    side = -(-input_size // 2)  # 256 for 512 pixels
    for kernel, stride in ((3, 2), (3, 2), (5, 3)):
        side = (side - kernel) // stride + 1  # 127, 63, 20
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        stage1=nn.Sequential(SameConv2d(in_channels, 128, 5, stride=2), nn.ReLU()),
        pool1=nn.MaxPool2d(3, 2),  # (n, 128, 127, 127)
        stage2=nn.Sequential(SameConv2d(128, 256, 1), nn.ReLU()),
        pool2=nn.MaxPool2d(3, 2),  # (n, 256, 63, 63)
        stage3=nn.Sequential(SameConv2d(256, 512, 1), nn.ReLU()),
        pool3=nn.MaxPool2d(5, 3),  # (n, 512, 20, 20)
        head=nn.Sequential(
            FlattenLayer(),
            nn.Linear(512 * side**2, 1028),
            nn.ReLU(),
            nn.Linear(1028, num_classes),
            nn.ReLU(),
        ),  # (n, num_classes)
    )
    return init_as_keras(nn.Sequential(stages))
