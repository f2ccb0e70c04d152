"""Networks in two frameworks: the Keras side is built in `keras_networks.py`, independently.

The backend is that of KERAS_BACKEND: TensorFlow by default, torch is tested too.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcnn import create_model, scratch
from torchcnn.keras_io import load_keras_weights, save_keras_weights, to_keras
from torchcnn.models import MODELS

keras = pytest.importorskip("keras", reason="Keras is not installed: pip install .[keras]")
from keras.src.backend.common import dtypes  # noqa: E402
from keras_networks import NETWORKS  # noqa: E402  after the check that Keras is there
from small_networks import ONE_OF_EACH  # noqa: E402

# Keras's own: on TensorFlow it hands its variables to NumPy in a way that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:activations and poolings were not compared:UserWarning"),
]
LINEAGE = sorted(NETWORKS)


def use(dtype):
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)


@pytest.fixture(autouse=True)
def _float64(monkeypatch):
    # On every backend but TensorFlow's, Keras takes float64 down to float32 in a dense layer
    # (keras-team/keras#23704): without this, 1e-6 would be the best that can be asked for.
    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    use("float64")
    yield
    use("float32")


def keras_network(name, size, dropout=0.2, dtype="float64"):
    """A network with random weights, biases and moving statistics."""
    use(dtype)
    build, channels, _, _ = NETWORKS[name]
    net = build(size, channels, dropout)
    rng = np.random.default_rng(0)
    for variable in net.weights:
        value = keras.ops.convert_to_numpy(variable)
        if "seed" in variable.path:
            continue
        if variable.path.endswith("moving_variance"):
            value = rng.uniform(0.5, 2, value.shape)
        elif value.ndim == 1:
            value = value + rng.normal(0, 0.1, value.shape)
        variable.assign(value)
    return net


def torch_network(name, size, dtype=torch.float64):
    channels = NETWORKS[name][1]
    return create_model(name, input_size=size, in_channels=channels).to(dtype).eval()


def images(name, size, count=2):
    x = np.random.default_rng(1).normal(size=(count, size, size, NETWORKS[name][1]))
    return x, torch.from_numpy(x).permute(0, 3, 1, 2)


def outputs(model, x):
    y = model(x, training=False)
    return torch.from_numpy(np.array(keras.ops.convert_to_numpy(y))).reshape(len(x), -1)


@torch.no_grad()
def check_equal(name, net, model, size, tolerance=1e-10, dtype=torch.float64):
    x, images_ = images(name, size)
    theirs = outputs(model, x.astype(str(dtype).removeprefix("torch.")))
    y = net(images_.to(dtype))
    softmax = NETWORKS[name][3]
    torch.testing.assert_close(y.softmax(1) if softmax else y, theirs, rtol=0, atol=tolerance)
    assert theirs.std() > 1e-6  # an output that says nothing would prove nothing


@pytest.mark.parametrize("parity", [0, 1], ids=["even", "odd"])
@pytest.mark.parametrize("name", LINEAGE)
def test_the_lineage_equals_keras(name, parity):
    size = NETWORKS[name][2][parity]
    for dtype, tolerance in (("float64", 1e-10), ("float32", 1e-4)):
        model = keras_network(name, size, dtype=dtype)
        net = torch_network(name, size, getattr(torch, dtype))
        load_keras_weights(net, model)
        check_equal(name, net, model, size, tolerance, getattr(torch, dtype))


# --- training side by side ----------------------------------------------------------------------


def train_in_keras(name, model, optimizer, batches):
    """The losses of one step a batch, and whatever the model adds to them."""
    softmax = NETWORKS[name][3]
    flat = keras.Sequential([model, keras.layers.Flatten()]) if name == "tf_nin_dense" else model
    flat.compile(
        optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=not softmax),
        run_eagerly=True, jit_compile=False,
    )  # fmt: skip
    losses = []
    for x, y in batches:
        flat.reset_metrics()  # what it returns is a running mean
        losses.append(float(flat.train_on_batch(x, y)))
    return losses


def train_by_hand(net, update, batches, penalty):
    """The same steps here, with the optimisers by hand."""
    params = list(net.parameters())
    first, second = ([torch.zeros_like(p) for p in params] for _ in range(2))
    losses = []
    net.train()
    for dropout in (m for m in net.modules() if isinstance(m, nn.Dropout)):
        dropout.p = 0.0
    for step, (x, y) in enumerate(batches, 1):
        x = torch.from_numpy(x).permute(0, 3, 1, 2)
        loss = F.cross_entropy(net(x), torch.from_numpy(y)) + penalty(net)
        net.zero_grad()
        loss.backward()
        update(params, step, first, second)
        losses.append(float(loss.detach()))
    return losses


# Keras's, and ours: (params, step, first, second) -> a step. All numbers are sums of few powers of
# two: on TensorFlow, Keras rounds its 0.9 to float32 before it computes with it in float64.
LR, BETAS = 2**-13, (0.875, 1 - 2**-10)
OPTIMIZERS = {
    "sgd": (
        lambda: keras.optimizers.SGD(64 * LR),
        lambda params, step, first, second: scratch.sgd(params, 64 * LR, 1),
    ),
    "momentum": (
        lambda: keras.optimizers.SGD(64 * LR, momentum=0.875),
        lambda params, step, first, second: scratch.sgd(
            params, 64 * LR, 1, momentum=0.875, velocities=first, lr_in_velocity=True
        ),
    ),
    "adam": (
        lambda: keras.optimizers.Adam(LR, *BETAS),
        lambda params, step, first, second: scratch.adam(
            params, LR, step, first, second, BETAS, eps=1e-7, eps_hat=True
        ),
    ),
}
TRAINED_AT = {"tf_alexnet_half": 67, "tf_nin_dense": 45, "tf_nin": 67, "tf_googlenet": 33,
              "tf_resnet18": 16, "tf_resnet18_pool": 16}  # fmt: skip


# Each network with an optimizer, and each optimizer with the network that has all kinds of layers.
TRAINED_BY = [(name, list(OPTIMIZERS)[i % 3]) for i, name in enumerate(LINEAGE)]
TRAINED_BY += [("tf_baseline", optimizer) for optimizer in OPTIMIZERS]
LARGE = {"tf_vgg13", "tf_vgg16", "tf_resnet18", "tf_resnet18_pool", "tf_alexnet8"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "optimizer"), sorted(set(TRAINED_BY)))
def test_steps_give_the_losses_of_keras(name, optimizer):
    """Ten of them, or four of networks with so many weights that each takes seconds."""
    steps = 4 if name in LARGE else 10
    size = TRAINED_AT.get(name, NETWORKS[name][2][0])
    model, net = keras_network(name, size, dropout=0.0), torch_network(name, size)
    load_keras_weights(net, model)
    rng = np.random.default_rng(2)
    batches = [
        (rng.random((4, size, size, NETWORKS[name][1])), rng.integers(0, 10, 4))
        for _ in range(steps)
    ]
    theirs, ours = OPTIMIZERS[optimizer]
    l2 = 0.01 * (name == "tf_resnet18")  # what the course adds to the loss of this network
    if keras.backend.backend() == "tensorflow":
        l2 = float(np.float32(l2))
    losses = train_in_keras(name, model, theirs(), batches)
    mine = train_by_hand(
        net, ours, batches, lambda net: l2 * (net.head[1].weight ** 2).sum() if l2 else 0
    )
    assert len(set(losses)) == steps and max(losses) < 10  # beyond, Keras clips probabilities
    np.testing.assert_allclose(mine, losses, rtol=0, atol=1e-9)
    twin = torch_network(name, size)
    load_keras_weights(twin, model)  # what Keras has learnt, moving statistics included
    for (key, a), (_, b) in zip(net.state_dict().items(), twin.state_dict().items(), strict=True):
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}")


# --- forms and files ----------------------------------------------------------------------------


def same_weights(a, b):
    for (key, x), (_, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert key.endswith("num_batches_tracked") or torch.equal(x, y), key


def block(x, filters, strides, order):
    """An Inception block whose six convolutions are made in any order."""
    L = keras.layers
    settings = [(1, strides), (1, strides), (3, 1), (1, strides), (5, 1), (1, strides)]
    made = {}
    for i in order:
        kernel, step = settings[i]
        made[i] = (L.Conv2D(filters, kernel, strides=step, padding="same"),
                   L.BatchNormalization(), L.ReLU())  # fmt: skip

    def path(x, *numbers):
        for i in numbers:
            for layer in made[i]:
                x = layer(x)
        return x

    pool = L.MaxPooling2D(3, 1, padding="same")(x)
    return L.Concatenate()([path(x, 0), path(x, 1, 2), path(x, 3, 4), path(pool, 5)])


def inception10(order):
    image = keras.Input((21, 21, 3))
    x = keras.layers.Conv2D(16, 3, padding="same")(image)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    for filters in (16, 32):
        for strides in (2, 1):
            x = block(x, filters, strides, order)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(10, activation="softmax")(x))


def resnet18(identity_first):
    L = keras.layers
    image = keras.Input((21, 21, 3))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(64, 3, padding="same", use_bias=False)(image)))
    for i, filters in enumerate((64, 64, 128, 128, 256, 256, 512, 512)):
        down = i >= 2 and i % 2 == 0
        y = L.Conv2D(filters, 3, 2 if down else 1, padding="same", use_bias=False)(x)
        y = L.ReLU()(L.BatchNormalization()(y))
        y = L.BatchNormalization()(L.Conv2D(filters, 3, padding="same", use_bias=False)(y))
        if down:
            x = L.BatchNormalization()(L.Conv2D(filters, 1, 2, use_bias=False)(x))
        x = L.ReLU()(L.Add()([x, y] if identity_first else [y, x]))
    return keras.Model(image, L.Dense(10, activation="softmax")(L.GlobalAveragePooling2D()(x)))


def randomize(model):
    rng = np.random.default_rng(0)
    for variable in model.weights:
        shape = tuple(variable.shape)
        variance = variable.path.endswith("moving_variance")
        variable.assign(rng.uniform(0.5, 2, shape) if variance else rng.normal(0, 0.1, shape))
    return model


ENDINGS = ["m.keras", "m.weights.h5", "m.h5"]


def saved(model, path):
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return path


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0), (1, 0, 2, 3, 4, 5)])
def test_branches_of_equal_shapes_land_where_they_belong(order, ending, tmp_path):
    model = randomize(inception10(order))
    net = torch_network("tf_inception10", 21)
    path = saved(model, tmp_path / ending)
    if ending == "m.weights.h5" and order == (1, 0, 2, 3, 4, 5):
        # The file has no graph: two orders, as listed and as made, have the right shapes.
        before = [p.clone() for p in net.parameters()]
        with pytest.raises(ValueError, match=r"both fit the network's .* give the model"):
            load_keras_weights(net, path)
        assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
        return
    load_keras_weights(net, path)
    check_equal("tf_inception10", net, model, 21)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("identity_first", [False, True])
def test_terms_of_a_sum_land_where_they_belong(identity_first, ending, tmp_path):
    model = randomize(resnet18(identity_first))
    net = torch_network("tf_resnet18", 21)
    load_keras_weights(net, saved(model, tmp_path / ending))
    check_equal("tf_resnet18", net, model, 21)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
@pytest.mark.parametrize("ending", ENDINGS[:2])
@pytest.mark.parametrize(
    "name", ["mlp", "tf_baseline", "tf_lenet5", "tf_nin_dense", "tf_alexnet_half",
             "tf_inception10", "tf_resnet18", "tf_resnet18_pool", "tf_vgg16"]
)  # fmt: skip
def test_files_that_keras_wrote(name, ending, tmp_path):
    """Sequential, functional and subclassed; compiled, so that the optimiser is in the file."""
    size = NETWORKS[name][2][1]
    model = keras_network(name, size)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    net = torch_network(name, size)
    load_keras_weights(net, saved(model, tmp_path / ending))
    check_equal(name, net, model, size)


def small_options(name):
    """Every network of the registry at a size that a test can afford."""
    channels, size, _ = MODELS[name].input
    options = {"in_channels": 4} if name == "tf_nin_dense" else {"in_channels": channels}
    size = {"tf_nin_dense": 51, "tf_alexnet_half": 67, "lenet": 20}.get(name, min(size, 67))
    if name.startswith("vgg"):
        options["width"] = 1 / 8
    return options | {"input_size": size}


def randomized(name):
    torch.manual_seed(0)
    net = create_model(name, **small_options(name)).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.005)
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                norm.weight.uniform_(0.2, 0.6)  # 110 layers of 1 would end in millions
                norm.running_mean.normal_(0, 0.1)
                norm.running_var.uniform_(0.5, 2)
    return net


@torch.no_grad()
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_to_keras_and_back(name, tmp_path):
    net, options = randomized(name), small_options(name)
    model = to_keras(net)
    x = torch.rand(2, options["in_channels"], options["input_size"], options["input_size"]).double()
    theirs = outputs(model, x.permute(0, 2, 3, 1).numpy())
    torch.testing.assert_close(net(x), theirs, rtol=0, atol=1e-9)
    assert theirs.std() > 1e-6
    names = {n.replace(".", "_") for n, m in net.named_modules() if hasattr(m, "weight")}
    assert names <= {layer.name for layer in model.layers}
    twin = create_model(name, **options).double()
    load_keras_weights(twin, model)
    same_weights(net, twin)
    other = to_keras(create_model(name, **options).double())
    path = tmp_path / "m.weights.h5"
    save_keras_weights(net, path)
    other.load_weights(path)
    assert torch.equal(theirs, outputs(other, x.permute(0, 2, 3, 1).numpy()))
    last = create_model(name, **options).double()
    load_keras_weights(last, path)
    same_weights(net, last)


# --- what only looks alike ----------------------------------------------------------------------


def graph_of(*layers, shape=(8, 8, 3)):
    return keras.Sequential([keras.Input(shape), *layers])


class Function(nn.Module):
    """Layers `a` and `b` of equal shapes, and any function of them."""

    def __init__(self, function, a=None, b=None):
        super().__init__()
        self.function = function
        self.a = a or nn.Conv2d(3, 3, 3, padding=1)
        self.b = b or nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.function(self.a, self.b, x)


def two_convs(**options):
    L = keras.layers
    return graph_of(L.Conv2D(3, 3, padding="same", name="a"),
                    L.Conv2D(3, 3, padding="same", name="b", **options))  # fmt: skip


CHAIN = Function(lambda a, b, x: b(a(x)))
DENSE = Function(lambda a, b, x: b(a(x).flatten(1)), b=nn.Linear(192, 5))


def lookalikes():
    L = keras.layers
    i, j = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    conv = L.Conv2D(3, 3, padding="same")
    join = Function(lambda a, b, x: torch.cat((a(x), b(x)), 1))
    branches = [L.Conv2D(3, 3, padding="same")(x) for x in (i, j)]
    return {
        "a stride": (CHAIN, two_convs(strides=2), "b has strides"),
        "a dilation": (CHAIN, two_convs(dilation_rate=2), "b has dilation"),
        "a padding in front of a pooling": (
            Function(lambda a, b, x: b(F.max_pool2d(a(x), 2))),
            graph_of(conv, L.ZeroPadding2D(1), L.MaxPooling2D(2), L.Conv2D(3, 3)),
            "its zero_padding2d is a padding"),
        "a permutation": (
            DENSE, graph_of(L.Conv2D(3, 3, padding="same"), L.Permute((3, 1, 2)), L.Flatten(),
                            L.Dense(5)), "permutes the axes"),
        "another order of Flatten": (
            DENSE, graph_of(L.Conv2D(3, 3, padding="same"),
                            L.Flatten(data_format="channels_first"), L.Dense(5)),
            "has its channels first"),
        "a norm of rows": (
            Function(lambda a, b, x: b(a(x)), b=nn.BatchNorm2d(8, 1e-3), a=nn.Conv2d(3, 8, 1)),
            graph_of(L.Conv2D(8, 1), L.BatchNormalization(axis=1)), "works along axis 1"),
        "two inputs": (join, keras.Model([i, j], L.Concatenate()(branches)), "has not one input"),
        "a method": (Function(lambda a, b, x: b(a(x).exp())), two_convs(), "computes exp"),
        "a gate": (Function(lambda a, b, x: a(x) * b(x)), two_convs(), "computes mul"),
        "a layer called twice": (Function(lambda a, b, x: a(a(x))), two_convs(), "a twice"),
        "another axis": (Function(lambda a, b, x: torch.cat((a(x), b(x)), 2)), two_convs(),
                         "computes cat"),
        "reflected padding": (
            Function(lambda a, b, x: b(a(x)), b=nn.Conv2d(3, 3, 3, padding=1,
                                                          padding_mode="reflect")),
            two_convs(), "pads with 'reflect'"),
        "a scale": (CHAIN, graph_of(L.Rescaling(2.0), *two_convs().layers), "is a Rescaling"),
    }  # fmt: skip


@pytest.mark.parametrize("case", range(13))
def test_lookalikes_are_refused(case):
    net, model, match = list(lookalikes().values())[case]
    net = net.double()
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(ValueError, match=match):
        load_keras_weights(net, model)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_a_shortcut_that_was_made_first_is_not_taken_for_its_neighbour(tmp_path):
    """A bottleneck: its last convolution and its shortcut have equal shapes."""
    L = keras.layers
    image = keras.Input((8, 8, 4))
    shortcut = L.Conv2D(6, 1)(image)
    y = L.Conv2D(6, 1)(L.Conv2D(4, 3, padding="same")(image))
    model = randomize(keras.Model(image, L.Add()([shortcut, y])))
    net = Function(
        lambda a, b, x: b(a(x)), a=nn.Identity(), b=nn.Identity()
    )  # fmt: skip
    net.c1, net.c2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 6, 1)
    net.down = nn.Conv2d(4, 6, 1)
    net.function = lambda a, b, x: net.c2(net.c1(x)) + net.down(x)
    net = net.double()
    with pytest.raises(ValueError, match="both fit the network's"):
        load_keras_weights(net, saved(model, tmp_path / "m.weights.h5"))
    load_keras_weights(net, saved(model, tmp_path / "m.keras"))
    x = np.random.default_rng(0).random((2, 8, 8, 4))
    theirs = keras.ops.convert_to_numpy(model(x)).transpose(0, 3, 1, 2)
    with torch.no_grad():
        np.testing.assert_allclose(net(torch.tensor(x).movedim(3, 1)), theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("ending", ["m.keras", "m.weights.h5"])
def test_a_trained_model_inside_another_loads(ending, tmp_path):
    """The usual "probability model", with random flips in front."""
    inner = graph_of(*mlp_layers())
    randomize(inner).compile("adam", "mse")
    inner.optimizer.build(inner.trainable_variables)
    outer = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.RandomFlip(), inner,
                              keras.layers.Softmax()])  # fmt: skip
    net = Function(lambda a, b, x: b(F.relu(a(x.flatten(1)))), nn.Linear(192, 6), nn.Linear(6, 4))
    net = net.double()
    load_keras_weights(net, saved(outer, tmp_path / ending))
    x = np.random.default_rng(0).random((2, 8, 8, 3))
    theirs = outputs(outer, x)
    with torch.no_grad():
        y = net(torch.tensor(x).movedim(3, 1)).softmax(1)
    torch.testing.assert_close(y, theirs, rtol=0, atol=1e-10)


def mlp_layers():
    return [keras.layers.Flatten(), keras.layers.Dense(6, activation="relu"),
            keras.layers.Dense(4)]  # fmt: skip
