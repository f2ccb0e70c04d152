"""What is set in torch for a device, and that a process is afterwards as it was."""

import os
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from torchcnn.training.device import device_settings


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


# A process with settings of its own. It prints what differs after each of several runs.
PROCESS = """
import os, random, resource, signal, socket, sys, threading, warnings
import matplotlib, numpy, torch
from torch import nn
from pathlib import Path
from torchcnn.data.decode import LazyImages, decode_batches
from torchcnn.evaluate import Config, evaluate
from torchcnn.train import train

class Net(nn.Sequential):
    def __init__(self, act=None):
        norm = nn.BatchNorm2d(1, affine=False).eval()
        super().__init__(nn.Conv2d(1, 1, 3), norm, nn.Flatten(), nn.Dropout(), nn.Linear(676, 10))
        self.act = act

    def forward(self, x):
        y = super().forward(x)
        return self.act(y) if self.act and self.training and len(x) > 2 else y

def gives_memory_back():
    x = torch.ones(10 * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        x = x * x + x
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before > 1000

def found(net):
    backends, filling = torch.backends, torch.utils.deterministic
    return {
        "torch's numbers": torch.get_rng_state().tolist(),
        "python's numbers": random.getstate(),
        "numpy's numbers": str(numpy.random.get_state()),
        "seeds that wait for a GPU": len(torch.cuda._queued_calls),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "living threads": [t.name for t in threading.enumerate() if "Queue" not in t.name],
        "precision": (torch.get_float32_matmul_precision(), backends.cuda.matmul.fp32_precision),
        "cuDNN": (backends.cudnn.benchmark, backends.cudnn.deterministic),
        "deterministic": (torch.get_deterministic_debug_mode(), filling.fill_uninitialized_memory),
        "signals": {s: signal.getsignal(s) for s in signal.valid_signals()},
        "torch's own signal": torch.utils.data._utils.signal_handling._SIGCHLD_handler_set,
        "warnings": (list(warnings.filters), warnings.showwarning),
        "environment": dict(os.environ),
        "time limit": socket.getdefaulttimeout(),
        "TensorBoard": "tensorboard.compat.notf" in sys.modules,
        "matplotlib": (matplotlib.get_backend(), dict(matplotlib.rcParams)),
        "gives memory back": gives_memory_back(),
        "net": [(m.training, sorted(vars(m))) for m in net.modules()],
        "frozen": [p.requires_grad for p in net.parameters()],
    }

def check(what, work, error=None, net=None):
    net = net or Net()
    before, ended = found(net), None
    try:
        work(net)
    except BaseException as caught:
        ended = caught
    after = found(net)
    changed = [key for key in before if before[key] != after[key]]
    if changed or type(ended).__name__ != (error or "NoneType"):
        print(what, changed, repr(ended), file=sys.__stderr__)

out, settings = sys.argv[1], dict(data="sample", device="cpu", epochs=1)
torch.manual_seed(5)
torch.set_float32_matmul_precision("medium")
torch.backends.cudnn.benchmark = True
torch.use_deterministic_algorithms(True, warn_only=True)
signal.signal(signal.SIGTERM, lambda *_: None)
warnings.filterwarnings("ignore", "mine")
socket.setdefaulttimeout(77)

check("a run", lambda net: train(net=net, freeze="0,1", ema=0.9, deterministic=True,
                                 out=f"{out}/a", **settings))
check("a resumed run", lambda net: train(net=net, resume=f"{out}/a", epochs=2))
check("lenet", lambda _: train(out=f"{out}/b", **settings))
check("what is not there", lambda net: train(net=net, init="nowhere", **settings),
      "FileNotFoundError")
check("NaN", lambda net: train(net=net, deterministic=True, out=f"{out}/c", **settings),
      "FloatingPointError", Net(lambda y: y * float("nan")))
check("a signal", lambda net: train(net=net, deterministic=True, out=f"{out}/d", **settings),
      "Stopped", Net(lambda y: os.kill(os.getpid(), signal.SIGTERM) or y))
check("evaluate", lambda _: evaluate(Config(checkpoint=f"{out}/b", device="cpu", json=True)))
def decode(_):
    images = LazyImages([Path(out, "b", "curves.png")] * 9, 3, 8, "squeeze")
    next(decode_batches(images, torch.arange(9).split(1), False))
check("a pass that is left", decode)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory")
def test_a_process_is_left_as_it_was(tmp_path):
    """However a run ends, from Python."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROCESS, str(tmp_path)],
                          capture_output=True, text=True, cwd=tmp_path, timeout=300)  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
