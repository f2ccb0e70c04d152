"""`create_model`: any network by its name, with new weights or those of the package."""

from dataclasses import replace
from typing import Any, Literal

from torch import nn

from torchcnn.models.build import USUAL, build
from torchcnn.models.imagenet import read_imagenet
from torchcnn.models.registry import find_model
from torchcnn.models.weights import for_channels, read_pretrained, start_from


def create_model(
    name: str,
    input_size: int | None = None,
    pretrained: bool | Literal["imagenet"] = False,
    **options: Any,
) -> nn.Module:
    """Build a network by its name: (n, in_channels, h, w) float -> logits (n, num_classes).

    Args:
        name: One of `list_models()`.
        input_size: The height and width of the images. If the network's dense layers depend on
            the size, they are built for it. A size that is too small for the network raises an
            error here instead of in the first batch.
        pretrained: Load the weights for Fashion-MNIST that are in this package, see
            `list_pretrained`; with "imagenet", torchvision's weights for ImageNet, from the cache
            of `torch.hub` or else the internet. The network has the size, channels, classes, stem
            and options with which they were trained, and the attribute `spec` of `load_model`,
            which does not know another `norm_layer`. With another `num_classes` the last layer is
            new; with `in_channels=1` in place of 3 the first convolution sums its kernels, and
            reads gray images.
        options: Keyword arguments of the network's builder, such as `in_channels`, `num_classes`
            and, if the network has norms, `norm_layer`. The defaults are those of its source.

    Raises:
        ValueError: If the name or an option is unknown, a number is below 1, the input size is
            too small, also for a network with such options, or there are no weights for it.
        OSError: If weights for ImageNet are not in the cache and cannot be downloaded.
    """
    if not pretrained:
        return build(name, input_size, **options)
    find_model(name)  # an unknown name has an error of its own
    spec, weights = (read_imagenet if pretrained == "imagenet" else read_pretrained)(name)
    given: dict[str, Any] = {"in_channels": spec.in_channels, "num_classes": spec.num_classes}
    given |= spec.options | ({"small_input": True} if spec.small_input else {}) | options
    size, count = input_size or spec.input_size, given["num_classes"]
    net = build(name, size, **given)
    start_from(net, weights, (spec.num_classes, count))
    classes = spec.classes if count == spec.num_classes else tuple(map(str, range(count)))
    channels = given["in_channels"]
    mean, std = (for_channels(values, channels) for values in (spec.mean, spec.std))
    own = {name: value for name, value in given.items() if name not in USUAL}
    small = given.get("small_input", False)
    spec = replace(spec, input_size=size, small_input=small, options=own, mean=mean, std=std)
    return replace(spec, classes=classes, in_channels=channels).attach(net)
