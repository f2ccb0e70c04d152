"""What is known to be equal in PyTorch and Keras loads, however written; all else is refused.

Mostly two convolutions with something between them.
"""

import operator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcnn import create_model
from torchcnn.keras_io import load_keras_weights, to_keras
from torchcnn.layers import GlobalAvgPool2d, SameAvgPool2d
from torchcnn.scratch import from_scratch

keras = pytest.importorskip("keras", reason="Keras is not installed: pip install .[keras]")
L = keras.layers

pytestmark = [
    pytest.mark.extra,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning"),
]


class Net(nn.Module):
    """Layers and any function of them and of images."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def chain(*between, end=()):
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *between, nn.Conv2d(4, 5, 1), *end)


def called(function):
    """A function of two convolutions of the image, in front of another one."""
    return Net(lambda net, x: net.c(function(net.a(x), net.b(x))), a=nn.Conv2d(3, 4, 3, padding=1),
               b=nn.Conv2d(3, 4, 1), c=nn.Conv2d(4, 5, 1))  # fmt: skip


def convs(*between, inside=None, end=(), start=()):
    return keras.Sequential([
        keras.Input((9, 9, 3)), *start, L.Conv2D(4, 3, padding="same", activation=inside, name="a"),
        *between, L.Conv2D(5, 1, name="b"), *end,
    ])  # fmt: skip


def joined(join):
    image = keras.Input((9, 9, 3))
    parts = [L.Conv2D(4, 3, padding="same")(image), L.Conv2D(4, 1)(image)]
    return keras.Model(image, L.Conv2D(5, 1)(join(parts)))


def dense(*layers, shape=(8, 8, 3)):
    return keras.Sequential([keras.Input(shape), *layers, L.Dense(5)])


def of_vectors(*layers, features=192):
    return nn.Sequential(*layers, nn.Linear(features, 5))


def refused(net, load, match):
    """One sentence says why, and the network stays as it was."""
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(ValueError, match=match) as error:
        load()
    words = str(error.value)
    assert "\n" not in words and "damaged" not in words and "cannot be read" not in words
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def random_weights(model):
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.uniform(0.1, 0.5, tuple(variable.shape)))
    return model


# What the networks of test_load.py do not have.
EQUAL = {
    "relu as a layer inside": lambda: (chain(nn.ReLU(inplace=True)), convs(inside=L.ReLU())),
    "linear": lambda: (chain(nn.Identity()), convs(L.Activation("linear"), inside="linear")),
    "same average": lambda: (chain(SameAvgPool2d(2)), convs(L.AveragePooling2D(2, padding="same"))),
    "uneven padding": lambda: (
        chain(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(4, 4, 3, 2, padding=(0, 1))),
        convs(L.ZeroPadding2D(((0, 1), (2, 3))), L.Conv2D(4, 3, 2))),
    "one pixel": lambda: (chain(nn.MaxPool2d(1)), convs()),
    "bytes": lambda: (chain(nn.ReLU()), convs(inside="relu", start=[L.Rescaling(1 / 255)])),
    "by hand": lambda: (from_scratch(chain(nn.Sigmoid())), convs(L.Activation("sigmoid"))),
    "a global pixel": lambda: (
        of_vectors(GlobalAvgPool2d(), nn.Flatten(), features=3),
        dense(L.GlobalAveragePooling2D(keepdims=True), L.Flatten())),
    "a concatenation": lambda: (
        Net(lambda net, x: net.b(torch.cat((net.a(x), x), 1)), a=nn.Conv2d(3, 4, 1),
            b=nn.Conv2d(7, 5, 1)), concatenated()),
}  # fmt: skip


def concatenated():
    image = keras.Input((9, 9, 3))
    return keras.Model(image, L.Conv2D(5, 1)(L.concatenate([L.Conv2D(4, 1)(image), image], axis=3)))


@torch.no_grad()
@pytest.mark.parametrize("case", EQUAL)
def test_what_computes_the_same_loads(case):
    net, model = EQUAL[case]()
    load_keras_weights(net.eval(), random_weights(model))
    x = np.random.default_rng(1).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    theirs = model(x * 255 if case == "bytes" else x, training=False)
    theirs = np.array(keras.ops.convert_to_numpy(theirs))
    ours = net(torch.tensor(x).movedim(3, 1)).movedim(1, -1).reshape(theirs.shape)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert theirs.std() > 1e-3


# What the message says, and a network with a model to which it applies.
DIFFERENT = {
    "its b is a convolution, where the network's 1 is a relu$": lambda: (
        chain(nn.ReLU()), convs()),
    r"its re_lu\w* has no counterpart": lambda: (chain(), convs(end=[L.ReLU()])),
    "the network's 2 has no counterpart": lambda: (chain(end=[nn.ReLU()]), convs()),
    r"has pool_size \(2, 2\), where the network's 1 has \(3, 3\)": lambda: (
        chain(nn.MaxPool2d(3, 2)), convs(L.MaxPooling2D(2))),
    r"pooling2d\w* has padding same, where the network's 1 has \(1, 1, 1, 1\)": lambda: (
        chain(nn.MaxPool2d(3, 2, 1)), convs(L.MaxPooling2D(3, 2, "same"))),
    r"its zero_padding2d\w* is a padding": lambda: (
        chain(nn.MaxPool2d(2)), convs(L.ZeroPadding2D(1), L.MaxPooling2D(2))),
    r"conv2d\w* has padding same, where the network's 1 has \(1, 1, 1, 1\)": lambda: (
        chain(nn.Conv2d(4, 4, 3, 2, padding=1)), convs(L.Conv2D(4, 3, 2, padding="same"))),
    "has epsilon 0.001": lambda: (chain(nn.BatchNorm2d(4)), convs(L.BatchNormalization())),
    "has use_bias False, where the network's 1 has True": lambda: (
        chain(nn.Conv2d(4, 4, 1)), convs(L.Conv2D(4, 1, use_bias=False))),
    "is a Multiply, which is not supported": lambda: (called(operator.add), joined(L.Multiply())),
    "joins images and vectors": lambda: (called(operator.add), joined(
        lambda parts: L.Add()([parts[0], L.GlobalAveragePooling2D()(parts[1])]))),
    "has not one input but 2": lambda: (chain(), keras.Model(
        [i := keras.Input((9, 9, 3)), j := keras.Input((9, 9, 3))], L.Add()([i, j]))),
    "is a vector, with channels and pixels in an unknown order": lambda: (
        of_vectors(nn.Flatten(), features=12), dense(shape=(12,))),
    r"dense\w* is a dense layer that takes images, not vectors": lambda: (
        of_vectors(nn.Flatten()), dense()),
    "0 is a dense layer that takes images, not vectors": lambda: (of_vectors(), dense(L.Flatten())),
    "the output takes the images that 2 flattens.* only dense layers may": lambda: (
        chain(end=[nn.Flatten()]), convs(end=[L.Flatten()])),
    "1 takes the images that 0 flattens": lambda: (  # a norm of rows
        of_vectors(nn.Flatten(), nn.BatchNorm1d(192, 1e-3)),
        dense(L.Flatten(), L.BatchNormalization())),
    r"is a Rescaling with scale 0.0078\d* and offset -1: images go in as \[0, 1\] here": lambda: (
        chain(), convs(start=[L.Rescaling(1 / 127.5, -1)])),
    "is a Rescaling .* right behind the input": lambda: (chain(), convs(L.Rescaling(1 / 255))),
    "has its channels first": lambda: (
        of_vectors(nn.Flatten()), dense(L.Flatten(data_format="channels_first"))),
}  # fmt: skip


@pytest.mark.parametrize("match", DIFFERENT)
def test_what_computes_something_else_is_refused(match):
    net, model = DIFFERENT[match]()
    refused(net, lambda: load_keras_weights(net, model), match)


# Layers of PyTorch that the table lacks, or with an option that it lacks.
UNKNOWN = [nn.Tanh(), nn.ReLU6(), nn.Softmax(), nn.Dropout2d(), nn.GroupNorm(1, 4),
           nn.AdaptiveAvgPool2d(1), nn.ConvTranspose2d(4, 4, 1)]  # fmt: skip
OPTIONS = {
    "groups 2": nn.Conv2d(4, 4, 1, groups=2),
    r"dilation \(2, 2\)": nn.Conv2d(4, 4, 3, dilation=2),
    "padding_mode 'reflect'": nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    "affine False": nn.BatchNorm2d(4, affine=False),
    "track_running_stats False": nn.BatchNorm2d(4, track_running_stats=False),
    "momentum None": nn.BatchNorm2d(4, momentum=None),
    "ceil_mode True": nn.MaxPool2d(2, ceil_mode=True),
    "dilation 2": nn.MaxPool2d(2, dilation=2),
    "divisor_override 2": nn.AvgPool2d(2, divisor_override=2),
    "return_indices True": nn.MaxPool2d(1, return_indices=True),
    r"a padding of \(1, 1, 1, 1\)": nn.AvgPool2d(3, 1, 1),
    r"a padding of \(1, 1, 1, 1\),": nn.MaxPool2d(2, 2, 1),
    "cuts pixels off": nn.ZeroPad2d(-1),
    "start_dim 2": nn.Flatten(2),
}
FUNCTIONS = {
    "relu": lambda x, y: torch.relu(x),
    "add in add": lambda x, y: x + 1,
    "pad": lambda x, y: F.pad(x, (0, 0, 0, 0, 1, 1), mode="replicate"),
    "pad in pad_1": lambda x, y: F.pad(F.pad(x, (0,) * 6), (0,) * 6, value=1.0),
    "pad in pad": lambda x, y: F.pad(x, (0, 0, 0, 0, 0, -1)),
    "getitem in getitem": lambda x, y: x[:, :, 1:, 1:],
    "getitem in getitem_1": lambda x, y: x[:, :, ::2, ::2][:, :2],
    "add": lambda x, y: torch.add(x, y, alpha=0.5),
    "cat": lambda x, y: torch.cat((x, y), 2),
}
REFUSED = [
    *(
        (chain(layer), f"1 is a {type(layer).__name__}, which is not supported")
        for layer in UNKNOWN
    ),
    *((chain(layer), f"1 (has )?{match}") for match, layer in OPTIONS.items()),
    *((called(call), f"the network computes {name}") for name, call in FUNCTIONS.items()),
]


@pytest.mark.parametrize(("net", "match"), REFUSED, ids=[match for _, match in REFUSED])
def test_what_is_not_in_the_table_is_refused_in_both_directions(net, match):
    refused(net, lambda: load_keras_weights(net, convs(inside="relu")), match)
    refused(net, lambda: to_keras(net), match)


def double(x):
    return 2 * x


class Dropout(L.Dropout):
    """A class of the user's by Keras's name."""

    def call(self, x, training=None):
        return 2 * x


# Layers of Keras, and what is said of them.
KERAS_UNKNOWN = {
    "is a tanh, which is not supported": lambda: L.Activation("tanh"),
    "is double, not of Keras": lambda: L.Activation(double),
    "max_value 0.0": lambda: L.ReLU(0.0),
    "negative_slope 0.1": lambda: L.Activation(L.ReLU(negative_slope=0.1)),
    "threshold 1.0": lambda: L.ReLU(threshold=1.0),
    "a DepthwiseConv2D": lambda: L.DepthwiseConv2D(1),
    "groups 2": lambda: L.Conv2D(4, 1, groups=2),
    r"dilation_rate \[2, 2\]": lambda: L.Conv2D(4, 3, dilation_rate=2),
    "works along axis 1": lambda: L.BatchNormalization(axis=1),
    "permutes the axes": lambda: L.Permute((3, 1, 2)),
    "is a Dropout of .*, not of Keras": lambda: Dropout(0.5),
    "is a Reshape": lambda: L.Reshape((81, 1, 4)),
    "called with training=True": lambda: lambda x: L.Dropout(0.5)(x, training=True),
}  # fmt: skip


@pytest.mark.parametrize("match", KERAS_UNKNOWN)
def test_what_keras_has_beside_the_table_is_refused(match):
    image = keras.Input((9, 9, 3))
    between = KERAS_UNKNOWN[match]()(L.Conv2D(4, 3, padding="same")(image))
    model, net = keras.Model(image, L.Conv2D(5, 1)(between)), chain(nn.ReLU())
    refused(net, lambda: load_keras_weights(net, model), match)


CHANGES = {
    "1 has hooks": lambda net: net[1].register_forward_hook(lambda *args: 2 * args[2]),
    "the network has hooks": lambda net: net.register_forward_pre_hook(lambda _, args: args),
    "0 has hooks, .* or a forward pass of its own": lambda net: setattr(net[0], "forward", double),
    "0 has hooks, parametrizations": lambda net: nn.utils.parametrizations.weight_norm(net[0]),
    "layer 0 has hooks": lambda net: nn.utils.spectral_norm(net[0]),
    "weights of its layer 2 twice": lambda net: setattr(net[2], "weight", net[0].weight),
    "weights of its layer 0 twice": lambda net: net.append(net[0]),
}


@pytest.mark.parametrize("match", CHANGES)
def test_layers_that_do_more_than_their_class(match):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1))
    CHANGES[match](net)
    model = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(3, 1, activation="relu"),
                              L.Conv2D(3, 1)])  # fmt: skip
    refused(net, lambda: load_keras_weights(net, model), match)


@pytest.mark.parametrize(
    "view",
    [lambda net, y: y, lambda net, y: net.same(y), lambda net, y: net.drop(y),
     lambda net, y: y[:, :, ::1, ::1]],
)  # fmt: skip
def test_an_input_that_is_overwritten_before_another_layer_takes_it(view):
    """Itself, or what lies in the same memory."""
    net = Net(lambda net, x: view(net, y := net.a(x)) + net.relu(y), a=nn.Conv2d(3, 3, 1),
              same=nn.Identity(), drop=nn.Dropout(), relu=nn.ReLU(inplace=True))  # fmt: skip
    refused(net, lambda: to_keras(net), "relu overwrites the input of add")


@torch.no_grad()
def test_vectors_are_flattened_images_of_one_channel():
    model, net = random_weights(dense(shape=(16,))), of_vectors(nn.Flatten(), features=16)
    load_keras_weights(net, model)
    x = torch.rand(2, 1, 4, 4)
    theirs = np.array(keras.ops.convert_to_numpy(model(x.numpy().reshape(2, 16))))
    np.testing.assert_allclose(net(x), theirs, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("swapped", [True, False])
def test_channels_are_counted_through_sums_concatenations_and_paddings(swapped):
    """A wrong number of channels would permute the dense layer's weights wrongly."""

    def network(swapped):
        def forward(net, x):
            y = F.pad(torch.cat((x, net.a(x)), 1), (0, 0, 0, 0, 1, 4))  # 1 + 3 + 4 + 4 channels
            z = net.one(x)  # one channel goes with 12
            return net.b(net.flat(z + y if swapped else y + z))

        return Net(forward, a=nn.Conv2d(3, 4, 1), one=nn.Conv2d(3, 1, 1), flat=nn.Flatten(),
                   b=nn.Linear(12 * 64, 5))  # fmt: skip

    net, twin = network(swapped), network(not swapped)
    model = to_keras(net, (3, 8, 8))
    x = torch.rand(2, 3, 8, 8)
    theirs = np.array(keras.ops.convert_to_numpy(model(x.movedim(1, 3).numpy())))
    np.testing.assert_allclose(net(x), theirs, rtol=1e-4, atol=1e-5)
    load_keras_weights(twin, model)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("swapped", [True, False])
def test_equal_terms_of_which_one_is_used_again_are_not_exchanged(swapped):
    """In one order the graphs are equal as listed; the other one is refused, not mixed up."""
    image = keras.Input((8, 8, 3))
    a, b = L.Conv2D(3, 1)(image), L.Conv2D(3, 1)(image)
    total = L.Add()([b, a] if swapped else [a, b])
    model = random_weights(keras.Model(image, L.Conv2D(5, 1)(L.Concatenate()([total, a]))))

    def forward(net, x):
        a, b = net.a(x), net.b(x)
        return net.c(torch.cat((a + b, a), 1))

    net = Net(forward, a=nn.Conv2d(3, 3, 1), b=nn.Conv2d(3, 3, 1), c=nn.Conv2d(6, 5, 1))
    if swapped:
        return refused(net, lambda: load_keras_weights(net, model), "different inputs")
    load_keras_weights(net, model)
    assert np.array_equal(
        net.a.weight.detach()[:, :, 0, 0].T, np.array(model.layers[1].kernel)[0, 0]
    )


@pytest.mark.parametrize("ending", ["", "m.keras", "m.h5"])
def test_a_graph_is_compared_and_probabilities_at_the_end_are_left_out(ending, tmp_path):
    def load(inside="sigmoid", *end):
        model = convs(inside=inside, end=end)
        if ending:
            model.save(tmp_path / ending)
        load_keras_weights(net, tmp_path / ending if ending else model)

    net = chain(nn.Sigmoid())
    message = "its activation of a is a relu, where the network's 1 is a sigmoid$"
    refused(net, lambda: load("relu"), message)
    for end in ([], [L.Softmax()], [L.Activation("sigmoid")]):
        load("sigmoid", *end)


def test_a_subclassed_model_is_loaded_with_a_warning():
    class Subclassed(keras.Model):
        def __init__(self, filters):  # without `get_config`, it has no config
            super().__init__()
            self.a, self.b = L.Conv2D(4, 3, padding="same"), L.Conv2D(filters, 1)

        def call(self, x):
            return self.b(self.a(x))

    model = Subclassed(5)
    model(np.zeros((1, 9, 9, 3), np.float32))
    with pytest.warns(UserWarning, match="were not compared: the Subclassed has no graph"):
        load_keras_weights(chain(nn.ReLU()), model)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_there_and_back(dtype, tmp_path):
    net = create_model("mlp").to(getattr(torch, dtype))
    model = to_keras(net)
    assert {str(variable.dtype) for variable in model.variables} == {dtype}
    files = [tmp_path / "m.keras", tmp_path / "m.h5"]
    for path in files:
        model.save(path)
    for source in (model, *files):
        twin = create_model("mlp")
        load_keras_weights(twin, source)
        for a, b in zip(net.parameters(), twin.parameters(), strict=True):
            assert b.dtype == torch.float32 and torch.equal(a.float(), b)
