"""The networks: each file contains those of one paper, and `registry` the table of all of them.

A file is imported when one of its names is used, because PyTorch takes seconds to import and the
table needs none of it.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torchcnn.models.registry import MODELS, find_model, list_models, list_pretrained

if TYPE_CHECKING:  # for editors and type checkers, which see what `__getattr__` does
    from torchcnn.models.alexnet import alexnet, tf_alexnet8, tf_alexnet_half
    from torchcnn.models.baseline import tf_baseline, tf_sigmoid_cnn
    from torchcnn.models.create import create_model
    from torchcnn.models.densenet import (
        DenseBlock,
        conv_block,
        densenet,
        densenet121,
        densenet169,
        densenet201,
        transition_block,
    )
    from torchcnn.models.googlenet import (
        ConvBNRelu,
        Inception,
        InceptionBlk,
        googlenet,
        tf_googlenet,
        tf_inception10,
    )
    from torchcnn.models.imagenet import from_torchvision
    from torchcnn.models.lenet import lenet, tf_lenet5
    from torchcnn.models.mlp import mlp, softmax_regression
    from torchcnn.models.nin import nin, nin_block, tf_nin, tf_nin_dense
    from torchcnn.models.resnet import (
        Bottleneck,
        Residual,
        ResnetBlock,
        cifar_resnet,
        resnet18,
        resnet20,
        resnet32,
        resnet34,
        resnet44,
        resnet50,
        resnet56,
        resnet101,
        resnet110,
        resnet152,
        resnet_block,
        tf_resnet18,
        tf_resnet18_pool,
    )
    from torchcnn.models.spec import ModelSpec
    from torchcnn.models.vgg import (
        tf_vgg13,
        tf_vgg16,
        vgg11,
        vgg11_bn,
        vgg13,
        vgg13_bn,
        vgg16,
        vgg16_bn,
        vgg19,
        vgg19_bn,
        vgg_block,
    )

_OTHERS = {  # by file, the names that are not in the table
    "create": ("create_model",),
    "densenet": ("DenseBlock", "conv_block", "transition_block"),
    "googlenet": ("ConvBNRelu", "Inception", "InceptionBlk"),
    "imagenet": ("from_torchvision",),
    "nin": ("nin_block",),
    "resnet": ("Bottleneck", "Residual", "ResnetBlock", "cifar_resnet", "resnet_block"),
    "spec": ("ModelSpec",),
    "vgg": ("vgg_block",),
}
_FILES = {name: model.file for name, model in MODELS.items()}
_FILES |= {name: file for file, names in _OTHERS.items() for name in names}
__all__ = ["MODELS", "find_model", "list_models", "list_pretrained", *_FILES]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Networks(ModuleType):
    """Python binds an imported file to its name here; `lenet` is the network, not its file."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Networks
