"""What is not known to be equal in PyTorch and Keras is refused; what is loads, however written."""

import operator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcnn.keras_io import load_keras_weights, to_keras
from torchcnn.scratch import from_scratch

keras = pytest.importorskip("keras", reason="Keras is not installed: pip install .[keras]")
L = keras.layers

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Net(nn.Module):
    """Layers and any function of them and of images."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def conv(*sizes, **options):
    return nn.Conv2d(*sizes, **options)


def between(*layers, size=8):
    """Two convolutions in Keras and something between them."""
    return keras.Sequential([keras.Input((size, size, 3)), L.Conv2D(4, 3, padding="same"), *layers,
                             L.Conv2D(5, 1)])  # fmt: skip


def chain(*layers):
    return nn.Sequential(conv(3, 4, 3, padding=1), *layers, conv(4, 5, 1))


def with_function(function, **layers):
    layers = {"a": conv(3, 4, 3, padding=1), "b": conv(4, 5, 1)} | layers
    return Net(lambda net, x: net.b(function(net.a(x))), **layers)


def random_weights(model):
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.uniform(0.1, 0.5, tuple(variable.shape)))
    return model


@torch.no_grad()
def check_equal(net, model, shape=(8, 8, 3)):
    load_keras_weights(net.eval(), random_weights(model))
    x = np.random.default_rng(1).normal(0, 2, size=(2, *shape)).astype(np.float32)
    theirs = np.array(keras.ops.convert_to_numpy(model(x, training=False)))
    ours = net(torch.tensor(x).movedim(-1, 1))
    ours = ours.movedim(1, -1).reshape(theirs.shape)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert theirs.std() > 1e-3


def check_refused(net, model, match):
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(ValueError, match=match) as error:
        load_keras_weights(net, model)
    assert "\n" not in str(error.value) and "damaged" not in str(error.value)
    assert "cannot be read" not in str(error.value)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


# --- activations --------------------------------------------------------------------------------

# The layer, Keras's name, and layers of the same class that compute something else.
ACTIVATIONS = [
    (nn.ReLU(), "relu", []), (nn.ReLU6(), "relu6", []), (nn.Sigmoid(), "sigmoid", []),
    (nn.Tanh(), "tanh", []), (nn.SiLU(), "silu", []), (nn.Mish(), "mish", []),
    (nn.SELU(), "selu", []), (nn.Softsign(), "softsign", []), (nn.LogSigmoid(), "log_sigmoid", []),
    (nn.Tanhshrink(), "tanh_shrink", []), (nn.Hardswish(), "hard_silu", []),
    (nn.LeakyReLU(0.2), "leaky_relu", [nn.LeakyReLU(), nn.LeakyReLU(0.200001)]),
    (nn.ELU(), "elu", [nn.ELU(0.5)]), (nn.CELU(), "celu", [nn.CELU(2.0)]),
    (nn.GELU(), "gelu", [nn.GELU("tanh")]),
    (nn.Softplus(), "softplus", [nn.Softplus(beta=5), nn.Softplus(threshold=1)]),
    (nn.Hardtanh(), "hard_tanh", [nn.Hardtanh(-2, 2), nn.Hardtanh(-1, 2), nn.Hardtanh(0, 6)]),
    (nn.Softshrink(), "soft_shrink", [nn.Softshrink(1)]),
    (nn.Hardshrink(), "hard_shrink", [nn.Hardshrink(1)]),
    (nn.Softmax(1), "softmax", [nn.Softmax(2), nn.Softmax(-1), nn.Softmax(0), nn.Softmax(None)]),
    (nn.LogSoftmax(-3), "log_softmax", [nn.LogSoftmax(3), nn.LogSoftmax(-1)]),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "name", "others"), ACTIVATIONS, ids=[a[1] for a in ACTIVATIONS])
def test_an_activation_is_equal_with_these_options_and_no_others(layer, name, others):
    check_equal(chain(layer), between(L.Activation(name)))
    for other in others:
        check_refused(chain(other), between(L.Activation(name)), "network's 1 has|layer 1 works")


@pytest.mark.parametrize(
    "layer", [nn.Hardsigmoid(), nn.Threshold(0.1, 0.0), nn.RReLU(), nn.PReLU(), nn.GLU(1),
              nn.Softmin(1), nn.Softmax2d(), nn.AdaptiveAvgPool2d(2), nn.AdaptiveAvgPool2d((1, 2)),
              nn.AdaptiveMaxPool2d(2), nn.Unflatten(1, (2, 2)), nn.Flatten(2), nn.PixelShuffle(1),
              nn.Upsample(scale_factor=1), nn.LPPool2d(1, 1), nn.CircularPad2d(1),
              nn.ZeroPad2d(-1), nn.AvgPool2d(1, divisor_override=2), nn.ChannelShuffle(2),
              nn.MaxPool2d(1, return_indices=True)],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_layers_that_the_model_does_not_have(layer):
    names = ("relu", "hard_sigmoid", "linear", "softmax", "softplus")
    for name in names if not isinstance(layer, nn.PReLU) else ("relu",):
        check_refused(chain(layer), between(L.Activation(name)), "1 is an? |1 has |hard_sigmoid")


def double(x):
    return 2 * x


def test_activations_that_only_keras_has():
    slope, axis = L.LeakyReLU(negative_slope=0.3), L.Softmax(axis=1)
    for layer, theirs, match in [
        (nn.ReLU(), L.ReLU(max_value=0.0), "max_value 0.0"),
        (nn.LeakyReLU(), L.Activation(slope), "slope 0.3"),
        (nn.Softmax(1), L.Activation(axis), "works along axis 1"),
        (nn.ReLU(), L.Activation("hard_sigmoid"), "hard_sigmoid"),
        (nn.ReLU(), L.Activation(double), "is double, not of Keras"),
        (nn.ReLU(), L.Activation("exponential"), "exponential"),
    ]:
        check_refused(chain(layer), between(theirs), match)


# --- functions ----------------------------------------------------------------------------------


def sums(**options):
    """A sum in Keras of two convolutions, and a third one."""
    image = keras.Input((8, 8, 3))
    joined = L.Add()([L.Conv2D(4, 3, padding="same")(image), L.Conv2D(4, 1)(image)])
    return keras.Model(image, L.Conv2D(5, 1)(joined))


def of_two(function):
    return Net(lambda net, x: net.c(function(net.a(x), net.b(x))),
               a=conv(3, 4, 3, padding=1), b=conv(3, 4, 1), c=conv(4, 5, 1))  # fmt: skip


SUMS = {
    "alpha": lambda x, y: torch.add(x, y, alpha=0.5),
    "a method's alpha": lambda x, y: x.add(y, alpha=0.5),
    "in place": lambda x, y: x.add_(y, alpha=0.5),
    "a difference": torch.sub, "a difference by sign": operator.sub, "a product": operator.mul,
    "a maximum": torch.maximum, "a third number": lambda x, y: x + y + 1,
    "a factor": lambda x, y: x + 2 * y, "a lerp": lambda x, y: torch.lerp(x, y, 0.5),
    "twice": lambda x, y: x + x + y,
}  # fmt: skip


@pytest.mark.parametrize("case", SUMS)
def test_what_is_no_sum_is_not_taken_for_one(case):
    check_refused(of_two(SUMS[case]), sums(), "the network computes|different layers")


@pytest.mark.parametrize(
    "function", [operator.add, torch.add, lambda x, y: torch.add(y, x, alpha=1)]
)
def test_a_sum(function):
    check_equal(of_two(function), sums())


IDLE = {
    "a number": lambda x: x + 1, "a factor": lambda x: x * 2, "interpolation":
    lambda x: F.interpolate(x, scale_factor=1), "a mean over channels":
    lambda x: x.mean(1, keepdim=True), "a mean over rows": lambda x: x.mean((2,), keepdim=True),
    "reflection": lambda x: F.pad(x, (0, 0, 0, 0, 1, 1), mode="replicate"),
    "a padding of ones": lambda x: F.pad(x, (0, 0, 0, 0, 0, 0), value=1.0),
    "a cut of channels": lambda x: F.pad(x, (0, 0, 0, 0, 0, -1)),
    "a transposition": lambda x: x.transpose(2, 3), "a permutation":
    lambda x: x.permute(0, 1, 3, 2), "a flip": lambda x: x.flip(1),
    "a reshape": lambda x: x.reshape(-1, 4, 4, 16), "a half": lambda x: x[:, :2],
    "a pooling": lambda x: F.adaptive_avg_pool2d(x, 4),
    "relu in place of what is used again":
    lambda x: F.max_pool2d(F.relu(x, inplace=True), 1) + x,
}  # fmt: skip


@pytest.mark.parametrize("case", IDLE)
def test_functions_that_the_model_does_not_have(case):
    check_refused(with_function(IDLE[case]), between(), "the network|is a|overwrites")


def test_concatenation_along_the_channels_alone():
    image = keras.Input((8, 8, 3))
    joined = L.Concatenate()([L.Conv2D(4, 3, padding="same")(image), L.Conv2D(4, 1)(image)])
    model = keras.Model(image, L.Conv2D(5, 1)(joined))

    def net(function):
        return Net(lambda net, x: net.c(function(net.a(x), net.b(x))),
                   a=conv(3, 4, 3, padding=1), b=conv(3, 4, 1), c=conv(8, 5, 1))  # fmt: skip

    check_equal(net(lambda x, y: torch.cat((x, y), -3)), model)
    for function in (lambda x, y: torch.cat((x, y), 2), lambda x, y: torch.cat((x, y), -1),
                     lambda x, y: torch.cat((x, y)), lambda x, y: torch.stack((x, y), 1),
                     lambda x, y: torch.cat((y, x, y), 1)):  # fmt: skip
        check_refused(net(function), model, "computes|different layers|no counterpart|has kernel")


# --- what lies around a layer -------------------------------------------------------------------


def test_layers_that_do_more_than_their_class():
    def hooked(net):
        net[1].register_forward_hook(lambda *args: 2 * args[2])

    def hooked_before(net):
        net.register_forward_pre_hook(lambda _, args: (2 * args[0],))

    def forwarded(net):
        net[0].forward = torch.relu

    def parametrized(net):
        nn.utils.parametrizations.weight_norm(net[0])

    def spectral(net):
        nn.utils.spectral_norm(net[0])

    def tied(net):
        net[2].weight = net[0].weight

    for change in (hooked, hooked_before, forwarded, parametrized, spectral, tied):
        net = nn.Sequential(conv(3, 3, 1), nn.ReLU(), conv(3, 3, 1))
        change(net)
        model = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(3, 1, activation="relu"),
                                  L.Conv2D(3, 1)])  # fmt: skip
        check_refused(net, model, "hooks|weights of its layer 2 twice|spectral|SpectralNorm")


def test_hand_written_layers_load():
    check_equal(from_scratch(chain(nn.LeakyReLU(0.2))), between(L.Activation("leaky_relu")))


def test_layers_that_keras_calls_otherwise():
    class Dropout(L.Dropout):  # a class of the user's by Keras's name
        def call(self, x, training=None):
            return 2 * x

    image = keras.Input((8, 8, 3))
    features = L.Conv2D(4, 3, padding="same")(image)
    for layer, options, match in [
        (L.Dropout(0.5), {"training": True}, "is called with training=True"),
        (L.BatchNormalization(), {"training": True}, "is called with training=True"),
        (Dropout(0.5), {}, "is a Dropout of .*, not of Keras"),
    ]:
        model = keras.Model(image, L.Conv2D(5, 1)(layer(features, **options)))
        norm = [nn.BatchNorm2d(4, 1e-3)] if isinstance(layer, L.BatchNormalization) else []
        check_refused(chain(*norm), model, match)


def test_a_second_rescaling_and_groups():
    twice = keras.Sequential([keras.Input((8, 8, 3)), L.Rescaling(1 / 255), L.Rescaling(1 / 255),
                              L.Conv2D(4, 1)])  # fmt: skip
    check_refused(nn.Sequential(conv(3, 4, 1)), twice, "is a Rescaling")
    grouped = keras.Sequential([keras.Input((8, 8, 6)), L.Conv2D(4, 1, groups=2)])
    check_refused(nn.Sequential(conv(3, 4, 1)), grouped, "has groups 2")
    check_equal(nn.Sequential(conv(6, 4, 1, groups=2)), grouped, (8, 8, 6))


# --- flattening ---------------------------------------------------------------------------------


def dense(*layers, shape=(8, 8, 3)):
    return keras.Sequential([keras.Input(shape), *layers])


FLAT = {
    "in front of a convolution": (
        [nn.Flatten(), nn.Unflatten(1, (3, 8, 8)), conv(3, 4, 1)], [L.Conv2D(4, 1)]),
    "to another image": (
        [nn.Flatten(), nn.Unflatten(1, (12, 4, 4)), conv(12, 4, 1)], None),
    "to one pixel": (
        [nn.Flatten(), nn.Unflatten(1, (192, 1, 1)), conv(192, 4, 1)],
        [L.Flatten(), L.Reshape((1, 1, 192)), L.Conv2D(4, 1)]),
    "to a column": ([conv(3, 4, 1)], [L.Conv2D(4, 1), L.GlobalAveragePooling2D(),
                                      L.Reshape((4, 1, 1)), L.Conv2D(4, 1)]),
    "a norm of rows": (
        [nn.Flatten(), nn.BatchNorm1d(192, 1e-3), nn.Linear(192, 4)],
        [L.Flatten(), L.BatchNormalization(), L.Dense(4)]),
    "at the end": ([conv(3, 4, 1), nn.Flatten()], [L.Conv2D(4, 1), L.Flatten()]),
    "not at all": ([conv(3, 4, 1), nn.Linear(8, 5)], [L.Conv2D(8, 1), L.Dense(5)]),
    "not in Keras": ([conv(3, 8, 1), nn.Flatten(), nn.Linear(512, 5)],
                     [L.Conv2D(8, 1), L.Dense(5)]),
    "softmax of all": ([nn.Flatten(), nn.Softmax(1), nn.Linear(192, 5)],
                       [L.Softmax(), L.Flatten(), L.Dense(5)]),
}  # fmt: skip


@pytest.mark.parametrize("case", FLAT)
def test_flattening_is_compared(case):
    layers, theirs = FLAT[case]
    model = dense(*theirs) if theirs else dense(L.Conv2D(4, 1), shape=(4, 4, 12))
    check_refused(nn.Sequential(*layers), model, ".")


def test_ways_to_flatten():
    pool, mean = nn.AdaptiveAvgPool2d(1), L.GlobalAveragePooling2D()
    for layers, theirs in [
        ([nn.Flatten(), nn.Tanh(), nn.Linear(192, 5)], [L.Activation("tanh"), L.Flatten()]),
        ([nn.MaxPool2d(2), nn.Flatten(), nn.ReLU(), nn.Linear(48, 5)],
         [L.ReLU(), L.MaxPooling2D(), L.Flatten()]),
        ([nn.Tanh(), nn.Flatten(), nn.Linear(192, 5)], [L.Reshape((192,)), L.Activation("tanh")]),
        ([pool, nn.Flatten(), nn.Linear(3, 5)], [mean]),
        ([pool, nn.Flatten(), nn.Softmax(-1), nn.Linear(3, 5)],
         [L.GlobalAveragePooling2D(keepdims=True), L.Softmax(), L.Flatten()]),
        ([pool, nn.Flatten(), nn.Unflatten(1, (3, 1, 1)), conv(3, 3, 1), nn.Flatten(),
          nn.Linear(3, 5)], [mean, L.Reshape((1, 1, 3)), L.Conv2D(3, 1), L.Flatten()]),
    ]:  # fmt: skip
        check_equal(nn.Sequential(*layers), dense(*theirs, L.Dense(5)))


@torch.no_grad()
def test_vectors():
    """Their order is known if they never were images, or were images of one channel."""
    check_equal(nn.Sequential(nn.Linear(12, 5)), dense(L.Dense(5), shape=(12,)), (12,))
    model = random_weights(dense(L.Dense(5), shape=(16,)))
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    load_keras_weights(net, model)
    x = torch.rand(2, 1, 4, 4)
    theirs = np.array(keras.ops.convert_to_numpy(model(x.numpy().reshape(2, 16))))
    np.testing.assert_allclose(net(x), theirs, rtol=1e-5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    check_refused(net, dense(L.Dense(5), shape=(12,)), "is a vector, with channels and pixels")
    check_refused(nn.Sequential(nn.Linear(8, 5)), dense(L.Dense(5), shape=(8, 8, 8)), "images")
    with pytest.raises(ValueError, match="layer 0 takes vectors"):
        to_keras(nn.Sequential(nn.Linear(12, 5)))


# --- the order of terms, and channels that are added --------------------------------------------


def padded(swapped):
    def forward(net, x):
        y, p = net.a(x), F.pad(input=x, pad=(0, 0, 0, 0, 1, 4))
        return net.b(net.flat(p + y if swapped else y + p))

    layers = {"a": conv(3, 8, 3, padding=1), "flat": nn.Flatten(), "b": nn.Linear(8 * 64, 5)}
    return Net(forward, **layers)


@torch.no_grad()
@pytest.mark.parametrize("swapped", [True, False])
def test_added_channels_count_in_whatever_order_terms_are_written(swapped):
    net, twin = padded(swapped), padded(not swapped)
    model = to_keras(net, (3, 8, 8))
    x = torch.rand(2, 3, 8, 8)
    theirs = np.array(keras.ops.convert_to_numpy(model(x.movedim(1, 3).numpy())))
    np.testing.assert_allclose(net(x), theirs, rtol=1e-4, atol=1e-5)
    load_keras_weights(twin, model)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


@torch.no_grad()
def test_joined_images_keep_their_channels():
    """The image itself is among them, and a sum with one channel has as many as the other term."""
    layers = {"a": (3, 4, 1), "one": (3, 1, 1)}

    def network(function):
        made = {name: conv(*sizes) for name, sizes in layers.items()}
        made |= {"flat": nn.Flatten(), "b": nn.Linear(7 * 64, 5)}
        joined = lambda net, x: function(torch.cat((x, net.a(x)), 1), net.one(x))  # noqa: E731
        return Net(lambda net, x: net.b(net.flat(joined(net, x))), **made)

    net, twin = network(lambda x, y: x + y), network(lambda x, y: y + x)
    model = to_keras(net, (3, 8, 8))
    x = torch.rand(2, 3, 8, 8)
    theirs = np.array(keras.ops.convert_to_numpy(model(x.movedim(1, 3).numpy())))
    np.testing.assert_allclose(net(x), theirs, rtol=1e-4, atol=1e-5)
    load_keras_weights(twin, model)
    assert torch.equal(net.b.weight, twin.b.weight)


@torch.no_grad()
@pytest.mark.parametrize("swapped", [True, False])
def test_equal_terms_are_told_apart_by_what_becomes_of_them(swapped):
    """a(x) + b(x) are alike, but a(x) is used once more."""
    image = keras.Input((8, 8, 3))
    a, b = L.Conv2D(3, 1)(image), L.Conv2D(3, 1)(image)
    total = L.Add()([b, a] if swapped else [a, b])
    model = keras.Model(image, L.Conv2D(5, 1)(L.Concatenate()([total, a])))

    def forward(net, x):
        a, b = net.a(x), net.b(x)
        return net.c(torch.cat((a + b, a), 1))

    check_equal(Net(forward, a=conv(3, 3, 1), b=conv(3, 3, 1), c=conv(6, 5, 1)), model)


def test_images_and_vectors_do_not_broadcast_alike():
    image = keras.Input((8, 8, 3))
    a = L.Conv2D(8, 1)(image)
    model = keras.Model(image, L.Conv2D(5, 1)(L.Add()([a, L.GlobalAveragePooling2D()(a)])))

    def forward(net, x):
        a = net.a(x)
        return net.b(a + a.mean((2, 3)).mean(0))

    check_refused(Net(forward, a=conv(3, 8, 1), b=conv(8, 5, 1)), model, "computes mean|joins")
