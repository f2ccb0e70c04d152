"""TensorFlow and Triton each bring an LLVM; torchcnn makes them safe to import in any order."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import torchcnn

TRAIN = """
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
net(torch.ones(1, 1, 2, 2)).sum().backward()
optimizer.step()  # PyTorch loads Triton here
"""
MOVE = """
from torchcnn.keras_io import load_keras_weights, to_keras
model = to_keras(net, (1, 2, 2))
load_keras_weights(net, model)
"""
ORDERS = {
    "torchcnn, Keras": f"import torchcnn, keras, torch\n{TRAIN}{MOVE}",
    "torchcnn, Keras, Keras used first": f"""
import torchcnn, keras, torch
keras.layers.Dense(2)(keras.ops.ones((1, 2)))
{TRAIN}{MOVE}""",
    "torchcnn.keras_io, PyTorch": f"import torchcnn.keras_io, torch\n{TRAIN}{MOVE}{TRAIN}",
    "Keras, PyTorch, torchcnn": f"import keras, torch, torchcnn\n{TRAIN}{MOVE}",
    "TensorFlow, torchcnn.keras_io": f"""
import tensorflow as tf
import torchcnn.keras_io, torch
{TRAIN}{MOVE}
tf.function(lambda x: x + 1, jit_compile=True)(tf.ones(2))  # TensorFlow's own LLVM""",
}


def python(code):
    """Run code in a process of its own, in which this torchcnn is imported."""
    folder = str(Path(torchcnn.__file__).parents[1])
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "PYTHONPATH": folder}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("order", ORDERS)
def test_no_order_of_imports_ends_the_process(order):
    for name in ("tensorflow", "triton", "keras", "h5py"):
        if not find_spec(name):
            pytest.skip(f"{name} is not installed, so no import can disturb another")
    done = python(f"{ORDERS[order]}\nprint('done')")
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr[-2000:]


def test_without_tensorflow_triton_is_not_loaded():
    code = "import sys; sys.modules['tensorflow'] = None; import torchcnn; " \
           "assert 'triton' not in sys.modules"  # fmt: skip
    done = python(code)
    assert done.returncode == 0, done.stderr
