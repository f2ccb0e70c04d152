"""The trainer's set-up of a device; `test_exactness` and `test_train` have what it does on it."""

import os
from types import SimpleNamespace

import pytest
import torch

from torchcnn.train import train
from torchcnn.training import trainer
from torchcnn.training.trainer import Trainer, set_up_device

FLAGS = {"data": "sample", "device": "cpu", "epochs": 1, "batch_size": 500}


@pytest.fixture
def settings(monkeypatch):
    """What is asked of torch, of whose settings only those that a CPU has are read back."""
    asked = SimpleNamespace(devices=[], deterministic=[])
    before = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    torch.utils.deterministic.fill_uninitialized_memory = True
    monkeypatch.setattr(torch.cuda, "set_device", asked.devices.append)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.deterministic.append)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield asked
    torch.backends.cudnn.benchmark = before[0]
    torch.set_float32_matmul_precision(before[1])
    torch.utils.deterministic.fill_uninitialized_memory = True
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", ["cpu", "mps", "cuda", "cuda:1"])
def test_what_is_set_for_a_device(name, deterministic, settings):
    """TF32 for linear layers, and a search for the fastest convolutions, on CUDA alone."""
    set_up_device(torch.device(name), deterministic)
    cuda = name.startswith("cuda")
    assert settings.devices == [torch.device("cuda:1")] * (name == "cuda:1")
    assert torch.get_float32_matmul_precision() == ("high" if cuda else "highest")
    assert torch.backends.cuda.matmul.fp32_precision == ("tf32" if cuda else "ieee")
    assert torch.backends.cudnn.benchmark == (cuda and not deterministic)
    assert settings.deterministic == [True] * deterministic
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == deterministic
    assert torch.utils.deterministic.fill_uninitialized_memory != deterministic


def test_a_cpu_after_a_gpu_is_exact_again(settings):
    set_up_device(torch.device("cuda"), False)
    set_up_device(torch.device("cpu"), False)
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"


@pytest.fixture
def asked(monkeypatch):
    """What is asked of `nn.Module.compile`, and the shape and precision of what is captured."""
    asked = SimpleNamespace(compiled=[], captured=[])

    def capture(net, shape, amp):
        asked.captured.append((shape, amp))
        return torch.nn.Sequential(net)

    monkeypatch.setattr(torch.nn.Module, "compile", lambda _, **way: asked.compiled.append(way))
    monkeypatch.setattr(trainer, "GraphedNetwork", capture)
    return asked


@pytest.mark.parametrize("cuda", [False, True])
def test_whole_batches_are_graphs_where_they_can_be(cuda, asked, monkeypatch, tmp_path):
    monkeypatch.setattr(trainer, "can_be_graphed", lambda config, batches: cuda)
    result = train(**FLAGS, amp="bf16", out=str(tmp_path / "r"))
    assert asked.captured == [((500, 1, 28, 28), "bf16")] * cuda and not asked.compiled
    assert result.history[0].train_acc > 0.1


@pytest.mark.parametrize(
    ("device", "accumulate", "ranks", "mode"),
    [
        ("cpu", 1, 1, None),
        ("cuda", 1, 1, "reduce-overhead"),
        ("cuda", 2, 1, None),  # the graph of the second part would overwrite the first's gradients
        ("cuda", 1, 2, None),  # not measured with several
    ],
)
def test_a_compiled_network_has_graphs_of_its_own(
    device, accumulate, ranks, mode, asked, monkeypatch, tmp_path
):
    monkeypatch.setattr(trainer, "can_be_graphed", lambda config, batches: True)

    def prepare(self):
        self.device = torch.device(device)
        self.world = SimpleNamespace(world_size=ranks, data_parallel=lambda net, x: net)
        Trainer._prepare_net(self)
        raise KeyboardInterrupt

    class OnDevice(Trainer):
        _prepare_net = prepare

    monkeypatch.setattr("torchcnn.train.Trainer", OnDevice)
    with pytest.raises(KeyboardInterrupt):
        train(**FLAGS, compile=True, accumulate=accumulate, out=str(tmp_path / "r"))
    assert asked.compiled == [{"dynamic": False, "mode": mode}] and not asked.captured
