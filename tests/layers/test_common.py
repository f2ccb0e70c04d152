"""Layers: the hand-written BatchNorm against torch's, and the faults of the tutorials' layers."""

from functools import partial

import pytest
import torch
from torch import nn

from torchcnn import BatchNorm, FlattenLayer, GlobalAvgPool2d
from torchcnn.layers import vector_norm

F64 = torch.float64
STEPS = 4


@pytest.mark.parametrize("shape", [(7, 3), (5, 3, 5, 7)])
def test_batch_norm_equals_torch_over_training_and_in_eval(shape):
    """Outputs, gradients and moving statistics over several optimizer steps, then in eval mode.

    On paper: both moving variances start at 1 and forget with 0.9, ours takes the biased batch
    variance v, torch's takes v n / (n - 1), n values a feature. After t steps, with
    s = sum_k 0.1 * 0.9^(t-k) v_k, ours is 0.9^t + s and torch's is 0.9^t + s n / (n - 1).
    """
    c, dims = shape[1], len(shape)
    ours = BatchNorm(c, dims).to(F64)
    theirs = (nn.BatchNorm1d if dims == 2 else nn.BatchNorm2d)(c).to(F64)
    optimizers = [torch.optim.SGD(net.parameters(), lr=1e-3) for net in (ours, theirs)]
    for _ in range(STEPS):
        x, target = torch.randn(shape, dtype=F64) * 3 + 1, torch.randn(shape, dtype=F64)
        results = []
        for net, optimizer in zip((ours, theirs), optimizers, strict=True):
            x_in = x.clone().requires_grad_()
            y = net(x_in)
            optimizer.zero_grad()
            ((y - target) ** 2).sum().backward()
            optimizer.step()
            results.append([y, x_in.grad, *(p.grad.flatten() for p in net.parameters())])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    # No graph is kept alive by what a step leaves for the next one.
    assert not any(b.requires_grad for b in ours.buffers())
    n = x.numel() / c
    kept = 0.9**STEPS
    torch.testing.assert_close(ours.moving_mean.flatten(), theirs.running_mean, rtol=0, atol=1e-12)
    corrected = (theirs.running_var - kept) * (n - 1) / n + kept
    torch.testing.assert_close(ours.moving_var.flatten(), corrected, rtol=0, atol=1e-12)

    theirs.running_var.copy_(corrected)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-11, atol=1e-11)
    before = ours.moving_mean.clone()
    ours(x + 100)
    assert torch.equal(before, ours.moving_mean)  # eval mode leaves them alone


def test_batch_norm_refuses_other_dimensions():
    with pytest.raises(ValueError, match="got 3"):
        BatchNorm(3, num_dims=3)
    with pytest.raises(ValueError, match="gamma must have the shape"):
        BatchNorm(3, num_dims=4)(torch.zeros(2, 3))


def test_flatten_works_in_channels_last():
    x = torch.randn(2, 3, 4, 5)
    last = x.to(memory_format=torch.channels_last)
    assert torch.equal(FlattenLayer()(last), x.reshape(2, -1))


def test_global_avg_pool_equals_torch():
    x = torch.randn(2, 3, 5, 3, dtype=F64)
    ours, theirs = GlobalAvgPool2d()(x), nn.functional.avg_pool2d(x, (5, 3))
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


def test_vector_norm_gives_the_twin():
    assert vector_norm(nn.BatchNorm2d) is nn.BatchNorm1d
    assert vector_norm(BatchNorm)(7)(torch.randn(2, 7)).shape == (2, 7)
    for norm in (lambda c: nn.GroupNorm(1, c), partial(nn.BatchNorm2d, eps=1e-3)):
        assert vector_norm(norm)(6)(torch.randn(3, 6)).shape == (3, 6)
