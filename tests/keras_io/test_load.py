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
    pytest.mark.extra,
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
@pytest.mark.parametrize(("size", "dtype"), [("odd", "float64"), ("even", "float32")])
@pytest.mark.parametrize("name", LINEAGE)
def test_the_lineage_equals_keras(name, size, dtype, tmp_path):
    """As a model and as files: functional, sequential and subclassed, with an optimizer's state."""
    pixels = NETWORKS[name][2][size == "odd"]
    model, net = keras_network(name, pixels, dtype=dtype), torch_network(name, pixels, dtype)
    load_keras_weights(net, model)
    check_equal(name, net, model, pixels, dtype)
    if size == "even":
        return
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    for ending in ENDINGS if hasattr(model, "input_shape") else ENDINGS[:2]:
        twin = torch_network(name, pixels)
        load_keras_weights(twin, saved(model, tmp_path / ending))
        same_weights(net, twin)


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
    """Five of them, or three of networks with so many weights that each takes seconds."""
    steps = 3 if name in LARGE else 5
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


ENDINGS = ["m.keras", "m.weights.h5", "m.h5"]


def saved(model, path):
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return path


class Branches(nn.Module):
    """Paths as in an Inception block, or in a residual block, whose first path is the shortcut."""

    def __init__(self, *paths):
        super().__init__()
        self.paths = nn.ModuleList(
            nn.Sequential(*(nn.Conv2d(3, 3, k, padding=k // 2) for k in sizes)) for sizes in paths
        )

    def forward(self, x):
        ends = [path(x) for path in self.paths]
        return ends[1] + ends[0] if len(ends) == 2 else torch.cat(ends, 1)


def branches(paths, order, swapped=False):
    """The same in Keras, with layers that are made in any order."""
    flat = [k for sizes in paths for k in sizes]
    made = {i: keras.layers.Conv2D(3, flat[i], padding="same") for i in order}
    layers = (made[i] for i in sorted(made))
    ends = [image := keras.Input((9, 9, 3))] * len(paths)
    for i, sizes in enumerate(paths):
        for _ in sizes:
            ends[i] = next(layers)(ends[i])
    if len(paths) == 2:
        return keras.Model(image, keras.layers.Add()(ends if swapped else ends[::-1]))
    return keras.Model(image, keras.layers.Concatenate()(ends))


INCEPTION, RESIDUAL, BOTTLENECK = ((1,), (1, 3), (1, 5)), ((1,), (3, 3)), ((1,), (3, 1))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
@pytest.mark.parametrize(
    ("paths", "order", "swapped", "ambiguous"),
    [(INCEPTION, (0, 1, 2, 3, 4), False, False), (INCEPTION, (4, 3, 2, 1, 0), False, False),
     (INCEPTION, (1, 0, 2, 3, 4), False, True), (RESIDUAL, (0, 1, 2), False, False),
     (RESIDUAL, (1, 2, 0), True, False), (BOTTLENECK, (1, 2, 0), True, True)],
)  # fmt: skip
def test_layers_land_where_they_belong(paths, order, swapped, ambiguous, tmp_path):
    """A file of weights has no graph: layers as listed and as made may both have its shapes."""
    model, net = randomize(branches(paths, order, swapped)), Branches(*paths).double()
    load_keras_weights(net, model)
    x = np.random.default_rng(0).random((2, 9, 9, 3))
    theirs = keras.ops.convert_to_numpy(model(x)).transpose(0, 3, 1, 2)
    with torch.no_grad():
        np.testing.assert_allclose(net(torch.tensor(x).movedim(3, 1)), theirs, rtol=0, atol=1e-10)
    for ending in ENDINGS:
        twin, path = Branches(*paths).double(), saved(model, tmp_path / ending)
        if ambiguous and ending == "m.weights.h5":
            with pytest.raises(ValueError, match=r"both fit the network's .* give the model"):
                load_keras_weights(twin, path)
        else:
            load_keras_weights(twin, path)
            same_weights(net, twin)


def randomized(name, channels):
    torch.manual_seed(0)
    net, images = small(name, channels, batch=1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.005)
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                norm.weight.uniform_(0.2, 0.6)  # many layers of 1 would end in millions
                norm.running_mean.normal_(0, 0.1)
                norm.running_var.uniform_(0.5, 2)
    return net.eval(), images, small(name, channels)[0]


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
def test_saved_weights_load_in_keras_and_here(tmp_path):
    net, x, twin = randomized("resnet20", channels=1)
    path, other = tmp_path / "m.weights.h5", to_keras(twin)
    save_keras_weights(net, path)
    other.load_weights(path)
    torch.testing.assert_close(net(x), outputs(other, x.movedim(1, 3).numpy()), rtol=0, atol=1e-9)
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
