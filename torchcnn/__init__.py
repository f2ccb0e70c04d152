"""torchcnn: the classic CNNs, exactly."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from torchcnn.system import load_triton_before_tensorflow

if TYPE_CHECKING:  # for editors and type checkers, which see what `__getattr__` does
    from torchcnn.data.loader import load_data_fashion_mnist
    from torchcnn.figures.walk import walk
    from torchcnn.layers import BatchNorm, FlattenLayer, GlobalAvgPool2d
    from torchcnn.models import (
        DenseBlock,
        Inception,
        Residual,
        conv_block,
        create_model,
        list_models,
        list_pretrained,
        nin_block,
        resnet_block,
        transition_block,
        vgg_block,
    )
    from torchcnn.models.analysis import receptive_field, summary
    from torchcnn.run.checkpoint import load_model
    from torchcnn.scratch import batch_norm, corr2d, data_iter, linreg, sgd, squared_loss
    from torchcnn.training.loop import evaluate_accuracy, train_ch5

load_triton_before_tensorflow()  # or else neither can be used beside the other

__version__ = "0.1.0"

__all__ = [
    "BatchNorm",
    "DenseBlock",
    "FlattenLayer",
    "GlobalAvgPool2d",
    "Inception",
    "Residual",
    "batch_norm",
    "conv_block",
    "corr2d",
    "create_model",
    "data_iter",
    "evaluate_accuracy",
    "linreg",
    "list_models",
    "list_pretrained",
    "load_data_fashion_mnist",
    "load_model",
    "nin_block",
    "receptive_field",
    "resnet_block",
    "sgd",
    "squared_loss",
    "summary",
    "train_ch5",
    "transition_block",
    "vgg_block",
    "walk",
]

# Where the names are. They are imported when they are used, because PyTorch takes seconds to
# import, and `--help` needs none of it.
_ROOMS = ("models", "layers", "scratch")
_PLACES = (
    *_ROOMS,
    "models.analysis",
    "data.loader",
    "run.checkpoint",
    "training.loop",
    "figures.walk",
)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    for place in _PLACES if name in __all__ else ():
        module = import_module(f"{__name__}.{place}")
        if hasattr(module, name):
            value = globals()[name] = getattr(module, name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
