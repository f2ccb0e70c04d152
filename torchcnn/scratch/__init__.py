"""Everything that the tutorials write by hand, in plain tensor algebra, with one file per topic.

Functions with a counterpart in `torch.nn.functional` take the same arguments and return the same
values and gradients, but for `batch_norm`, which is the tutorial's.
"""

from torchcnn.scratch.activations import leaky_relu, relu, sigmoid, tanh
from torchcnn.scratch.convolution import (
    conv2d,
    conv_matrix,
    conv_transpose2d,
    corr2d,
    depthwise_separable_conv2d,
)
from torchcnn.scratch.data import data_iter, k_fold
from torchcnn.scratch.dropout import dropout
from torchcnn.scratch.gradients import (
    avg_pool2d_backward,
    batch_norm_backward,
    conv2d_backward,
    linear_backward,
    max_pool2d_backward,
    softmax_cross_entropy_backward,
)
from torchcnn.scratch.initialization import (
    glorot_normal_,
    kaiming_normal_,
    kaiming_uniform_,
    normal_,
    uniform_,
    xavier_normal_,
    xavier_uniform_,
)
from torchcnn.scratch.linear import linear
from torchcnn.scratch.losses import cross_entropy, l1_loss, log_softmax, mse_loss, softmax
from torchcnn.scratch.network import from_scratch
from torchcnn.scratch.normalization import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    local_response_norm,
)
from torchcnn.scratch.optimizers import adam, sgd
from torchcnn.scratch.pooling import avg_pool2d, global_avg_pool2d, max_pool2d
from torchcnn.scratch.regression import linreg, perceptron, squared_loss

__all__ = [
    "adam",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "conv2d",
    "conv2d_backward",
    "conv_matrix",
    "conv_transpose2d",
    "corr2d",
    "cross_entropy",
    "data_iter",
    "depthwise_separable_conv2d",
    "dropout",
    "from_scratch",
    "global_avg_pool2d",
    "glorot_normal_",
    "group_norm",
    "instance_norm",
    "k_fold",
    "kaiming_normal_",
    "kaiming_uniform_",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "linear_backward",
    "linreg",
    "local_response_norm",
    "log_softmax",
    "max_pool2d",
    "max_pool2d_backward",
    "mse_loss",
    "normal_",
    "perceptron",
    "relu",
    "sgd",
    "sigmoid",
    "softmax",
    "softmax_cross_entropy_backward",
    "squared_loss",
    "tanh",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
]
