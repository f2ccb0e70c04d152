"""The networks: each file contains those of one paper, and `registry` the table of all of them."""

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
from torchcnn.models.registry import MODELS, find_model, list_models
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
from torchcnn.models.weights import list_pretrained

_BLOCKS = (
    "Bottleneck",
    "ConvBNRelu",
    "DenseBlock",
    "Inception",
    "InceptionBlk",
    "Residual",
    "ResnetBlock",
    "conv_block",
    "nin_block",
    "resnet_block",
    "transition_block",
    "vgg_block",
)
_TABLE = ("MODELS", "ModelSpec", "create_model", "find_model", "list_models", "list_pretrained")
__all__ = ["cifar_resnet", "from_torchvision", *_TABLE, *_BLOCKS, *MODELS]
