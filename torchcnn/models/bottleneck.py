"""The deep ResNets for ImageNet, of bottleneck blocks (He et al. 2015, arXiv:1512.03385)."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from torchcnn.layers import FlattenLayer, GlobalAvgPool2d, NormLayer
from torchcnn.models.variants import variant


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

    The convolutions have no bias, and are initialised as He et al. propose. The shapes in the
    comments are those for 224 pixels.

    Args:
        depths: The number of blocks in each of the four stages.
        small_input: Use a 3×3 stem of stride 1 instead of the 7×7 one of stride 2 with pooling.
    """
    conv = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    pool = [nn.MaxPool2d(3, stride=2, padding=1)]
    if small_input:
        conv, pool = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False), []
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Sequential(conv, norm_layer(64), nn.ReLU(), *pool)  # (n, 64, 56, 56)
    )
    previous = 64
    for i, (depth, width) in enumerate(zip(depths, (64, 128, 256, 512), strict=True), start=1):
        blocks = []
        for k in range(depth):
            blocks.append(Bottleneck(previous, width, 2 if i > 1 and k == 0 else 1, norm_layer))
            previous = 4 * width
        stages[f"stage{i}"] = nn.Sequential(*blocks)  # (n, 256 to 2048, 56 to 7, 56 to 7)
    stages["pool"] = GlobalAvgPool2d()  # (n, 2048, 1, 1)
    stages["head"] = nn.Sequential(FlattenLayer(), nn.Linear(previous, num_classes))
    net = nn.Sequential(stages)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


_TITLE = "ResNet-{} (the paper's network for ImageNet)"
resnet50 = variant(bottleneck_resnet, "resnet50", _TITLE.format(50), (3, 4, 6, 3))
resnet101 = variant(bottleneck_resnet, "resnet101", _TITLE.format(101), (3, 4, 23, 3))
resnet152 = variant(bottleneck_resnet, "resnet152", _TITLE.format(152), (3, 8, 36, 3))
