"""The hand-written operations against torch and against arithmetic on paper."""

import doctest
import importlib
import math
import pkgutil

import pytest
import torch
import torch.nn.functional as F

from torchcnn import batch_norm, corr2d, data_iter, linreg, scratch, sgd, squared_loss

F64 = torch.float64


@pytest.mark.parametrize("shape", [(7, 3), (8, 4), (5, 3, 5, 7), (4, 2, 6, 8)])
def test_batch_norm_equals_torch_in_value_and_gradient(shape):
    c = shape[1]
    stat_shape = (1, c) if len(shape) == 2 else (1, c, 1, 1)
    inputs = [torch.randn(shape), torch.randn(stat_shape), torch.randn(stat_shape)]
    ours = [t.to(F64).requires_grad_() for t in inputs]
    theirs = [t.to(F64).requires_grad_() for t in inputs]
    mean, var = torch.randn(stat_shape, dtype=F64), torch.rand(stat_shape, dtype=F64)
    upstream = torch.randn(shape, dtype=F64)
    for is_training in (True, False):
        y, _, _ = batch_norm(is_training, *ours, mean, var, eps=1e-5, momentum=0.9)
        expected = F.batch_norm(
            theirs[0], mean.flatten().clone(), var.flatten().clone(),
            theirs[1].flatten(), theirs[2].flatten(), is_training, 0.1, 1e-5,
        )  # fmt: skip
        torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)
        for a, b in zip(
            torch.autograd.grad(y, ours, upstream),
            torch.autograd.grad(expected, theirs, upstream),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_batch_norm_by_arithmetic():
    # One feature, values 1 and 3: mean 2, biased variance 1, so X_hat is -1 and 1.
    X = torch.tensor([[1.0], [3.0]], dtype=F64)
    one = torch.ones(1, 1, dtype=F64)
    y, mean, var = batch_norm(True, X, 2 * one, 5 * one, 4 * one, 3 * one, eps=0.0, momentum=0.9)
    assert y.flatten().tolist() == [3.0, 7.0]
    assert mean.item() == pytest.approx(0.9 * 4 + 0.1 * 2)
    assert var.item() == pytest.approx(0.9 * 3 + 0.1 * 1)
    y, mean, var = batch_norm(False, X, one, 0 * one, 1 * one, 4 * one, eps=0.0, momentum=0.9)
    assert y.flatten().tolist() == [0.0, 1.0]
    assert (mean.item(), var.item()) == (1.0, 4.0)


def test_batch_norm_refuses_what_it_cannot_normalise():
    one = torch.ones(1, 3)
    with pytest.raises(ValueError, match=r"\(2, 3, 4\)"):
        batch_norm(True, torch.zeros(2, 3, 4), one, one, one, one, 1e-5, 0.9)
    for n in (0, 1):
        with pytest.raises(ValueError, match="more than one value"):
            batch_norm(True, torch.zeros(n, 3), one, one, one, one, 1e-5, 0.9)
    for X in (torch.zeros(4, 1), torch.zeros(4, 3, 2, 2)):  # would broadcast
        with pytest.raises(ValueError, match="expected statistics"):
            batch_norm(False, X, one, one, one, one, 1e-5, 0.9)


@pytest.mark.parametrize(("h", "w", "kh", "kw"), [(5, 7, 3, 2), (6, 6, 1, 1), (4, 4, 4, 4)])
def test_corr2d_equals_torch_in_value_and_gradient(h, w, kh, kw):
    X, K = (torch.randn(s, dtype=F64, requires_grad=True) for s in ((h, w), (kh, kw)))
    ours, theirs = corr2d(X, K), F.conv2d(X[None, None], K[None, None])[0, 0]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, (X, K), upstream),
        torch.autograd.grad(theirs, (X, K), upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_corr2d_of_whole_numbers_and_fractions():
    found = corr2d(torch.arange(9).view(3, 3), torch.full((2, 2), 0.3))
    torch.testing.assert_close(found, torch.tensor([[2.4, 3.6], [6.0, 7.2]]))


def test_corr2d_refuses_a_kernel_larger_than_the_image():
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(3, 1\)"):
        corr2d(torch.zeros(2, 2), torch.zeros(3, 1))


def test_linreg_and_squared_loss_by_arithmetic():
    X, w, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[10.0], [1.0]]), torch.ones(1)
    y_hat = linreg(X, w, b)
    assert y_hat.tolist() == [[13.0], [35.0]]
    # Labels (n,) against predictions (n, 1): two losses, not four.
    assert squared_loss(y_hat, torch.tensor([11.0, 38.0])).tolist() == [[2.0], [4.5]]


def test_sgd_equals_torch_on_the_mean_loss():
    ours = torch.tensor([1.0, -2.0], dtype=F64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    without_grad = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([theirs], lr=0.3)
    for _ in range(3):
        ours.grad = None
        (ours**3).sum().backward()
        sgd([ours, without_grad], lr=0.3, batch_size=4)
        optimizer.zero_grad()
        ((theirs**3).sum() / 4).backward()
        optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)
    assert ours.requires_grad and ours.is_leaf


@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (9, 3), (2, 5)])
def test_data_iter_gives_every_example_once_with_its_label(n, batch_size):
    features, labels = torch.arange(2 * n).view(n, 2), torch.arange(n) * 10
    batches = list(data_iter(batch_size, features, labels))
    assert [len(x) for x, _ in batches] == [batch_size] * (n // batch_size) + (
        [n % batch_size] if n % batch_size else []
    )
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert y.sort().values.tolist() == labels.tolist()
    assert (x[:, 0] * 5 == y).all()  # still the pairs they were


def test_data_iter_shuffles_anew_and_follows_the_seed():
    def order(seed):
        torch.manual_seed(seed)
        return [y.tolist() for _, y in data_iter(8, torch.arange(64), torch.arange(64))]

    assert order(1) == order(1) != order(2)


@pytest.mark.parametrize(("batch_size", "labels"), [(0, 4), (2, 3)])
def test_data_iter_fails_at_once(batch_size, labels):
    with pytest.raises(ValueError, match=f"got {batch_size}, 4 features and {labels} labels"):
        data_iter(batch_size, torch.zeros(4), torch.zeros(labels))


def test_linear_regression_from_nothing_finds_the_line():
    w_true, b_true = torch.tensor([[2.0], [-3.4]]), 4.2
    features = torch.randn(500, 2)
    labels = linreg(features, w_true, torch.tensor(b_true)) + 0.01 * torch.randn(500, 1)
    w, b = torch.zeros(2, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
    for _ in range(5):
        for X, y in data_iter(10, features, labels):
            w.grad = b.grad = None
            squared_loss(linreg(X, w, b), y).sum().backward()
            sgd([w, b], 0.05, 10)
    # The estimate's standard error is 0.01 / sqrt(500), about 0.0005.
    torch.testing.assert_close(w.detach(), w_true, atol=0.005, rtol=0)
    assert math.isclose(b.item(), b_true, abs_tol=0.005)


def test_doctests():
    tried = 0
    for module in pkgutil.iter_modules(scratch.__path__):
        result = doctest.testmod(importlib.import_module(f"torchcnn.scratch.{module.name}"))
        assert result.failed == 0
        tried += result.attempted
    assert tried > 0
