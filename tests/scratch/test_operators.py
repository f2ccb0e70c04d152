"""PyTorch's own samples of its operators, put to the hand-written ones, in float64.

`pytest -rP` prints how many.
"""

import warnings
from itertools import product
from math import inf, nan

import pytest
import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_flatten, tree_map

from torchcnn import scratch
from torchcnn.scratch import network

F64 = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's, of its own copy


def batch_norm(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    """The layers' batch norm, which takes its arguments in another order."""
    statistics, options = (running_mean, running_var, None), (training, momentum, eps, (2, 3, 4))
    return network._batch_norm(input, weight, bias, *statistics, *options)


FUNCTIONAL = ["conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "linear", "cross_entropy",
              "mse_loss", "l1_loss", "relu", "leaky_relu", "instance_norm", "group_norm",
              "layer_norm", "local_response_norm"]  # fmt: skip
OPERATORS = {f"nn.functional.{name}": getattr(scratch, name) for name in FUNCTIONAL}
OPERATORS |= {
    name: getattr(scratch, name) for name in ("softmax", "log_softmax", "sigmoid", "tanh")
}
OPERATORS["nn.functional.batch_norm"] = batch_norm


@pytest.fixture(scope="module")
def torch_samples():
    with warnings.catch_warnings():  # the samples' own modules ask for packages that go unused
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db

    # These modules forbid everybody to set torch's flags, as `device_settings` does on a GPU.
    torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True
    return op_db


def outcome(function, args, kwargs):
    """Outputs, gradients, and the arguments as they are afterwards (some are updated in place)."""
    args, kwargs = tree_map(
        lambda t: (
            t.detach().clone().requires_grad_(t.requires_grad) if isinstance(t, torch.Tensor) else t
        ),
        (args, kwargs),
    )
    given = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    result = function(*args, **kwargs)
    outputs = result if isinstance(result, tuple) else (result,)
    generator = torch.Generator().manual_seed(1)
    number = sum(
        (y * torch.randn(y.shape, generator=generator, dtype=F64)).sum()
        for y in outputs
        if y.is_floating_point()
    )
    leaves = [t for t in given if t.requires_grad]
    grads = torch.autograd.grad(number, leaves, allow_unused=True, materialize_grads=True)
    return list(outputs), list(grads), [t.detach() for t in given]


def same_outcome(ours, theirs, *args, **kwargs):
    found, expected = (outcome(function, args, kwargs) for function in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("name", OPERATORS)
def test_torchs_own_samples(name, torch_samples):
    tried = 0
    for op in (op for op in torch_samples if op.name == name):
        for sample in op.sample_inputs("cpu", F64, requires_grad=True):
            if name == "nn.functional.batch_norm" and sample.input.dim() == 1:
                continue  # no images and no channels: one axis of length 0
            args = (sample.input, *sample.args)
            same_outcome(OPERATORS[name], op.op, *args, **sample.kwargs)
            tried += 1
    assert tried > 0
    print(f"{name}: {tried} of torch's samples")


# --- what torch has no samples of ---------------------------------------------------------------


def leaf(*shape):
    return torch.randn(shape, dtype=F64, requires_grad=True)


def same_as_torchs(name, *args, **kwargs):
    same_outcome(getattr(scratch, name), getattr(F, name), *args, **kwargs)


@pytest.mark.parametrize("channels", [15, 16, 33])  # two ways to compute it meet at 16
@pytest.mark.parametrize("size", [(7, 6), (8, 9)])
def test_conv2d_of_many_channels(channels, size):
    x, w, b = leaf(3, channels, *size), leaf(4, channels, 3, 2), leaf(4)
    for options in ({}, {"padding": 1}, {"padding": (2, 1), "dilation": (2, 3)}, {"stride": 2},
                    {"padding": "same"}, {"padding": "same", "dilation": (1, 3)}):  # fmt: skip
        same_as_torchs("conv2d", x, w, b, **options)
    same_as_torchs("conv2d", x[:0], w)
    with pytest.raises(ValueError, match="does not fit"):
        scratch.conv2d(x[:, :, :2], w)


@pytest.mark.parametrize("size", range(3, 9))
def test_poolings_at_the_edge(size):
    """`ceil_mode` adds a window, unless it would start in the padding behind."""
    windows = product(((1, 0), (2, 1), (3, 1)), (1, 2, 3), ("max_pool2d", "avg_pool2d"))
    for (kernel, padding), stride, name in windows:
        x = leaf(1, 2, size, size + 1)
        same_as_torchs(name, x, kernel, stride, padding, ceil_mode=True)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh"])
def test_activations_at_zero_and_far_out(name):
    x = torch.tensor([-1e4, -800, -100, -50, -1e-9, 0, 1e-9, 50, 100, 800, 1e4], dtype=F64)
    same_as_torchs(name, x.requires_grad_())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_with_weights_and_of_nothing(reduction):
    """No examples, all of them ignored, or none with a weight: as in torch, the mean is NaN."""
    weights = [None, *([0.0, 0.0, 0.0], [0.0, 1.0, 2.0], [1.0, -1.0, 0.5])]
    weights = [w and torch.tensor(w, dtype=F64) for w in weights]
    targets = [((2, 3), [-100, -100]), ((2, 3), [0, -100]), ((2, 3), [0, 1]), ((3,), -100),
               ((0, 3), []), ((2, 3, 2), [[-100, -100], [0, -100]]),
               ((2, 3, 0), [[], []])]  # fmt: skip
    targets = [(leaf(*shape), torch.tensor(target).long()) for shape, target in targets]
    probabilities = [(leaf(*s), leaf(*s)) for s in ((0, 3), (0, 3, 2), (2, 3, 0), (2, 3, 4))]
    for args, w, smooth in product(targets + probabilities, weights, (0.0, 0.1)):
        options = {"weight": w, "reduction": reduction, "label_smoothing": smooth}
        same_as_torchs("cross_entropy", *args, **options)
    for shape, name in product(((0,), (0, 3), (2, 0), (2, 3)), ("mse_loss", "l1_loss")):
        for w in (None, torch.rand(shape, dtype=F64)):
            same_as_torchs(name, leaf(*shape), leaf(*shape), reduction=reduction, weight=w)


@pytest.mark.parametrize(
    ("values", "dilations"), [([0.0, 1.0, nan], (1, 2)), ([0.0, -inf], (1, 2, 3, 4))], ids=str
)
def test_max_pooling_of_what_has_no_maximum(values, dilations):
    """Windows of several NaN, of -inf, and windows that lie in the padding."""
    outside = 0
    sizes, windows = ((3, 5), (2, 1), (7, 4)), (((2, 3), (1, 1)), ((3, 2), (0, 1)))
    for size, (kernel, padding), stride, d in product(sizes, windows, (1, 2), dilations):
        if any(s + 2 * p <= d * (k - 1) for s, p, k in zip(size, padding, kernel, strict=True)):
            continue
        x = torch.tensor(values, dtype=F64)[torch.randint(len(values), (2, 3, *size))]
        options = (kernel, stride, padding, d)
        found = scratch.max_pool2d(x.requires_grad_(), *options, return_indices=True)
        y, index = F.max_pool2d(x, *options, return_indices=True)
        torch.testing.assert_close(found, (y, index), rtol=0, atol=0, equal_nan=True)
        g = torch.randn_like(y)
        ours = torch.autograd.grad(found[0], x, g)[0]
        torch.testing.assert_close(scratch.max_pool2d_backward(g, x.detach(), *options), ours)
        if (index < x[0, 0].numel()).all():
            torch.testing.assert_close(ours, torch.autograd.grad(y, x, g)[0])
        else:  # torch's own gradient then writes to memory that is not its own
            outside += 1
    assert outside == 0 or nan not in values


def test_max_pooling_of_whole_numbers_with_padding():
    x = torch.arange(16).view(1, 1, 4, 4) - 8
    assert torch.equal(scratch.max_pool2d(x, 2, 2, 1), F.max_pool2d(x, 2, 2, 1))
