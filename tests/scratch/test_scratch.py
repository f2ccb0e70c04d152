"""The hand-written operations against torch and against arithmetic on paper."""

import doctest
import importlib
import inspect
import math
import pkgutil
import re

import pytest
import torch
import torch.nn.functional as F

from torchcnn import batch_norm, corr2d, data_iter, linreg, scratch, sgd, squared_loss

F64 = torch.float64


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


def test_regressions_and_squared_loss_by_arithmetic():
    X, w, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[10.0], [1.0]]), torch.ones(1)
    y_hat = linreg(X, w, b)
    assert y_hat.tolist() == [[13.0], [35.0]]
    # Labels (n,) against predictions (n, 1): two losses, not four.
    assert squared_loss(y_hat, torch.tensor([11.0, 38.0])).tolist() == [[2.0], [4.5]]
    # Hidden units 13 and -13, 35 and -35, of which ReLU leaves the first: 2 * 13 + 1, 2 * 35 + 1.
    hidden = torch.cat([w, -w], 1), torch.tensor([1.0, -1.0])
    y = scratch.perceptron(X, *hidden, torch.tensor([[2.0], [5.0]]), b)
    assert y.tolist() == [[27.0], [71.0]]


def test_data_iter_gives_every_example_once_with_its_label_and_follows_the_seed():
    def epoch(seed, n=10):
        torch.manual_seed(seed)
        return list(data_iter(3, torch.arange(2 * n).view(n, 2), torch.arange(n) * 10))

    assert [len(x) for x, _ in epoch(0)] == [3, 3, 3, 1] and len(epoch(0, n=9)) == 3
    x, y = map(torch.cat, zip(*epoch(0), strict=True))
    assert sorted(y.tolist()) == list(range(0, 100, 10))
    assert (x[:, 0] * 5 == y).all()  # still the pairs they were
    torch.testing.assert_close(epoch(1), epoch(1))
    assert not torch.equal(epoch(1)[0][1], epoch(2)[0][1])


def test_doctests():
    tried = 0
    for module in pkgutil.iter_modules(scratch.__path__):
        result = doctest.testmod(importlib.import_module(f"torchcnn.scratch.{module.name}"))
        assert result.failed == 0
        tried += result.attempted
    assert tried > 0


# --- operations that torch has under another name, or not at all ---------------------------------


@pytest.mark.parametrize(("size", "stride", "padding"), [((5, 4), 1, 0), ((6, 7), 2, 1)])
def test_the_matrix_of_a_convolution_and_its_transpose(size, stride, padding):
    K, X = torch.randn(3, 2, dtype=F64), torch.randn(size, dtype=F64)
    W = scratch.conv_matrix(K, size, stride, padding)
    Y = F.conv2d(X[None, None], K[None, None], stride=stride, padding=padding)[0, 0]
    torch.testing.assert_close((W @ X.flatten()).view_as(Y), Y, rtol=1e-12, atol=1e-12)
    back = F.conv_transpose2d(Y[None, None], K[None, None], stride=stride, padding=padding)[0, 0]
    ours = (W.T @ Y.flatten()).view(size)[: back.shape[0], : back.shape[1]]
    torch.testing.assert_close(ours, back, rtol=1e-12, atol=1e-12)


def test_depthwise_separable_convolution_is_torchs_two():
    X, D, P = (torch.randn(s, dtype=F64) for s in ((2, 4, 6, 5), (4, 1, 3, 3), (7, 4, 1, 1)))
    b = torch.randn(7, dtype=F64)
    expected = F.conv2d(F.conv2d(X, D, stride=2, padding=1, groups=4), P, b)
    found = scratch.depthwise_separable_conv2d(X, D, P, b, stride=2, padding=1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout_is_torchs_mask_for_mask(p):
    x = torch.randn(50, 40, dtype=F64, requires_grad=True)
    results = []
    for f in (scratch.dropout, F.dropout):
        torch.manual_seed(3)
        y = f(x, p)
        results.append((y, *torch.autograd.grad(y.sum(), x)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=0)
    assert scratch.dropout(x, p, training=False) is x


@pytest.mark.parametrize(
    ("name", "options"),
    [("normal_", {"mean": 1.0, "std": 2.0}), ("uniform_", {"a": -1.0, "b": 3.0}),
     ("xavier_uniform_", {"gain": 5 / 3}), ("xavier_normal_", {}),
     ("kaiming_uniform_", {"a": 5**0.5}), ("kaiming_normal_", {"nonlinearity": "relu"}),
     ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "tanh"})],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(5, 3), (8, 4, 3, 2)])
def test_initialisation_draws_torchs_numbers(name, options, shape):
    drawn = []
    for module in (scratch, torch.nn.init):
        torch.manual_seed(5)
        drawn.append(getattr(module, name)(torch.empty(shape, requires_grad=True), **options))
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-6, atol=0)
    assert drawn[0].is_leaf and drawn[0].requires_grad


def test_glorot_normal_is_cut_at_two_deviations():
    """Keras: standard deviation sqrt(2 / (fan_in + fan_out)) after the cut."""
    torch.manual_seed(0)
    weight = scratch.glorot_normal_(torch.empty(500, 100, 2, 2))
    std = math.sqrt(2 / (100 * 4 + 500 * 4))
    assert weight.std().item() == pytest.approx(std, rel=0.01)
    assert weight.abs().max().item() == pytest.approx(2 * std / 0.8796, rel=0.01)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
def test_optimizers_are_torchs(kind, weight_decay):
    """On the mean loss of n examples, of which `sgd` gets the sum."""
    start = [torch.randn(4, 3, dtype=F64), torch.randn(3, dtype=F64)]
    ours, theirs = ([p.clone().requires_grad_() for p in start] for _ in range(2))
    first, second = ([torch.zeros_like(p) for p in start] for _ in range(2))
    if kind == "adam":
        optimizer = torch.optim.Adam(theirs, 0.1, (0.8, 0.99), 1e-6, weight_decay)
    else:
        momentum = 0.9 if kind == "momentum" else 0.0
        optimizer = torch.optim.SGD(theirs, 0.1, momentum, weight_decay=weight_decay)
    n = 1 if kind == "adam" else 4
    for step in range(1, 6):
        for params, divisor in ((ours, 1), (theirs, n)):
            for p in params:
                p.grad = None
            (sum((p**4).sum() for p in params) / divisor).backward()
        if kind == "adam":
            scratch.adam(iter(ours), 0.1, step, first, second, (0.8, 0.99), 1e-6, weight_decay)
        elif kind == "momentum":
            sgd(iter(ours), 0.1, n, weight_decay, 0.9, first)
        else:
            without_grad = torch.zeros(3, requires_grad=True)
            sgd([*ours, without_grad], 0.1, n, weight_decay)
        optimizer.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_k_fold_holds_every_example_out_once():
    features, labels = torch.arange(22).view(11, 2), torch.arange(11)
    held = []
    for x, y, x_held, y_held in scratch.k_fold(4, features, labels):
        assert sorted([*y.tolist(), *y_held.tolist()]) == list(range(11))
        assert (x[:, 0] == 2 * y).all() and (x_held[:, 0] == 2 * y_held).all()
        held.append(y_held.tolist())
    assert held == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]]


# What torch.nn.functional has besides: deprecated, in place, or for its own use.
NOT_BY_HAND = {"size_average", "reduce", "inplace", "_stacklevel"}


@pytest.mark.parametrize(
    "name", [name for name in scratch.__all__ if name not in ("batch_norm",) and hasattr(F, name)]
)
def test_functions_take_torchs_keywords_in_torchs_order(name):
    # Poolings that may return indices hide behind a dispatcher, named _max_pool2d underneath.
    function = getattr(F, f"_{name}", None) if name == "max_pool2d" else getattr(F, name)
    try:
        theirs = list(inspect.signature(function).parameters)
    except ValueError:  # written in C++: its documentation begins with the signature
        listed = function.__doc__.split("(", 1)[1].split(") ->")[0]
        theirs = [k.split("=")[0].strip() for k in re.sub(r"\([^)]*\)", "", listed).split(", ")]
    expected = [k for k in theirs if k not in NOT_BY_HAND]
    assert list(inspect.signature(getattr(scratch, name)).parameters) == expected


def test_every_public_function_is_documented():
    for name in scratch.__all__:
        doc = getattr(scratch, name).__doc__
        assert getattr(scratch, name).__module__.startswith("torchcnn.scratch"), name
        if name != "from_scratch":
            assert re.search("->|in place", doc) and re.search(r"Source|arXiv", doc), name
