"""What is set in torch for a device, and that a process is afterwards as it was."""

import os
import random
import signal
import socket
import threading
import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from torch import nn

from torchcnn.train import train
from torchcnn.training.device import device_settings
from torchcnn.training.signals import Stopped


@pytest.fixture
def asked(monkeypatch):
    """What is asked of torch, of whose settings only those that a CPU has are read back."""
    asked = SimpleNamespace(devices=[], deterministic=[])
    monkeypatch.setattr(torch.cuda, "device", lambda d: asked.devices.append(d) or nullcontext())
    monkeypatch.setattr(
        torch, "use_deterministic_algorithms", lambda mode, **_: asked.deterministic.append(mode)
    )
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    return asked


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", ["cpu", "mps", "cuda", "cuda:1"])
def test_what_is_set_for_a_device(name, deterministic, asked):
    """TF32 for linear layers, and a search for the fastest convolutions, on CUDA alone."""
    cuda = name.startswith("cuda")
    with device_settings(torch.device(name), deterministic):
        assert asked.devices == [torch.device(name)] * cuda
        assert torch.get_float32_matmul_precision() == ("high" if cuda else "highest")
        assert torch.backends.cuda.matmul.fp32_precision == ("tf32" if cuda else "ieee")
        assert torch.backends.cudnn.benchmark == (cuda and not deterministic)
        assert asked.deterministic == [True] * deterministic
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == deterministic
        assert torch.utils.deterministic.fill_uninitialized_memory != deterministic


def test_a_cpu_within_a_gpu_is_exact(asked):
    with device_settings(torch.device("cuda"), False):
        with device_settings(torch.device("cpu"), False):
            assert torch.get_float32_matmul_precision() == "highest"
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.parametrize("of", ["cuda", "mkldnn"])
def test_a_precision_that_was_set_in_the_newer_way_is_set_back(of):
    """Torch does not return the older setting then."""
    matmul = getattr(torch.backends, of).matmul
    matmul.fp32_precision = "tf32"
    try:
        with device_settings(torch.device("cpu"), False):
            assert torch.get_float32_matmul_precision() == "highest"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = "none"


class Net(nn.Sequential):
    """A part of it is in eval mode; `act` is what happens in the steps of training."""

    def __init__(self, act):
        norm = nn.BatchNorm2d(1, affine=False).eval()
        super().__init__(nn.Conv2d(1, 1, 3), norm, nn.Flatten(), nn.Dropout(), nn.Linear(676, 10))
        self.act = act

    def forward(self, x):
        y = super().forward(x)
        return self.act(y) if self.training and len(x) > 2 else y


def found(net):
    """What a run may not change."""
    backends, filling = torch.backends, torch.utils.deterministic
    return {
        "random numbers": (torch.get_rng_state().tolist(), random.getstate()),
        "numpy's numbers": str(np.random.get_state()),
        "seeds that wait for a GPU": len(torch.cuda._queued_calls),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "living threads": [t.name for t in threading.enumerate() if "Queue" not in t.name],
        "precision": (torch.get_float32_matmul_precision(), backends.cuda.matmul.fp32_precision),
        "cuDNN": (backends.cudnn.benchmark, backends.cudnn.deterministic),
        "deterministic": (torch.get_deterministic_debug_mode(), filling.fill_uninitialized_memory),
        "signals": {s: signal.getsignal(s) for s in signal.valid_signals()},
        "warnings": (list(warnings.filters), warnings.showwarning),
        "environment": dict(os.environ),
        "time limit": socket.getdefaulttimeout(),
        "matplotlib": (matplotlib.get_backend(), dict(matplotlib.rcParams)),
        "net": [(m.training, sorted(vars(m))) for m in net.modules()],
        "frozen": [p.requires_grad for p in net.parameters()],
    }


@pytest.fixture
def unusual_settings():
    """Settings of a program that trains as a part of its work."""
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    torch.set_float32_matmul_precision("medium")
    torch.set_deterministic_debug_mode("warn")
    torch.backends.cudnn.benchmark = True
    socket.setdefaulttimeout(77)
    yield
    signal.signal(signal.SIGTERM, handler)
    torch.set_float32_matmul_precision("highest")
    torch.set_deterministic_debug_mode("default")
    torch.backends.cudnn.benchmark = False
    socket.setdefaulttimeout(None)


@pytest.mark.usefixtures("unusual_settings", "tenth_of_the_sample")
@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda y: y, None),
        (lambda y: y * float("nan"), FloatingPointError),
        (lambda y: os.kill(os.getpid(), signal.SIGTERM) or y, Stopped),
    ],
)
def test_a_process_is_left_as_it_was(act, error, tmp_path):
    """However a run ends, from Python."""
    net = Net(act)
    before = found(net)
    with pytest.raises(error) if error else nullcontext():
        train(net=net, freeze="0,1", ema=0.9, deterministic=True, data="sample", device="cpu",
              epochs=1, out=tmp_path / "r")  # fmt: skip
    after = found(net)
    assert [key for key in before if before[key] != after[key]] == []
