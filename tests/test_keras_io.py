"""Networks in two frameworks: the Keras side is built in `keras_networks.py`, independently.

The backend is that of KERAS_BACKEND: TensorFlow by default, torch is tested too.
"""

import numpy as np
import pytest
import torch
import torch._dynamo  # loads Triton, which must come before TensorFlow in one process
import torch.nn.functional as F
from torch import nn

from torchcnn import create_model, list_models, scratch
from torchcnn.keras_io import load_keras_weights, save_keras_weights, to_keras
from torchcnn.models import MODELS

keras = pytest.importorskip("keras", reason="Keras is not installed: pip install .[keras]")
from keras_networks import NETWORKS  # noqa: E402  after the check that Keras is there

# Keras's own: on TensorFlow it hands its variables to NumPy in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
LINEAGE = sorted(NETWORKS)


def use(dtype):
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)


@pytest.fixture(autouse=True)
def _float64():
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
