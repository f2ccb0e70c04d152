"""torchcnn: the classic CNNs, exactly."""

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
from torchcnn.system import load_triton
from torchcnn.training.loop import evaluate_accuracy, train_ch5

load_triton()  # before TensorFlow, or else neither can be used beside the other

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
