"""For torch.hub: `torch.hub.load(folder, "lenet", pretrained=True, source="local")`."""

from collections.abc import Callable as _Callable
from typing import Any as _Any

from torch import nn as _nn

from torchcnn.models import MODELS as _MODELS
from torchcnn.models import create_model as _create_model

dependencies = ["torch", "numpy", "safetensors", "tqdm"]


def _entry(name: str) -> _Callable[..., _nn.Module]:
    def build(pretrained: bool = False, **options: _Any) -> _nn.Module:
        return _create_model(name, pretrained=pretrained, **options)

    build.__name__, build.__doc__ = name, _MODELS[name].builder.__doc__
    return build


globals().update({name: _entry(name) for name in _MODELS})
