"""Layers that are computed faster while a run lasts give what torch's give."""

import copy
import math
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils._python_dispatch import TorchDispatchMode

from torchcnn.benchmark import ways
from torchcnn.layers import SameConv2d, SameMaxPool2d
from torchcnn.scratch.network import from_scratch
from torchcnn.train import train
from torchcnn.training import fast_layers as module
from torchcnn.training import fastest, trainer
from torchcnn.training.fast_layers import fast_layers

HAS_AVX2 = torch.backends.cpu.get_cpu_capability() == "AVX2"


@pytest.fixture
def no_minimum(monkeypatch):
    """Max pooling is faster for as few elements as a test has, too."""
    monkeypatch.setattr(module, "POOLED_PER_THREAD", 0)


def pooled(layer, x, context=fast_layers):
    """What a layer gives inside of the context, the images' gradient, and by what."""
    x = x.detach().requires_grad_()
    with context(nn.Sequential(layer)):
        y = layer(x)
        weight = torch.linspace(-1, 1, y.numel()).view_as(y).to(y.dtype)  # each window another
        (gradient,) = torch.autograd.grad(y, x, weight)
    return y, gradient, y.grad_fn.name()


POOLINGS = {
    "number": lambda: nn.MaxPool2d(2),
    "pair": lambda: nn.MaxPool2d((2, 2), stride=(2, 2), ceil_mode=True),
    "keras": lambda: SameMaxPool2d(2),
}


@pytest.mark.parametrize("layer", POOLINGS.values(), ids=POOLINGS)
@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (1, 1, 2, 2), (3, 5, 2, 14)])
def test_max_pooling_is_that_of_torch_to_the_bit(layer, shape, no_minimum):
    """Images of few values have windows with several maxima; the first one has the gradient."""
    torch.manual_seed(0)
    for x in (torch.randn(shape), torch.randint(-1, 2, shape).float(), torch.randn(shape).relu()):
        y, gradient, name = pooled(layer(), x)
        assert name == "_MaxPool2x2Backward"
        expected, expected_gradient, _ = pooled(nn.MaxPool2d(2), x, nullcontext)
        assert torch.equal(y, expected) and torch.equal(gradient, expected_gradient)
        assert gradient.stride() == x.stride()


def test_where_the_maximum_is(no_minimum):
    """Each place of a window once, and where two are equal the first, row by row, by hand."""
    windows = [[[9, 1], [2, 3]], [[1, 9], [2, 3]], [[1, 2], [9, 3]], [[1, 2], [3, 9]]]
    windows += [[[9, 9], [1, 2]], [[1, 9], [9, 2]], [[1, 2], [9, 9]], [[0, 9], [1, 9]]]
    first = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0), (0, 1), (1, 0), (0, 1)]
    x = torch.tensor(windows).float().unsqueeze(1).requires_grad_()
    with fast_layers(layer := nn.MaxPool2d(2)):
        y = layer(x)
    y.sum().backward()
    assert y.flatten().tolist() == [9] * 8
    places = [tuple(image[0].nonzero()[0].tolist()) for image in x.grad]
    assert places == first and x.grad.sum() == 8


@pytest.mark.parametrize(
    "after",
    [
        lambda y: y.permute(0, 2, 3, 1) @ torch.arange(4.0),
        lambda y: y.flatten(2).transpose(1, 2).cumsum(2),
        lambda y: F.conv2d(y, torch.ones(4, 4, 1, 1).to(memory_format=torch.channels_last)),
        lambda y: y.sum(),
        lambda y: y[1:, ::2, 1:],
    ],
    ids=["permuted", "transposed", "channels-last", "expanded", "sliced"],
)
def test_however_the_gradient_lies_in_memory(after, no_minimum):
    gradients = []
    for context in (fast_layers, nullcontext):
        x = torch.randn(3, 4, 6, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with context(layer := nn.MaxPool2d(2)):
            after(layer(x)).square().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


def test_transforms_of_torch_func_go_through_max_pooling(no_minimum):
    x = torch.randn(5, 2, 4, 4)

    def loss(x, layer):
        return layer(x[None]).square().sum()

    expected = torch.func.vmap(torch.func.grad(loss), (0, None))(x, nn.MaxPool2d(2))
    with fast_layers(layer := nn.MaxPool2d(2)):
        assert torch.equal(torch.func.vmap(torch.func.grad(loss), (0, None))(x, layer), expected)
        assert torch.equal(layer(input=x), F.max_pool2d(x, 2))  # by its keyword, as in torch
        with pytest.raises(TypeError, match="unexpected keyword"):
            layer(x, size=2)


def test_max_pooling_lets_nan_and_infinity_through(no_minimum):
    """A network that diverges must be seen to, by the loss."""
    for value in (math.nan, math.inf):
        for place in ((0, 0), (0, 1), (1, 0), (1, 1)):
            x = torch.zeros(1, 1, 2, 2)
            x[0, 0][place] = value
            y, *_ = pooled(nn.MaxPool2d(2), x)
            torch.testing.assert_close(y, F.max_pool2d(x, 2), rtol=0, atol=0, equal_nan=True)


def test_the_gradient_of_max_pooling_has_a_gradient(no_minimum):
    """By finite differences, in float64, for penalties on gradients."""
    x = torch.randperm(48).double().view(2, 1, 4, 6).requires_grad_()

    def pool(x):
        return module._MaxPool2x2.apply(x)[0]

    assert torch.autograd.gradcheck(pool, x) and torch.autograd.gradgradcheck(pool, x)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.MaxPool2d(3), torch.rand(1, 2, 6, 6)),
        (nn.MaxPool2d(3, stride=2), torch.rand(1, 2, 6, 6)),
        (nn.MaxPool2d((2, 3)), torch.rand(1, 2, 6, 6)),
        (nn.MaxPool2d(2, stride=1), torch.rand(1, 2, 6, 6)),
        (nn.MaxPool2d(2, padding=1), torch.rand(1, 2, 6, 6)),
        (nn.MaxPool2d(2, dilation=2), torch.rand(1, 2, 6, 6)),
        (nn.MaxPool2d(2), torch.rand(1, 2, 5, 6)),
        (nn.MaxPool2d(2), torch.rand(1, 2, 6, 5)),
        (SameMaxPool2d(2), torch.rand(1, 2, 5, 5)),
        (nn.MaxPool2d(2), torch.rand(2, 6, 6)),
        (nn.MaxPool2d(2), torch.rand(1, 2, 6, 6).double()),
        (nn.MaxPool2d(2), torch.rand(1, 2, 6, 6).bfloat16()),
        (nn.MaxPool2d(2), torch.rand(1, 2, 6, 6).to(memory_format=torch.channels_last)),
        (nn.MaxPool2d([2, 2]), torch.rand(1, 2, 6, 6)),
    ],
)
def test_other_poolings_are_those_of_torch(layer, x, no_minimum):
    """Windows, sizes and formats for which this is not."""
    y, gradient, name = pooled(layer, x)
    assert "MaxPool2x2" not in name
    expected, expected_gradient, _ = pooled(layer, x, nullcontext)
    assert torch.equal(y, expected) and torch.equal(gradient, expected_gradient)


def test_few_elements_a_thread_are_pooled_by_torch(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for n, expected in ((999, "MaxPool2DWithIndicesBackward0"), (1000, "_MaxPool2x2Backward")):
        assert pooled(nn.MaxPool2d(2), torch.rand(n, 1, 10, 10))[2] == expected


def test_pooling_elsewhere_than_on_a_cpu_is_left_alone(no_minimum):
    """On the meta device, which stands for a GPU, and in oneDNN's own format."""
    with fast_layers(layer := nn.MaxPool2d(2, stride=2)):
        x = torch.rand(1, 2, 4, 4, device="meta", requires_grad=True)
        assert "MaxPool2x2" not in layer(x).grad_fn.name()
        assert layer(torch.ones(1, 2, 4, 4).to_mkldnn()).to_dense().sum() == 8


def test_pooling_by_hand_by_index_or_compiled_is_left_alone(no_minimum, monkeypatch):
    by_hand = from_scratch(nn.Sequential(SameMaxPool2d(2), nn.MaxPool2d(2)))
    with fast_layers(by_hand):
        assert not any("forward" in vars(layer) for layer in by_hand)
    with fast_layers(layer := nn.MaxPool2d(2, return_indices=True)):
        assert len(layer(torch.rand(1, 1, 2, 2))) == 2
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert "MaxPool2x2" not in pooled(nn.MaxPool2d(2), torch.rand(1, 1, 2, 2))[2]


class Operations(TorchDispatchMode):
    """Lists the names of torch's operations that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_only_training_compares_to_find_where_the_maximum_is(requires_grad, training, no_minimum):
    layer, x = nn.MaxPool2d(2), torch.rand(1, 1, 4, 4, requires_grad=requires_grad)
    with fast_layers(layer), torch.set_grad_enabled(training), Operations() as operations:
        y = layer(x)
    assert torch.equal(y, F.max_pool2d(x, 2)) and y.requires_grad == (requires_grad and training)
    assert operations.names.count("aten::maximum") == 2
    assert operations.names.count("aten::gt.Tensor") == 2 * (requires_grad and training)
    assert "forward" not in vars(layer)


def test_no_gradient_is_made_for_what_has_none(no_minimum):
    with fast_layers(layer := nn.MaxPool2d(2)):
        loss = layer(torch.rand(1, 1, 4, 4, requires_grad=True)).sum()
    with Operations() as operations:
        loss.backward()
    assert "aten::zeros" not in operations.names and "aten::mul.Tensor" in operations.names


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
    with fast_layers(net):
        assert saved_strides(layer, x)[1] == 1
        got = gradients(net, x)
    torch.testing.assert_close(got, expected, **({"rtol": 0, "atol": 0} if HAS_AVX2 else {}))
    strides = [p.stride() for p in net.parameters()]
    assert [p.grad.stride() for p in net.parameters()] == strides, "data parallelism warns"


def test_gray_images_are_saved_as_channels_last_without_a_copy(avx2):
    """By torch's rule for the strides of a channels-last tensor: (h·w·c, 1, w·c, c)."""
    conv, x = nn.Conv2d(1, 6, 5), torch.rand(2, 1, 8, 7)
    with fast_layers(nn.Sequential(conv)):
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
    with fast_layers(nn.Sequential(conv)):
        assert saved_strides(conv, x) == x.stride()


def test_bfloat16_frozen_and_computed_weights_are_left_alone(avx2):
    conv, x = nn.Conv2d(1, 6, 5), torch.rand(2, 1, 8, 8)
    with fast_layers(conv), torch.autocast("cpu", torch.bfloat16):
        assert saved_strides(conv, x) == x.stride()
    computed = spectral_norm(nn.Conv2d(1, 6, 5))
    conv.weight.requires_grad = False
    with fast_layers(nn.Sequential(conv, computed)):
        assert "forward" not in vars(conv) | vars(computed)


@pytest.mark.parametrize(
    "weight",
    [
        torch.randn(5, 5, 1, 6, generator=torch.Generator().manual_seed(0)).permute(3, 2, 0, 1),
        torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))[:, :1],
        torch.randn(6, 1, 5, 5, generator=torch.Generator().manual_seed(0)),
    ],
    ids=["permuted", "sliced", "contiguous"],
)
def test_gradients_of_weights_however_they_lie_in_memory(weight, avx2):
    """With a further term of the loss, whose gradient lies otherwise in memory or is expanded."""
    conv, x = nn.Conv2d(1, 6, 5), torch.rand(16, 1, 28, 28)
    conv.weight = nn.Parameter(weight)
    factors = torch.rand(weight.transpose(2, 3).shape)
    for term in (
        lambda: conv(x).square().sum(),
        lambda: conv(x).sum() + (conv.weight.transpose(2, 3) * factors).sum(),
        lambda: conv.weight.sum(),
    ):
        with fast_layers(conv):
            (got,) = torch.autograd.grad(term(), conv.weight)
        (expected,) = torch.autograd.grad(term(), conv.weight)
        torch.testing.assert_close(got, expected)


def test_images_that_need_a_gradient_have_that_of_torch(avx2):
    """To the bit; oneDNN would compute it otherwise beside channels-last images."""
    conv, images = nn.Conv2d(1, 6, 5, padding=2), torch.rand(8, 1, 28, 28)

    def gradient(keyword=False):
        x = images.clone().requires_grad_()
        y = conv(input=x) if keyword else conv(x)
        y.square().sum().backward()
        return x.grad

    expected = gradient()
    with fast_layers(conv):
        assert torch.equal(gradient(), expected)
        assert torch.equal(gradient(keyword=True), expected)


def test_it_is_not_done_without_onednn_or_while_compiling(avx2, monkeypatch):
    conv, x = nn.Conv2d(1, 6, 5), torch.rand(2, 1, 8, 8)
    with fast_layers(conv), monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert saved_strides(conv, x) == x.stride()
    monkeypatch.setattr(module, "mkldnn", SimpleNamespace(enabled=False))
    with fast_layers(conv):
        assert "forward" not in vars(conv)


def test_a_forward_pass_that_somebody_has_replaced_is_kept(avx2):
    """By this, in a run inside of such a context, or by a GPU's graphs."""
    conv = nn.Conv2d(1, 6, 5)
    conv.forward = own = lambda x: x
    with fast_layers(conv):
        assert conv.forward is own
    assert conv.forward is own
    with fast_layers(pool := nn.MaxPool2d(2)):
        pool.forward = own
    assert pool.forward is own


def test_an_image_that_is_changed_before_its_gradient_is_found(avx2):
    """As autograd finds it itself."""
    conv, x = nn.Conv2d(1, 6, 5), torch.rand(2, 1, 8, 8)
    with fast_layers(conv):
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
    with pytest.raises(error), fast_layers(nn.Sequential(broken, conv)):
        broken(x)
    assert saved_strides(other, x) == saved_strides(conv, x) == x.stride()
    assert "forward" not in vars(broken) and not conv.weight._backward_hooks


def test_a_copy_of_the_network_uses_its_own_weights(avx2):
    conv, x = nn.Conv2d(1, 6, 5), torch.rand(2, 1, 8, 8)
    with fast_layers(conv):
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

    monkeypatch.setattr(ways, "fast_layers", watched)
    monkeypatch.setattr(fastest, "fast_layers", watched)
    cpu = torch.device("cpu")
    task = ways.Task(arch="lenet", data="sample", root="data", device=cpu, images=64,
                     batch_size=32, input_size=28, small_input=False)  # fmt: skip
    ways.make_way("torchcnn", task).train_epoch()
    assert len(seen) == 1
    step = fastest.make_step(nn.Sequential(nn.Conv2d(1, 6, 5), nn.Flatten()), "off", False)
    step(torch.rand(2, 1, 5, 5), torch.tensor([0, 1]))
    assert len(seen) == 2
