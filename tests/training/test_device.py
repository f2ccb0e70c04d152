"""What is set for a device, and the gradient of gray images, which is the same as without."""

import os
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from torchcnn.layers import SameConv2d
from torchcnn.train import train
from torchcnn.training import trainer
from torchcnn.training.device import fast_gray_gradients, set_up_device


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
def avx2(monkeypatch):
    """The processor is taken for one with AVX2, which this is for."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def gradients(net, x):
    """The output's sum of squares and the gradients of all weights."""
    net.zero_grad()
    loss = net(x).square().sum()
    loss.backward()
    return [loss.detach(), *(p.grad for p in net.parameters())]


@pytest.mark.parametrize("size", [64, 65])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "conv",
    [
        lambda: nn.Conv2d(1, 6, 5, padding=2),
        lambda: nn.Conv2d(1, 16, (5, 7), stride=3, bias=False),
        lambda: SameConv2d(1, 64, 7, stride=2),
    ],
    ids=["lenet", "stride", "tf_googlenet"],
)
def test_gradients_of_gray_images_are_the_same(conv, dtype, size, avx2):
    torch.manual_seed(0)
    net = nn.Sequential(conv(), nn.Sigmoid(), nn.MaxPool2d(2)).to(dtype)
    x = torch.rand(8, 1, size, size, dtype=dtype)
    expected = gradients(net, x)
    with fast_gray_gradients(net):
        got = gradients(net, x)
    torch.testing.assert_close(got, expected)


def saved_strides(conv, x):
    """How the images lie in memory of which a convolution takes its gradient."""
    return conv(x).grad_fn._saved_input.stride()


def test_gray_images_are_saved_as_channels_last_without_a_copy(avx2):
    """By torch's rule for the strides of a channels-last tensor: (h·w·c, 1, w·c, c)."""
    conv, x = nn.Conv2d(1, 6, 5), torch.rand(2, 1, 8, 7)
    with fast_gray_gradients(nn.Sequential(conv)):
        y = conv(x)
    saved = y.grad_fn._saved_input
    assert (x.stride(), saved.stride()) == ((56, 56, 7, 1), (56, 1, 7, 1))
    assert saved.data_ptr() == x.data_ptr()
    assert saved_strides(conv, x) == x.stride()  # afterwards the network is as it was


@pytest.mark.parametrize(
    ("conv", "processor"),
    [
        (nn.Conv2d(3, 6, 5), "AVX2"),
        (nn.Conv2d(1, 64, 3), "AVX2"),
        (nn.Conv2d(1, 96, 11), "AVX2"),
        (nn.Conv2d(1, 6, 5), "AVX512"),
        (nn.Conv2d(1, 6, 5), "DEFAULT"),
    ],
)
def test_other_images_windows_and_processors_are_left_alone(conv, processor, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    x = torch.rand(2, conv.in_channels, 12, 12)
    with fast_gray_gradients(nn.Sequential(conv)):
        assert saved_strides(conv, x) == x.stride()


def test_an_image_that_is_changed_before_its_gradient_is_found(avx2):
    """As autograd finds it itself."""
    conv, x = nn.Conv2d(1, 6, 5), torch.rand(2, 1, 8, 8)
    with fast_gray_gradients(conv):
        y = conv(x)
        x += 1
        with pytest.raises(RuntimeError, match="changed in place"):
            y.sum().backward()


def test_after_an_error_in_the_layer_nothing_is_left(avx2):
    conv, other = nn.Conv2d(1, 6, 5), nn.Conv2d(1, 6, 5)
    x = torch.rand(2, 1, 8, 8)
    with fast_gray_gradients(conv):
        with pytest.raises(RuntimeError, match="channels"):
            conv(torch.rand(2, 3, 8, 8))
        assert saved_strides(other, x) == x.stride()


@pytest.mark.parametrize("compiled", [False, True])
def test_runs_have_it_that_are_not_compiled(compiled, avx2, monkeypatch, tmp_path):
    hooked, train_steps = [], trainer.train_steps

    def watched(net, *args):
        hooked.append(any(module._forward_pre_hooks for module in net.modules()))
        return train_steps(net, *args)

    monkeypatch.setattr(trainer, "train_steps", watched)
    monkeypatch.setattr(trainer, "compile_network", lambda *_: None)
    flags = {"arch": "lenet", "data": "sample", "device": "cpu", "epochs": 1, "batch_size": 500}
    train(**flags, compile=compiled, out=str(tmp_path / "r"))
    assert hooked == [not compiled]
