"""What is set in torch for a device."""

import os
from types import SimpleNamespace

import pytest
import torch

from torchcnn.training.device import set_up_device


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
