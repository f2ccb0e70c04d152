"""ResNet: a block learns what to add to its input (He et al. 2015, arXiv:1512.03385)."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from torchcnn.layers import FlattenLayer, GlobalAvgPool2d, NormLayer


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

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.conv3 is not None:
            x = self.conv3(x)
        return F.relu(y + x)


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


def resnet18(
    in_channels: int = 1, num_classes: int = 10, norm_layer: NormLayer = nn.BatchNorm2d
) -> nn.Sequential:
    """ResNet-18: (n, in_channels, h, w) -> (n, num_classes); shapes are those of 224 pixels.

    As the tutorial builds it: every convolution has a bias, and the 1×1 paths have no norm.
    """
    return nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(
                nn.Conv2d(in_channels, 64, 7, stride=2, padding=3), norm_layer(64), nn.ReLU(),
                nn.MaxPool2d(3, stride=2, padding=1),
            ),  # (n, 64, 56, 56)
            stage1=resnet_block(64, 64, 2, first_block=True, norm_layer=norm_layer),  # 56
            stage2=resnet_block(64, 128, 2, norm_layer=norm_layer),  # (n, 128, 28, 28)
            stage3=resnet_block(128, 256, 2, norm_layer=norm_layer),  # (n, 256, 14, 14)
            stage4=resnet_block(256, 512, 2, norm_layer=norm_layer),  # (n, 512, 7, 7)
            pool=GlobalAvgPool2d(),  # (n, 512, 1, 1)
            head=nn.Sequential(FlattenLayer(), nn.Linear(512, num_classes)),  # (n, num_classes)
        )
    )  # fmt: skip
