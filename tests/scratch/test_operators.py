"""PyTorch's own samples of its operators and modules, put to the hand-written ones, in float64.

The suite prints how many of how many pass; what is left out has its reason in `why_not`.
"""

import warnings
from itertools import product
from math import inf, nan
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map

from torchcnn import BatchNorm, scratch

F64 = torch.float64


def batch_norm(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    """`scratch.batch_norm` as torch calls its own.

    Other shapes; the momentum the other way round; statistics that are returned, not written; and
    of the share m of a batch of n values the moving variance has m biased here, n / (n - 1) m
    biased there.
    """
    c = input.shape[1]
    x = input[..., None] if input.dim() == 3 else input  # (n, c, l) are images of one column
    shape = (1, c, 1, 1)[: x.dim()]
    given = (weight, bias, running_mean, running_var)
    defaults = (x.new_ones(c), x.new_zeros(c), x.new_zeros(c), x.new_ones(c))
    tensors = [(d if t is None else t).view(shape) for t, d in zip(given, defaults, strict=True)]
    y, mean, var = scratch.batch_norm(training, x, *tensors, eps=eps, momentum=1 - momentum)
    if training and running_mean is not None:
        n, kept = x.numel() // c, (1 - momentum) * running_var
        running_mean.data = mean.flatten()
        running_var.data = kept + (var.flatten() - kept) * n / (n - 1)
    return y.view(input.shape)


FUNCTIONAL = ["conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "linear", "cross_entropy",
              "mse_loss", "l1_loss", "relu", "leaky_relu", "instance_norm", "group_norm",
              "layer_norm", "local_response_norm"]  # fmt: skip
OPERATORS = {f"nn.functional.{name}": getattr(scratch, name) for name in FUNCTIONAL}
OPERATORS |= {
    name: getattr(scratch, name) for name in ("softmax", "log_softmax", "sigmoid", "tanh")
}
OPERATORS["nn.functional.batch_norm"] = batch_norm


def why_not(name, sample):
    """The reason why a sample does not apply, if there is one."""
    if name == "nn.functional.batch_norm" and sample.input.dim() == 1:
        return "no images and no channels: one axis of length 0"
    return None


@pytest.fixture(scope="module")
def torch_samples():
    with warnings.catch_warnings():  # the samples' own modules ask for packages that go unused
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_modules import module_db

    # These modules forbid everybody to set torch's flags, as `device_settings` does on a GPU.
    torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True
    return SimpleNamespace(op_db=op_db, module_db=module_db)


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
    return outputs, grads, [t.detach() for t in given]


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's own remark on its copy
@pytest.mark.parametrize("name", OPERATORS)
def test_torchs_own_samples(name, torch_samples, capsys):
    tried, left_out = 0, []
    for op in (op for op in torch_samples.op_db if op.name == name):
        for sample in op.sample_inputs("cpu", F64, requires_grad=True):
            if reason := why_not(name, sample):
                left_out.append(reason)
                continue
            args = (sample.input, *sample.args)
            ours = outcome(OPERATORS[name], args, sample.kwargs)
            theirs = outcome(op.op, args, sample.kwargs)
            for what, a, b, tolerance in zip(
                ("value", "gradient", "argument"), ours, theirs, (1e-9, 1e-8, 1e-9), strict=True
            ):
                torch.testing.assert_close(
                    list(a), list(b), rtol=tolerance, atol=tolerance, equal_nan=True,
                    msg=lambda m, what=what, s=sample: f"{what} of {s.summary()}: {m}",
                )  # fmt: skip
            tried += 1
    assert tried > 0
    with capsys.disabled():
        why = f" ({'; '.join(sorted(set(left_out)))})" if left_out else ""
        print(f"\n{name}: {tried} of {tried + len(left_out)} of torch's samples{why}", end=" ")


# --- what torch has no samples of ---------------------------------------------------------------


def same_outcome(name, args, kwargs):
    ours, theirs = (outcome(getattr(m, name), args, kwargs) for m in (scratch, F))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(list(a), list(b), equal_nan=True)


def leaf(*shape):
    return torch.randn(shape, dtype=F64, requires_grad=True)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_of_nothing(reduction):
    """No examples, all of them ignored, or none with a weight: as in torch, the mean is NaN."""
    weights = [None, *([0.0, 0.0, 0.0], [0.0, 1.0, 2.0], [1.0, -1.0, 0.5])]
    weights = [w and torch.tensor(w, dtype=F64) for w in weights]
    targets = [((2, 3), [-100, -100]), ((2, 3), [0, -100]), ((2, 3), [0, 1]), ((3,), -100),
               ((0, 3), []), ((2, 3, 2), [[-100, -100], [0, -100]]),
               ((2, 3, 0), [[], []])]  # fmt: skip
    for (shape, target), w, smooth in product(targets, weights, (0.0, 0.1)):
        kwargs = {"weight": w, "reduction": reduction, "label_smoothing": smooth}
        same_outcome("cross_entropy", (leaf(*shape), torch.tensor(target).long()), kwargs)
    for shape in ((0,), (0, 3), (2, 0)):
        for name, weight in product(("mse_loss", "l1_loss"), (None, torch.ones(shape, dtype=F64))):
            kwargs = {"reduction": reduction, "weight": weight}
            same_outcome(name, (leaf(*shape), leaf(*shape)), kwargs)
    for shape in ((0, 3), (0, 3, 2), (2, 3, 0)):  # probabilities
        same_outcome("cross_entropy", (leaf(*shape), leaf(*shape)), {"reduction": reduction})


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


# --- modules ------------------------------------------------------------------------------------


def why_not_module(desc, training):
    if desc == "zero_batch":
        return "a batch of no images has no mean: BatchNorm refuses it"
    if desc == "not_tracking_stats" and not training:
        return "BatchNorm always keeps its statistics and uses them in eval mode"
    return None


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d], ids=lambda kind: kind.__name__)
def test_torchs_own_samples_of_its_batch_norms(kind, training, torch_samples, capsys):
    (info,) = (info for info in torch_samples.module_db if info.module_cls is kind)
    samples = info.module_inputs_func(
        info, device="cpu", dtype=F64, requires_grad=True, training=training
    )
    tried, left_out = 0, []
    for sample in samples:
        if reason := why_not_module(sample.desc, training):
            left_out.append(reason)
            continue
        arguments = sample.constructor_input
        theirs = kind(*arguments.args, **arguments.kwargs).double().train(training)
        (x,) = sample.forward_input.args
        images = x[..., None] if x.dim() == 3 else x
        first_share = 1.0 if theirs.momentum is None else theirs.momentum  # a mean of one batch
        ours = BatchNorm(x.shape[1], images.dim(), theirs.eps, 1 - first_share)
        ours = ours.double().train(training)
        with torch.no_grad():
            for a, b in ((ours.gamma, theirs.weight), (ours.beta, theirs.bias)):
                if b is not None:
                    a.copy_(b.uniform_(0.5, 2).view(a.shape))

        expected, found = theirs(x), ours(images).view(x.shape)
        upstream = torch.randn_like(expected)
        pairs = [(ours.gamma, theirs.weight), (ours.beta, theirs.bias), (x, x)]
        pairs = [(a, b) for a, b in pairs if b is not None]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        for a, b in zip(
            torch.autograd.grad(found, [a for a, _ in pairs], upstream),
            torch.autograd.grad(expected, [b for _, b in pairs], upstream),
            strict=True,
        ):
            torch.testing.assert_close(a.view(b.shape), b, rtol=1e-8, atol=1e-8)
        if training and theirs.running_mean is not None:
            n = x.numel() // x.shape[1]
            kept = 1 - first_share  # of the variance 1 that both start with
            var = kept + (ours.moving_var.flatten() - kept) * n / (n - 1)
            torch.testing.assert_close(ours.moving_mean.flatten(), theirs.running_mean)
            torch.testing.assert_close(var, theirs.running_var)
        tried += 1
    assert tried > 0
    with capsys.disabled():
        why = f" ({'; '.join(sorted(set(left_out)))})" if left_out else ""
        print(f"\n{kind.__name__}: {tried} of {tried + len(left_out)} of torch's samples{why}",
              end=" ")  # fmt: skip


# --- second derivatives -------------------------------------------------------------------------

TWICE = {
    "conv2d, many channels": lambda x, w, b: scratch.conv2d(
        x.view(1, 20, 5, 1).repeat(1, 1, 1, 2), w.flatten()[:40].view(1, 20, 1, 2), b[:1]
    ),
    "conv2d": lambda x, w, b: scratch.conv2d(x, w, b, stride=2, padding=1),
    "conv_transpose2d": lambda x, w, b: scratch.conv_transpose2d(x, w.transpose(0, 1), b, 2, 1),
    "max_pool2d": lambda x, w, b: scratch.max_pool2d(x, 3, 2, 1),
    "avg_pool2d": lambda x, w, b: scratch.avg_pool2d(x, 3, 2, 1),
    "batch_norm": lambda x, w, b: scratch.batch_norm(
        True, x, w[:1, :, :1, :1], b[None, :2, None, None], x.new_zeros(1, 2, 1, 1),
        x.new_ones(1, 2, 1, 1), 1e-5, 0.9,
    )[0],
    "instance_norm": lambda x, w, b: scratch.instance_norm(x, weight=w[0, :, 0, 0], bias=b[:2]),
    "group_norm": lambda x, w, b: scratch.group_norm(x, 2, w[0, :, 0, 0], b[:2]),
    "layer_norm": lambda x, w, b: scratch.layer_norm(x, (5,), w.flatten()[:5]),
    "local_response_norm": lambda x, w, b: scratch.local_response_norm(x, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", TWICE)
def test_second_derivatives(name):
    x = torch.randn(2, 2, 5, 5, dtype=F64, requires_grad=True)
    w = torch.randn(3, 2, 3, 3, dtype=F64, requires_grad=True)
    b = torch.randn(3, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(TWICE[name], (x, w, b))
    assert torch.autograd.gradgradcheck(TWICE[name], (x, w, b), fast_mode=True)
