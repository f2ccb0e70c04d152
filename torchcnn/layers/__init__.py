"""Layers that torch.nn does not provide."""

from torchcnn.layers.common import (
    BatchNorm,
    FlattenLayer,
    GlobalAvgPool2d,
    NormLayer,
    as_defined,
    unchanged,
    vector_norm,
)
from torchcnn.layers.tensorflow import (
    KerasBatchNorm2d,
    SameAvgPool2d,
    SameConv2d,
    SameMaxPool2d,
    init_as_keras,
    keras_batch_norm,
    pad_same,
    same_padding,
)

__all__ = [
    "BatchNorm",
    "FlattenLayer",
    "GlobalAvgPool2d",
    "KerasBatchNorm2d",
    "NormLayer",
    "SameAvgPool2d",
    "SameConv2d",
    "SameMaxPool2d",
    "as_defined",
    "init_as_keras",
    "keras_batch_norm",
    "pad_same",
    "same_padding",
    "unchanged",
    "vector_norm",
]
