"""Layers without weights: what must agree with a Keras model, and what may be written otherwise."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcnn import create_model
from torchcnn.keras_io import load_keras_weights, to_keras
from torchcnn.layers import GlobalAvgPool2d, SameAvgPool2d, SameMaxPool2d

keras = pytest.importorskip("keras", reason="Keras is not installed: pip install .[keras]")
L = keras.layers

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning"),
]


def lenet5(activation="sigmoid", pool=L.MaxPooling2D, end=None):
    return keras.Sequential([
        keras.Input((32, 32, 3)),
        L.Conv2D(6, 5, activation=activation), pool(2, 2),
        L.Conv2D(16, 5, activation=activation), pool(2, 2), L.Flatten(),
        L.Dense(120, activation=activation), L.Dense(84, activation=activation),
        L.Dense(10, activation=end),
    ])  # fmt: skip


@pytest.mark.parametrize("ending", ["", "m.keras", "m.h5"])
def test_a_relu_is_no_sigmoid(ending, tmp_path):
    def stored(model):
        if ending:
            model.save(tmp_path / ending)
        return tmp_path / ending if ending else model

    net = create_model("tf_lenet5")
    before = [p.clone() for p in net.parameters()]
    for model, match in (
        (lenet5("relu"), r"its activation of conv2d\w* is a ReLU, where the network's stage1.1 is "
                         "a sigmoid$"),
        (lenet5(pool=L.AveragePooling2D), r"its average_pooling2d\w* is an average pooling, where "
                                          "the network's stage1.2 is a max pooling$"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            load_keras_weights(net, stored(model))
        assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a graph was compared: nothing to warn of
        for end in (None, "softmax", "sigmoid"):
            model = stored(lenet5(end=end))
            load_keras_weights(net, model)


# --- a convolution, something, and another convolution ------------------------------------------


class Between(nn.Module):
    """Two convolutions with something between them, and maybe something at the end."""

    def __init__(self, between=None, end=None):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 1)
        self.between, self.end = between or nn.Identity(), end or nn.Identity()

    def forward(self, x):
        return self.end(self.b(self.between(self.a(x))))


class Call(nn.Module):
    """A function as a layer; torch.fx traces into it."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def convs(*between, inside=None, end=(), start=()):
    return keras.Sequential([
        keras.Input((9, 9, 3)), *start, L.Conv2D(4, 3, padding="same", activation=inside, name="a"),
        *between, L.Conv2D(5, 1, name="b"), *end,
    ])  # fmt: skip


def leaky(slope):
    return L.LeakyReLU(negative_slope=slope)


EQUAL = {
    "leaky": lambda: (nn.LeakyReLU(0.1), convs(leaky(0.1))),
    "leaky inside": lambda: (nn.LeakyReLU(0.1), convs(inside=leaky(0.1))),
    "leaky by ReLU": lambda: (nn.LeakyReLU(0.1), convs(L.ReLU(negative_slope=0.1))),
    "leaky by name": lambda: (nn.LeakyReLU(0.2), convs(L.Activation("leaky_relu"))),
    "leaky function": lambda: (Call(lambda x: F.leaky_relu(x, 0.1)), convs(leaky(0.1))),
    "clipped": lambda: (nn.ReLU6(), convs(L.ReLU(6.0))),
    "tanh": lambda: (nn.Tanh(), convs(inside="tanh")),
    "swish": lambda: (nn.SiLU(), convs(L.Activation("swish"))),
    "elu": lambda: (nn.ELU(0.5), convs(L.ELU(0.5))),
    "gelu": lambda: (nn.GELU(), convs(inside="gelu")),
    "linear": lambda: (nn.Identity(), convs(L.Activation("linear"), inside="linear")),
    "dropout": lambda: (nn.Dropout(0.5), convs()),
    "softmax": lambda: (nn.Softmax(1), convs(L.Softmax())),
    "relu behind the pooling": lambda: (
        Call(lambda x: F.relu(F.max_pool2d(x, 2))), convs(L.MaxPooling2D(2), inside="relu")),
    "relu before the pooling": lambda: (
        Call(lambda x: F.max_pool2d(F.relu(x), 3, stride=2)),
        convs(L.MaxPooling2D(3, 2), L.ReLU())),
    "same": lambda: (SameMaxPool2d(2), convs(L.MaxPooling2D(2, padding="same"))),
    "same of stride 1": lambda: (nn.MaxPool2d(3, 1, 1), convs(L.MaxPooling2D(3, 1, "same"))),
    "symmetric": lambda: (
        nn.MaxPool2d(3, 2, 1), convs(L.MaxPooling2D(3, 1, "same"), L.MaxPooling2D(1, 2))),
    "average": lambda: (nn.AvgPool2d(3, 2), convs(L.AveragePooling2D(3, 2))),
    "same average": lambda: (SameAvgPool2d(2), convs(L.AveragePooling2D(2, padding="same"))),
    "padding not counted": lambda: (
        nn.AvgPool2d(3, 1, 1, count_include_pad=False), convs(L.AveragePooling2D(3, 1, "same"))),
    "padding counted": lambda: (
        nn.AvgPool2d(3, 2, 1), convs(L.ZeroPadding2D(1), L.AveragePooling2D(3, 2))),
    "every second pixel": lambda: (
        Call(lambda x: x[:, :, ::2, ::2]), convs(L.AveragePooling2D(1, 2))),
    "one pixel": lambda: (nn.MaxPool2d(1), convs()),
    "global": lambda: (GlobalAvgPool2d(), convs(L.GlobalAveragePooling2D(keepdims=True))),
    "global mean": lambda: (
        Call(lambda x: x.mean((2, 3), keepdim=True)),
        convs(L.GlobalAveragePooling2D(keepdims=True))),
    "adaptive": lambda: (
        nn.AdaptiveAvgPool2d((1, 1)), convs(L.GlobalAveragePooling2D(keepdims=True))),
    "global max": lambda: (
        nn.AdaptiveMaxPool2d(1), convs(L.GlobalMaxPooling2D(keepdims=True))),
    "bytes": lambda: (nn.ReLU(), convs(inside="relu", start=[L.Rescaling(1 / 255)])),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("case", EQUAL)
def test_what_computes_the_same_loads(case):
    between, model = EQUAL[case]()
    net = Between(between).eval()
    load_keras_weights(net, model)
    x = np.random.default_rng(0).normal(size=(2, 9, 9, 3)).astype(np.float32)
    theirs = np.array(keras.ops.convert_to_numpy(model(x * 255 if case == "bytes" else x)))
    ours = net(torch.tensor(x).movedim(3, 1)).movedim(1, 3)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


DIFFERENT = {
    "no activation": (
        lambda: (nn.ReLU(), convs()),
        "its b is a convolution, where the network's between is a ReLU"),
    "one activation too many": (
        lambda: (None, convs(inside="elu")),
        "its activation of a is an elu, where the network's b is a convolution"),
    "another slope": (
        lambda: (nn.LeakyReLU(), convs(leaky(0.3))),
        r"its leaky_re_lu\w* has slope 0.3, where the network's between has 0.01"),
    "another name": (
        lambda: (nn.Tanh(), convs(L.Activation("sigmoid"))),
        r"its activation\w* is a sigmoid, where the network's between is a tanh"),
    "another gelu": (
        lambda: (nn.GELU("tanh"), convs(inside="gelu")), "has approximate 0"),
    "a softmax within": (
        lambda: (nn.ReLU(), convs(inside="softmax")), "its activation of a is a softmax"),
    "a tanh at the end": (
        lambda: (None, convs(end=[L.Activation("tanh")])),
        r"its activation\w* has no counterpart"),
    "a softmax at the network's end": (
        lambda: (None, convs(), nn.Softmax(1)), "the network's end has no counterpart"),
    "a clipped ReLU": (
        lambda: (nn.ReLU(), convs(L.ReLU(4.0))), "is a ReLU with max_value 4.0"),
    "an unknown layer": (
        lambda: (nn.PixelShuffle(1), convs(inside="relu")),
        "between is a PixelShuffle, which is not known to be equal in PyTorch and Keras"),
    "max for average": (
        lambda: (nn.AvgPool2d(2), convs(L.MaxPooling2D(2))),
        r"its max_pooling2d\w* is a max pooling, where the network's between is an average pool"),
    "no pooling": (
        lambda: (nn.MaxPool2d(2), convs()), "is a convolution, where .* between is a max pooling"),
    "another window": (
        lambda: (nn.MaxPool2d(3, 2), convs(L.MaxPooling2D(2))),
        r"has window \(2, 2\), where the network's between has \(3, 3\)"),
    "another stride": (
        lambda: (nn.MaxPool2d(3, 2), convs(L.MaxPooling2D(3))), r"has strides \(3, 3\)"),
    "another padding": (
        lambda: (nn.MaxPool2d(2), convs(L.MaxPooling2D(2, padding="same"))),
        r"has padding same, where the network's between has \(0, 0, 0, 0\)"),
    "a symmetric padding": (
        lambda: (nn.MaxPool2d(3, 2, 1), convs(L.MaxPooling2D(3, 2, "same"))),
        r"has padding same, where the network's between has \(1, 1, 1, 1\)"),
    "a padding that counts": (
        lambda: (nn.AvgPool2d(3, 1, 1), convs(L.AveragePooling2D(3, 1, "same"))),
        "is an average pooling, where the network's between is a padding"),
    "rounding up": (
        lambda: (nn.MaxPool2d(2, ceil_mode=True), convs(L.MaxPooling2D(2))),
        "has ceil_mode False, where the network's between has True"),
    "a global maximum": (
        lambda: (GlobalAvgPool2d(), convs(L.GlobalMaxPooling2D(keepdims=True))),
        "is a global max pooling, where the network's between is a global average pooling"),
    "a cut": (lambda: (Call(lambda x: x[:, :, 1:, 1:]), convs()), "computes getitem"),
    "a mean of channels": (lambda: (Call(lambda x: x.mean(1, keepdim=True)), convs()),
                           "computes mean"),
    "images from -1 to 1": (
        lambda: (None, convs(start=[L.Rescaling(1 / 127.5, -1)])),
        r"is a Rescaling with scale 0.0078\d* and offset -1: images go in as \[0, 1\] here"),
    "a scale within": (
        lambda: (None, convs(L.Rescaling(1 / 255))), r"images go in as \[0, 1\] here"),
}  # fmt: skip


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_computes_something_else_is_refused(case):
    make, match = DIFFERENT[case]
    between, model, *end = make()
    net = Between(between, *end)
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(ValueError, match=match) as error:
        load_keras_weights(net, model)
    assert "\n" not in str(error.value)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_a_subclassed_model_is_loaded_with_a_warning():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b = L.Conv2D(4, 3, padding="same", activation="elu"), L.Conv2D(5, 1)

        def call(self, x):
            return self.b(self.a(x))

    model = Net()
    model(np.zeros((1, 9, 9, 3), np.float32))
    with pytest.warns(UserWarning, match="poolings were not compared: the Net has no graph"):
        load_keras_weights(Between(nn.ReLU()), model)


def test_a_network_deeper_than_the_recursion_limit_loads():
    def deep():
        layers = [layer for _ in range(600) for layer in (nn.Conv2d(1, 1, 1), nn.ReLU())]
        return nn.Sequential(*layers)

    inputs = keras.Input((4, 4, 1))
    model = keras.Sequential([inputs] + [L.Conv2D(1, 1, activation="relu") for _ in range(600)])
    net = deep()
    load_keras_weights(net, model)
    assert net[-2].weight.item() == np.array(model.layers[-1].kernel).item()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("ending", ["", "m.keras", "m.h5"])
def test_half_precision_there_and_back(dtype, ending, tmp_path):
    net = create_model("mlp").to(getattr(torch, dtype))
    model = to_keras(net)
    assert {str(variable.dtype) for variable in model.variables} == {dtype}
    if ending:
        model.save(tmp_path / ending)
    twin = create_model("mlp")
    load_keras_weights(twin, tmp_path / ending if ending else model)
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        assert b.dtype == torch.float32 and torch.equal(a.float(), b)
