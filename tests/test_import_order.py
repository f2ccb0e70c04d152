"""TensorFlow and Triton each bring an LLVM; torchcnn makes them safe to import in any order."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

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
    "torchcnn first": f"""
import torchcnn, keras, torch
keras.layers.Dense(2)(keras.ops.ones((1, 2)))
{TRAIN}{MOVE}{TRAIN}""",
    "TensorFlow, then PyTorch": f"""
import tensorflow as tf
import keras, torch, torchcnn
{TRAIN}{MOVE}
tf.function(lambda x: x + 1, jit_compile=True)(tf.ones(2))  # TensorFlow's own LLVM""",
}


@pytest.mark.extra
@pytest.mark.parametrize("order", ORDERS)
def test_no_order_of_imports_ends_the_process(order):
    for name in ("tensorflow", "triton", "keras", "h5py"):
        if not find_spec(name):
            pytest.skip(f"{name} is not installed, so no import can disturb another")
    command = [sys.executable, "-c", f"{ORDERS[order]}\nprint('done')"]
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr[-2000:]
