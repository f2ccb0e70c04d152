"""What is set for a device, and the gradient of gray images, which is the same as without."""

import copy
import os
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from torchcnn.benchmark import ways
from torchcnn.layers import SameConv2d
from torchcnn.train import train
from torchcnn.training import device, fastest, trainer
from torchcnn.training.device import fast_gray_gradients, set_up_device

HAS_AVX2 = torch.backends.cpu.get_cpu_capability() == "AVX2"


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


def saved_strides(conv, x):
    """How the images lie in memory of which a convolution takes its gradient."""
    return conv(x).grad_fn._saved_input.stride()


@pytest.mark.parametrize("size", [64, 65])
@pytest.mark.parametrize(
    "conv",
    [
        lambda: nn.Conv2d(1, 6, 5, padding=2),
        lambda: nn.Conv2d(1, 16, (5, 7), stride=3, bias=False),
        lambda: SameConv2d(1, 64, 7, stride=2),
    ],
    ids=["lenet", "stride", "tf_googlenet"],
)
def test_gradients_of_gray_images_are_the_same(conv, size, avx2):
    """To the last bit with oneDNN's code for AVX2; on other processors it is only taken here."""
    torch.manual_seed(0)
    layer = conv()
    net = nn.Sequential(layer, nn.Sigmoid(), nn.MaxPool2d(2))
    x = torch.rand(8, 1, size, size)
    expected = gradients(net, x)
    with fast_gray_gradients(net):
        assert saved_strides(layer, x)[1] == 1
        got = gradients(net, x)
    torch.testing.assert_close(got, expected, **({"rtol": 0, "atol": 0} if HAS_AVX2 else {}))
    strides = [p.stride() for p in net.parameters()]
    assert [p.grad.stride() for p in net.parameters()] == strides, "data parallelism warns"


def test_gray_images_are_saved_as_channels_last_without_a_copy(avx2):
    """By torch's rule for the strides of a channels-last tensor: (h·w·c, 1, w·c, c)."""
    conv, x = nn.Conv2d(1, 6, 5), torch.rand(2, 1, 8, 7)
    with fast_gray_gradients(nn.Sequential(conv)):
        y = conv(x)
    saved = y.grad_fn._saved_input
    assert (x.stride(), saved.stride()) == ((56, 56, 7, 1), (56, 1, 7, 1))
    assert saved.data_ptr() == x.data_ptr()
    assert y.grad_fn._saved_weight.stride() == (25, 25, 5, 1)  # left alone, as all else
    assert saved_strides(conv, x) == x.stride()  # afterwards the network is as it was


@pytest.mark.parametrize(
    ("conv", "processor"),
    [
        (nn.Conv2d(3, 6, 5), "AVX2"),
        (nn.Conv2d(1, 64, 3), "AVX2"),
        (nn.Conv2d(1, 96, 11), "AVX2"),
        (nn.Conv2d(1, 6, (3, 7)), "AVX2"),
        (nn.Conv2d(1, 6, 5, dilation=2), "AVX2"),
        (nn.Conv2d(1, 6, 5).double(), "AVX2"),
        (nn.Conv2d(1, 6, 5), "AVX512"),
        (nn.Conv2d(1, 6, 5), "DEFAULT"),
    ],
)
def test_what_is_not_faster_so_is_left_alone(conv, processor, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    x = torch.rand(2, conv.in_channels, 12, 12, dtype=conv.weight.dtype)
    with fast_gray_gradients(nn.Sequential(conv)):
        assert saved_strides(conv, x) == x.stride()


def test_bfloat16_frozen_and_computed_weights_are_left_alone(avx2):
    conv, x = nn.Conv2d(1, 6, 5), torch.rand(2, 1, 8, 8)
    with fast_gray_gradients(conv), torch.autocast("cpu", torch.bfloat16):
        assert saved_strides(conv, x) == x.stride()
    computed = spectral_norm(nn.Conv2d(1, 6, 5))
    conv.weight.requires_grad = False
    with fast_gray_gradients(nn.Sequential(conv, computed)):
        assert "forward" not in vars(conv) | vars(computed)


def test_it_is_not_done_without_onednn_or_while_compiling(avx2, monkeypatch):
    conv, x = nn.Conv2d(1, 6, 5), torch.rand(2, 1, 8, 8)
    with fast_gray_gradients(conv), monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert saved_strides(conv, x) == x.stride()
    monkeypatch.setattr(device, "mkldnn", SimpleNamespace(enabled=False))
    with fast_gray_gradients(conv):
        assert "forward" not in vars(conv)


def test_a_forward_pass_that_somebody_has_replaced_is_kept(avx2):
    """By this, in a run inside of such a context, or by a GPU's graphs."""
    conv = nn.Conv2d(1, 6, 5)
    conv.forward = own = lambda x: x
    with fast_gray_gradients(conv):
        assert conv.forward is own
    assert conv.forward is own


def test_an_image_that_is_changed_before_its_gradient_is_found(avx2):
    """As autograd finds it itself."""
    conv, x = nn.Conv2d(1, 6, 5), torch.rand(2, 1, 8, 8)
    with fast_gray_gradients(conv):
        y = conv(x)
        x += 1
        with pytest.raises(RuntimeError, match="changed in place"):
            y.sum().backward()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_error_nothing_is_left(error, avx2):
    """Neither where another convolution saves its images, nor in the network."""

    class Broken(nn.Conv2d):
        def forward(self, x):
            raise error

    broken, conv, other = Broken(1, 6, 5), nn.Conv2d(1, 6, 5), nn.Conv2d(1, 6, 5)
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(error), fast_gray_gradients(nn.Sequential(broken, conv)):
        broken(x)
    assert saved_strides(other, x) == saved_strides(conv, x) == x.stride()
    assert "forward" not in vars(broken) and not conv.weight._backward_hooks


def test_a_copy_of_the_network_uses_its_own_weights(avx2):
    conv, x = nn.Conv2d(1, 6, 5), torch.rand(2, 1, 8, 8)
    with fast_gray_gradients(conv):
        copied = copy.deepcopy(conv)
        nn.init.zeros_(copied.weight)
        assert torch.equal(copied(x), copied.bias.view(6, 1, 1).expand(2, 6, 4, 4))


@pytest.mark.parametrize("compiled", [False, True])
def test_runs_have_it_that_are_not_compiled(compiled, avx2, monkeypatch, tmp_path):
    seen, train_steps = [], trainer.train_steps

    def watched(net, *args):
        seen.append(any("forward" in vars(module) for module in net.modules()))
        return train_steps(net, *args)

    monkeypatch.setattr(trainer, "train_steps", watched)
    monkeypatch.setattr(trainer, "compile_network", lambda *_: None)
    flags = {"arch": "lenet", "data": "sample", "device": "cpu", "epochs": 1, "batch_size": 500}
    train(**flags, compile=compiled, out=str(tmp_path / "r"))
    assert seen == [not compiled]


def test_the_benchmark_and_the_choice_of_a_format_measure_it(avx2, monkeypatch):
    """As a run trains: each epoch and each step that is measured is inside of it."""
    seen = []

    @contextmanager
    def watched(net):
        seen.append(net)
        yield

    monkeypatch.setattr(ways, "fast_gray_gradients", watched)
    monkeypatch.setattr(fastest, "fast_gray_gradients", watched)
    cpu = torch.device("cpu")
    task = ways.Task(arch="lenet", data="sample", root="data", device=cpu, images=64,
                     batch_size=32, input_size=28, small_input=False)  # fmt: skip
    ways.make_way("torchcnn", task).train_epoch()
    assert len(seen) == 1
    step = fastest.make_step(nn.Sequential(nn.Conv2d(1, 6, 5), nn.Flatten()), "off", False)
    step(torch.rand(2, 1, 5, 5), torch.tensor([0, 1]))
    assert len(seen) == 2
