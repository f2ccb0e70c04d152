"""Networks in two frameworks: the Keras side is built in `keras_networks.py`, independently.

The backend is that of KERAS_BACKEND: TensorFlow by default, torch is tested too.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcnn import create_model, list_models, scratch
from torchcnn.keras_io import load_keras_weights, save_keras_weights, to_keras

keras = pytest.importorskip("keras", reason="Keras is not installed: pip install .[keras]")
from keras.src.backend.common import dtypes  # noqa: E402
from keras_networks import NETWORKS  # noqa: E402  after the check that Keras is there
from small_networks import WHOLE_REGISTRY, small  # noqa: E402

# Keras's own: on TensorFlow it hands its variables to NumPy in a way that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:activations and poolings were not compared:UserWarning"),
]
LINEAGE = sorted(["mlp", *(name for name in list_models() if name.startswith("tf_"))])


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


def randomize(model):
    """Give a model random biases and moving statistics; its kernels already are random."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        value = keras.ops.convert_to_numpy(variable)
        if variable.path.endswith("moving_variance"):
            variable.assign(rng.uniform(0.5, 2, value.shape))
        elif value.ndim == 1 and "seed" not in variable.path:
            variable.assign(value + rng.normal(0, 0.1, value.shape))
    return model


def keras_network(name, size, dropout=0.2, dtype="float64"):
    use(dtype)
    build, channels, _, _ = NETWORKS[name]
    return randomize(build(size, channels, dropout))


def torch_network(name, size, dtype="float64"):
    net = create_model(name, input_size=size, in_channels=NETWORKS[name][1])
    return net.to(getattr(torch, dtype)).eval()


def outputs(model, x):
    y = model(x, training=False)
    return torch.from_numpy(np.array(keras.ops.convert_to_numpy(y))).reshape(len(x), -1)


@torch.no_grad()
def check_equal(name, net, model, size, dtype="float64"):
    _, channels, _, softmax = NETWORKS[name]
    x = np.random.default_rng(1).normal(size=(2, size, size, channels)).astype(dtype)
    theirs, y = outputs(model, x), net(torch.from_numpy(x).movedim(3, 1))
    tolerance = 1e-10 if dtype == "float64" else 1e-4
    torch.testing.assert_close(y.softmax(1) if softmax else y, theirs, rtol=0, atol=tolerance)
    assert theirs.std() > 1e-6  # an output that says nothing would prove nothing


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
@pytest.mark.parametrize("name", LINEAGE)
def test_the_lineage_equals_keras(name, tmp_path):
    """As a model and as files: functional, sequential and subclassed, with an optimizer's state."""
    size = NETWORKS[name][2][1]
    model, net = keras_network(name, size), torch_network(name, size)
    load_keras_weights(net, model)
    check_equal(name, net, model, size)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    for ending in ENDINGS if hasattr(model, "input_shape") else ENDINGS[:2]:
        twin = torch_network(name, size)
        load_keras_weights(twin, saved(model, tmp_path / ending))
        same_weights(net, twin)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LINEAGE)
def test_the_lineage_equals_keras_at_even_sizes(name, dtype):
    size = NETWORKS[name][2][0]
    model, net = keras_network(name, size, dtype=dtype), torch_network(name, size, dtype)
    load_keras_weights(net, model)
    check_equal(name, net, model, size, dtype)


# --- training side by side ----------------------------------------------------------------------


def train_in_keras(name, model, optimizer, batches):
    """The losses of one step a batch, and whatever the model adds to them."""
    flat = keras.Sequential([model, keras.layers.Flatten()]) if name == "tf_nin_dense" else model
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not NETWORKS[name][3])
    flat.compile(optimizer, loss, run_eagerly=True, jit_compile=False)
    for x, y in batches:
        flat.reset_metrics()  # what it returns is a running mean
        yield float(flat.train_on_batch(x, y))


def train_by_hand(net, update, batches, penalty):
    """The same steps here, with the optimisers by hand."""
    params = list(net.train().parameters())
    first, second = ([torch.zeros_like(p) for p in params] for _ in range(2))
    for dropout in (m for m in net.modules() if isinstance(m, nn.Dropout)):
        dropout.p = 0.0
    for step, (x, y) in enumerate(batches, 1):
        loss = F.cross_entropy(net(torch.from_numpy(x).movedim(3, 1)), torch.from_numpy(y))
        loss = loss + penalty(net)
        net.zero_grad()
        loss.backward()
        update(params, step, first, second)
        yield float(loss.detach())


# Keras's, and ours: (params, step, first, second) -> a step. All numbers are sums of few powers of
# two: on TensorFlow, Keras rounds its 0.9 to float32 before it computes with it in float64.
LR, BETAS = 2**-13, (0.875, 1 - 2**-10)
OPTIMIZERS = {
    "sgd": (lambda: keras.optimizers.SGD(64 * LR),
            lambda params, step, first, second: scratch.sgd(params, 64 * LR, 1)),
    "momentum": (lambda: keras.optimizers.SGD(64 * LR, momentum=0.875),
                 lambda params, step, first, second: scratch.sgd(
                     params, 64 * LR, 1, momentum=0.875, velocities=first, lr_in_velocity=True)),
    "adam": (lambda: keras.optimizers.Adam(LR, *BETAS),
             lambda params, step, first, second: scratch.adam(
                 params, LR, step, first, second, BETAS, eps=1e-7, eps_hat=True)),
}  # fmt: skip
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
    shape = (4, size, size, NETWORKS[name][1])
    batches = [(rng.random(shape), rng.integers(0, 10, 4)) for _ in range(steps)]
    theirs, ours = OPTIMIZERS[optimizer]
    l2 = 0.01 * (name == "tf_resnet18")  # what the course adds to the loss of this network
    if keras.backend.backend() == "tensorflow":
        l2 = float(np.float32(l2))
    losses = list(train_in_keras(name, model, theirs(), batches))
    penalty = lambda net: l2 * (net.head[1].weight ** 2).sum() if l2 else 0  # noqa: E731
    mine = list(train_by_hand(net, ours, batches, penalty))
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


def inception10(order):
    """The six convolutions of each Inception block are made in any order."""
    L = keras.layers
    image = keras.Input((21, 21, 3))
    x = L.Conv2D(16, 3, padding="same")(image)
    x = L.ReLU()(L.BatchNormalization()(x))
    for filters, strides in ((16, 2), (16, 1), (32, 2), (32, 1)):
        sizes = [(1, strides), (1, strides), (3, 1), (1, strides), (5, 1), (1, strides)]
        made = {i: (L.Conv2D(filters, *sizes[i], padding="same"), L.BatchNormalization(), L.ReLU())
                for i in order}  # fmt: skip

        def path(x, *numbers, made=made):
            for layer in (layer for i in numbers for layer in made[i]):
                x = layer(x)
            return x

        pool = L.MaxPooling2D(3, 1, padding="same")(x)
        x = L.Concatenate()([path(x, 0), path(x, 1, 2), path(x, 3, 4), path(pool, 5)])
    return keras.Model(image, L.Dense(10, activation="softmax")(L.GlobalAveragePooling2D()(x)))


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


ENDINGS = ["m.keras", "m.weights.h5", "m.h5"]


def saved(model, path):
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return path


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0), (1, 0, 2, 3, 4, 5)])
def test_branches_of_equal_shapes_land_where_they_belong(order, tmp_path):
    model, net = randomize(inception10(order)), torch_network("tf_inception10", 21)
    load_keras_weights(net, model)
    check_equal("tf_inception10", net, model, 21)
    for ending in ENDINGS:
        twin, path = torch_network("tf_inception10", 21), saved(model, tmp_path / ending)
        if ending == "m.weights.h5" and order == (1, 0, 2, 3, 4, 5):
            # The file has no graph: two orders, as listed and as made, have the right shapes.
            check_refused(twin, path, r"both fit the network's .* give the model")
            continue
        load_keras_weights(twin, path)
        same_weights(net, twin)


def check_refused(net, source, match):
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(ValueError, match=match):
        load_keras_weights(net, source)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
@pytest.mark.parametrize("identity_first", [False, True])
def test_terms_of_a_sum_land_where_they_belong(identity_first, tmp_path):
    model, net = randomize(resnet18(identity_first)), torch_network("tf_resnet18", 21)
    load_keras_weights(net, model)
    check_equal("tf_resnet18", net, model, 21)
    for ending in ENDINGS:
        twin = torch_network("tf_resnet18", 21)
        load_keras_weights(twin, saved(model, tmp_path / ending))
        same_weights(net, twin)


def randomized(name, channels):
    torch.manual_seed(0)
    options = {"width": 1 / 8} if name.startswith("vgg") else {}
    net, images = small(name, channels, batch=1, **options)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.005)
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                norm.weight.uniform_(0.2, 0.6)  # many layers of 1 would end in millions
                norm.running_mean.normal_(0, 0.1)
                norm.running_var.uniform_(0.5, 2)
    return net.eval(), images, small(name, channels, **options)[0]


@torch.no_grad()
@pytest.mark.parametrize("name", WHOLE_REGISTRY)
def test_to_keras_and_back(name, tmp_path):
    net, x, twin = randomized(name, channels=3)
    model = to_keras(net)
    y = outputs(model, x.movedim(1, 3).numpy())
    torch.testing.assert_close(net(x), y, rtol=0, atol=1e-9)
    assert y.std() > 1e-6
    names = {n.replace(".", "_") for n, m in net.named_modules() if hasattr(m, "weight")}
    assert names <= {layer.name for layer in model.layers}
    for path in (tmp_path / "m.keras", tmp_path / "m.weights.h5"):
        for parameter in twin.parameters():
            parameter.zero_()
        load_keras_weights(twin, saved(model, path))
        same_weights(net, twin)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet20"])
def test_saved_weights_load_in_keras_and_here(name, tmp_path):
    net, x, twin = randomized(name, channels=1)
    path, other = tmp_path / "m.weights.h5", to_keras(twin)
    save_keras_weights(net, path)
    other.load_weights(path)
    theirs = outputs(to_keras(net), x.movedim(1, 3).numpy())
    assert torch.equal(theirs, outputs(other, x.movedim(1, 3).numpy()))
    load_keras_weights(twin, path)
    same_weights(net, twin)
    assert [p.name for p in tmp_path.iterdir()] == ["m.weights.h5"]
    with pytest.raises(ValueError, match=r"must end in \.weights\.h5"):
        save_keras_weights(net, tmp_path / "m.h5")


@torch.no_grad()
def test_a_frozen_norm_is_frozen_in_training():
    net = create_model("tf_inception10", input_size=16, in_channels=3, frozen_norm=True).double()
    model = to_keras(net)
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    y = model(x.movedim(1, 3).numpy(), training=True)
    theirs = torch.from_numpy(np.array(keras.ops.convert_to_numpy(y)))
    torch.testing.assert_close(net.train()(x), theirs, rtol=0, atol=1e-10)
    load_keras_weights(net, model)
    assert all((m.running_mean == 0).all() for m in net.modules() if hasattr(m, "running_mean"))


def test_a_shortcut_that_was_made_first_is_not_taken_for_its_neighbour(tmp_path):
    """A bottleneck: its last convolution and its shortcut have equal shapes."""
    L = keras.layers
    image = keras.Input((8, 8, 4))
    shortcut = L.Conv2D(6, 1)(image)
    y = L.Conv2D(6, 1)(L.Conv2D(4, 3, padding="same")(image))
    model = randomize(keras.Model(image, L.Add()([shortcut, y])))

    class Bottleneck(nn.Module):
        def __init__(self):
            super().__init__()
            self.c1, self.c2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 6, 1)
            self.down = nn.Conv2d(4, 6, 1)

        def forward(self, x):
            return self.c2(self.c1(x)) + self.down(x)

    net = Bottleneck().double()
    check_refused(net, saved(model, tmp_path / "m.weights.h5"), "both fit the network's")
    load_keras_weights(net, saved(model, tmp_path / "m.keras"))
    x = np.random.default_rng(0).random((2, 8, 8, 4))
    theirs = keras.ops.convert_to_numpy(model(x)).transpose(0, 3, 1, 2)
    with torch.no_grad():
        np.testing.assert_allclose(net(torch.tensor(x).movedim(3, 1)), theirs, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
def test_a_trained_model_inside_another_loads(tmp_path):
    """The usual "probability model", with random flips in front."""
    L = keras.layers
    layers = [L.Flatten(), L.Dense(6, activation="relu"), L.Dense(4)]
    inner = randomize(keras.Sequential([keras.Input((8, 8, 3)), *layers]))
    inner.compile("adam", "mse")
    inner.optimizer.build(inner.trainable_variables)
    outer = keras.Sequential([keras.Input((8, 8, 3)), L.RandomFlip(), inner, L.Softmax()])
    x = np.random.default_rng(0).random((2, 8, 8, 3))
    theirs = outputs(outer, x)
    for ending in ENDINGS:
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 4)).double()
        load_keras_weights(net, saved(outer, tmp_path / ending))
        with torch.no_grad():
            y = net(torch.tensor(x).movedim(3, 1)).softmax(1)
        torch.testing.assert_close(y, theirs, rtol=0, atol=1e-10)
