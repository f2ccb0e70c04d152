"""Gradients derived on paper against autograd through torch's own layers."""

import pytest
import torch
import torch.nn.functional as F

from torchcnn import scratch

F64 = torch.float64


def check(y, inputs, backward):
    """`backward(g)` gives the gradients of `inputs` that autograd gives for an upstream g."""
    g = torch.randn_like(y)
    found = backward(g)
    expected = torch.autograd.grad(y, inputs, g)
    for a, b in zip(found if isinstance(found, tuple) else (found,), expected, strict=True):
        torch.testing.assert_close(a, b.view(a.shape), rtol=1e-11, atol=1e-11)


def leaf(*shape):
    return torch.randn(shape, dtype=F64, requires_grad=True)


def test_linear():
    x, w, b = leaf(5, 3), leaf(4, 3), leaf(4)
    check(F.linear(x, w, b), (x, w, b), lambda g: scratch.linear_backward(g, x, w))


@pytest.mark.parametrize("size", [(7, 7), (8, 6)])
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2}, {"stride": (3, 2), "padding": (1, 2)}, {"dilation": 2, "padding": 1},
     {"groups": 2}, {"stride": 2, "padding": 1, "groups": 2}],
    ids=str,
)  # fmt: skip
def test_conv2d(size, options):
    x, w, b = leaf(2, 4, *size), leaf(6, 4 // options.get("groups", 1), 3, 2), leaf(6)
    check(F.conv2d(x, w, b, **options), (x, w, b),
          lambda g: scratch.conv2d_backward(g, x, w, **options))  # fmt: skip


@pytest.mark.parametrize("size", [(7, 7), (8, 6)])
@pytest.mark.parametrize(
    "options",
    [{"kernel_size": 2}, {"kernel_size": 3, "stride": 2}, {"kernel_size": 3, "stride": 1},
     {"kernel_size": (3, 2), "stride": 2, "padding": (1, 0)}],
    ids=str,
)  # fmt: skip
def test_poolings(size, options):
    x = leaf(2, 3, *size)
    check(F.avg_pool2d(x, **options), (x,),
          lambda g: scratch.avg_pool2d_backward(g, x, **options))  # fmt: skip
    for more in ({}, {"ceil_mode": True}):
        given = options | more
        check(F.max_pool2d(x, **given), (x,),
              lambda g, given=given: scratch.max_pool2d_backward(g, x, **given))  # fmt: skip


def test_max_pooling_of_equal_numbers_goes_to_the_first():
    x = torch.zeros(1, 1, 2, 2, dtype=F64)
    g = scratch.max_pool2d_backward(torch.ones(1, 1, 1, 1, dtype=F64), x, 2)
    assert g.flatten().tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5, 2)])
def test_batch_norm(shape):
    x, c = leaf(*shape), shape[1]
    stat = (1, c) if len(shape) == 2 else (1, c, 1, 1)
    gamma, beta = leaf(*stat), leaf(*stat)
    y = F.batch_norm(x, None, None, gamma.flatten(), beta.flatten(), True, eps=1e-3)
    check(y, (x, gamma, beta), lambda g: scratch.batch_norm_backward(g, x, gamma, 1e-3))


def test_softmax_with_cross_entropy():
    x, classes = leaf(5, 7), torch.tensor([0, 6, 3, 3, 1])
    (expected,) = torch.autograd.grad(F.cross_entropy(x, classes), x)
    found = scratch.softmax_cross_entropy_backward(x, classes)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    # Two classes and equal logits: half wrong about either, over n = 1.
    found = scratch.softmax_cross_entropy_backward(torch.zeros(1, 2), torch.tensor([1]))
    assert found.tolist() == [[0.5, -0.5]]
