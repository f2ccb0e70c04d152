"""Half precision: the hand-written operations are as accurate as torch's, and do not overflow."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcnn import create_model, scratch

HALF = [torch.float16, torch.bfloat16]


def every_number(dtype):
    """All finite numbers of 16 bits."""
    numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    return numbers[numbers.isfinite()]


def value_and_gradient(function, x):
    x = x.clone().requires_grad_()
    y = function(x)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return y, torch.autograd.grad(y, x, upstream)[0]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh"])
def test_activations_of_every_number(name, dtype):
    """Within one unit in the last place of torch; gradients within that of float32's."""
    theirs = getattr(torch if name in ("sigmoid", "tanh") else F, name)
    x, eps = every_number(dtype), torch.finfo(dtype).eps
    y, grad = value_and_gradient(getattr(scratch, name), x)
    assert y.dtype == grad.dtype == dtype and grad.isfinite().all()
    torch.testing.assert_close(y, theirs(x), rtol=eps, atol=1e-37)
    exact = value_and_gradient(theirs, x.float())[1]
    torch.testing.assert_close(grad.float(), exact, rtol=4 * eps, atol=eps)


def test_batch_norm_on_paper():
    """300 and -300: mean 0, variance 90,000, which float16 cannot hold."""
    for dtype in HALF:
        X = torch.tensor([[300.0], [-300.0]], dtype=dtype)
        one = torch.ones(1, 1, dtype=dtype)
        for statistics in (one, one.float()):
            y, mean, var = scratch.batch_norm(
                True, X, one, one, statistics, 0 * statistics, eps=0.0, momentum=0.5
            )
            assert y.tolist() == [[2.0], [0.0]] and y.dtype == dtype
            assert mean.dtype == var.dtype == statistics.dtype
            assert mean.item() == 0.5
            assert var.item() == torch.tensor(45_000.0, dtype=var.dtype).item()
        y, _, _ = scratch.batch_norm(False, X, one, one, 0 * one, one, eps=0.0, momentum=0.5)
        assert y.tolist() == (X + 1).tolist()


CLASSES = torch.arange(4 * 5 * 6).view(4, 5, 6) % 3
W, B = torch.tensor([0.5, 2.0, 1.5, 0.75, 1.0, 1.25]), torch.tensor([1.0, -1, 0, 0.5, 2, -0.5])
KERNEL = torch.randn(5, 6, 3, 3, generator=torch.Generator().manual_seed(0)) / 8


def mixed(x):
    """Probabilities that are not those of the logits x."""
    return x.detach().flip(1).softmax(1)


def batch_norm(m, x, w, b):
    if m is F:
        return F.batch_norm(x, None, None, w, b, True)
    w, b = w.view(1, -1, 1, 1), b.view(1, -1, 1, 1)
    return scratch.batch_norm(True, x, w, b, 0 * w, w, 1e-5, 0.9)[0]


def local_response_norm(m, x):
    if m is F:  # which does not have it in half precision on a CPU
        return F.local_response_norm(x.float(), 5).to(x.dtype)
    return scratch.local_response_norm(x, 5)


# `m` is ours or torch's; images x (4, 6, 5, 6), weights w and b (6,) and k (5, 6, 3, 3).
OPERATIONS = {
    "batch_norm": lambda m, x, w, b, k: batch_norm(m, x, w, b),
    "instance_norm": lambda m, x, w, b, k: m.instance_norm(x, weight=w, bias=b),
    "group_norm": lambda m, x, w, b, k: m.group_norm(x, 3, w, b),
    "layer_norm": lambda m, x, w, b, k: m.layer_norm(x, (6,), w, b),
    "local_response_norm": lambda m, x, w, b, k: local_response_norm(m, x),
    "softmax": lambda m, x, w, b, k: m.softmax(x, 1),
    "log_softmax": lambda m, x, w, b, k: m.log_softmax(x, 1),
    "cross_entropy": lambda m, x, w, b, k: m.cross_entropy(x, CLASSES, w),
    "smoothed": lambda m, x, w, b, k: m.cross_entropy(x, CLASSES, label_smoothing=0.2),
    "probabilities": lambda m, x, w, b, k: m.cross_entropy(x, mixed(x)),
    "mse_loss": lambda m, x, w, b, k: m.mse_loss(x, x.detach().flip(0)),
    "l1_loss": lambda m, x, w, b, k: m.l1_loss(x, x.detach().flip(0)),
    "avg_pool2d": lambda m, x, w, b, k: m.avg_pool2d(x, 3, 2, 1),
    "max_pool2d": lambda m, x, w, b, k: m.max_pool2d(x, 3, 2, 1),
    "linear": lambda m, x, w, b, k: m.linear(x, k[:, :, 0, 0]),
    "conv2d": lambda m, x, w, b, k: m.conv2d(x, k, b[:5]),
}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("scale", [1, 30, 1000, 15_000])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_torchs(name, scale, dtype):
    """Values and gradients within a few roundings of torch, of which none is infinite here only."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(4, 6, 5, 6, generator=generator).clamp(-4, 4) * scale).to(dtype)
    weights = [t.to(dtype) for t in (W, B, KERNEL)]
    found, expected = (
        value_and_gradient(lambda x, m=m: OPERATIONS[name](m, x, *weights), x) for m in (scratch, F)
    )
    eps = torch.finfo(dtype).eps
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype == dtype
        finite = b.isfinite()
        assert a[finite].isfinite().all()
        a, b = a[finite].float(), b[finite].float()
        # The gradient of a softmax is a difference of numbers up to 1.
        largest = max([0.01, *b.abs().flatten().tolist()])
        torch.testing.assert_close(a, b, rtol=4 * eps, atol=4 * eps * largest)
    assert found[1].isfinite().all()


@pytest.mark.parametrize("dtype", HALF)
def test_sums_that_half_precision_cannot_hold(dtype):
    """1000 losses of 100 are 100,000 together; a mean of nine 60,000 is 60,000."""
    zeros = torch.zeros(1000, dtype=dtype)
    for name, difference in (("mse_loss", 10), ("l1_loss", 100)):
        assert getattr(scratch, name)(zeros + difference, zeros).item() == 100
    big = torch.full((1, 1, 3, 3), 60_000.0, dtype=dtype)
    assert scratch.avg_pool2d(big, 3).item() == big[0, 0, 0, 0].item()
    assert scratch.local_response_norm(big, 3, alpha=0.0).equal(big)
    # 16 channels of 3750 are 60,000; twice that, and once taken away again.
    image, kernel = torch.ones(1, 16, 1, 3, dtype=dtype), torch.ones(1, 16, 1, 3, dtype=dtype)
    kernel *= 3750 * torch.tensor([1, 1, -1])
    assert scratch.conv2d(image, kernel).item() == F.conv2d(image, kernel).item()
    matrix = kernel[0].flatten(1) / 16 + 0 * image[0].flatten(1)
    found = scratch.corr2d(matrix * 16, torch.ones_like(matrix))
    assert found.item() == F.conv2d(image, kernel).item()


@pytest.mark.parametrize("dtype", HALF)
def test_backward_passes(dtype):
    """Those of torch in float32, up to the rounding of the result."""
    x, g = (300 * torch.randn(2, 6, 4, 4)).to(dtype), torch.randn(2, 6, 4, 4).to(dtype)
    gamma = W.to(dtype).view(1, 6, 1, 1)
    single = [t.float().requires_grad_() for t in (x, gamma)]
    expected = torch.autograd.grad(
        F.batch_norm(single[0], None, None, single[1].flatten(), None, True), single, g.float()
    )
    found = scratch.batch_norm_backward(g, x, gamma, 1e-5)
    eps = torch.finfo(dtype).eps
    for a, b in zip(found, expected, strict=False):
        assert a.dtype == dtype
        torch.testing.assert_close(a.float(), b.view(a.shape), rtol=eps, atol=1e-6)
    logits, classes = x[:, :, 0, 0], torch.tensor([1, 5])
    single = logits.float().requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(single, classes), single)
    found = scratch.softmax_cross_entropy_backward(logits, classes)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=eps, atol=1e-6)


@pytest.mark.parametrize("dtype", HALF)
def test_a_network_by_hand(dtype):
    """It is as close to the network in float64 as torch's layers are."""
    net = create_model("resnet18", input_size=32).to(dtype)
    exact, x = copy.deepcopy(net).double(), torch.randn(4, 1, 32, 32).to(dtype)
    before = copy.deepcopy(net.state_dict())
    results = []
    for one, image in ((exact, x.double()), (net, x), (scratch.from_scratch(net), x)):
        net.load_state_dict(before)
        y = one.train()(image)
        assert y.dtype == image.dtype
        statistics = torch.cat([b.flatten().double() for n, b in one.named_buffers() if "var" in n])
        results.append([t.detach().double() for t in (y, one.eval()(image), statistics)])
    for expected, theirs, ours in zip(*results, strict=True):
        assert (ours - expected).norm() < 1.5 * (theirs - expected).norm()


def test_batch_norm_layers_count_batches_beyond_half_precision():
    """Momentum None: after 4096 batches of ones and one of zeros the mean is 4096 / 4097."""
    norm = nn.BatchNorm1d(1, momentum=None)
    twin = scratch.from_scratch(norm)
    norm.num_batches_tracked.fill_(4096)
    norm.running_mean.fill_(1.0)
    twin(torch.tensor([[1.0], [-1.0]], dtype=torch.float16))
    assert norm.running_mean.item() == pytest.approx(4096 / 4097, abs=1e-7)
