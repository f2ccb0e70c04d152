"""Whatever torch refuses, the hand-written operations refuse too, with one line that says why."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import ones, tensor

from torchcnn import scratch

IMAGES, WEIGHT, BACK = ones(2, 4, 6, 6), ones(6, 4, 3, 3), ones(4, 6, 3, 3)
LOGITS, CLASSES = ones(3, 5), tensor([0, 1, 4])

# Options that no convolution takes, then those of one of them.
ANY_CONVOLUTION = [
    {"padding": -1}, {"padding": (0, -1)}, {"padding": (1, 1, 1)}, {"padding": 1.0},
    {"padding": None}, {"padding": "full"}, {"stride": 0}, {"stride": -1}, {"stride": (1, 0)},
    {"stride": (1, 1, 1)}, {"stride": ()}, {"stride": 1.5}, {"stride": "a"}, {"stride": True},
    {"dilation": 0}, {"dilation": -1}, {"dilation": (1, 0)}, {"dilation": (1, 1, 1)},
    {"groups": 0}, {"groups": -1}, {"groups": 3}, {"groups": 8}, {"groups": 1.0},
    {"bias": ones(5)}, {"bias": ones(1)}, {"bias": ones(6, 1)}, {"bias": ones(())},
    {"bias": ones(6).double()},
]  # fmt: skip
ANY_CONVOLVED = [
    (IMAGES, ones(6, 4, 0, 3)), (IMAGES, ones(6, 4, 3, 0)), (IMAGES, ones(0, 4, 3, 3)),
    (IMAGES, ones(6, 4, 3)), (IMAGES[0, 0], WEIGHT), (IMAGES[None], WEIGHT),
    (IMAGES, WEIGHT.double()), (IMAGES.long(), WEIGHT), (IMAGES[:, :3], WEIGHT),
    (IMAGES[0, :3], WEIGHT), (IMAGES[:, :, :0], WEIGHT), (IMAGES.bool(), WEIGHT.bool()),
]  # fmt: skip
CONV2D = [
    ((IMAGES, WEIGHT), {"stride": 2, "padding": "same"}), ((IMAGES[:, :, :2], WEIGHT), {}),
    ((IMAGES, WEIGHT), {"groups": 2}),
]  # fmt: skip
CONV_TRANSPOSE2D = [
    {"output_padding": -1}, {"output_padding": 1}, {"output_padding": (0, 1)},
    {"output_padding": 2, "stride": 2}, {"output_padding": 2, "dilation": 2},
    {"output_padding": (1, 1, 1), "stride": 2}, {"output_padding": 1.5}, {"padding": "same"},
    {"padding": 5}, {"padding": 8},
]  # fmt: skip
ANY_POOLING = [
    {"kernel_size": 0}, {"kernel_size": -1}, {"kernel_size": (2, 0)}, {"kernel_size": (1, 2, 3)},
    {"kernel_size": ()}, {"kernel_size": 2.0}, {"kernel_size": "a"}, {"kernel_size": None},
    {"kernel_size": 7}, {"kernel_size": 2, "stride": 0}, {"kernel_size": 2, "stride": -1},
    {"kernel_size": 2, "stride": (1, 0)}, {"kernel_size": 2, "stride": (1, 1, 1)},
    {"kernel_size": 2, "stride": 1.5}, {"kernel_size": 2, "padding": -1},
    {"kernel_size": 2, "padding": 2}, {"kernel_size": 3, "padding": 2},
    {"kernel_size": (3, 1), "padding": 1}, {"kernel_size": 2, "padding": (0, 0, 0)},
    {"kernel_size": 2, "padding": ()},
]  # fmt: skip
ANY_POOLED = [IMAGES[0, 0], IMAGES[None], IMAGES.bool(), IMAGES[:, :0], IMAGES[0, :0],
              IMAGES[:, :, :0]]  # fmt: skip
MAX_POOL2D = [
    {"dilation": 0}, {"dilation": -1}, {"dilation": (1, 0)}, {"dilation": (1, 1, 1)},
    {"dilation": 7}, {"dilation": 4, "padding": 2}, {"dilation": 1.5},
]  # fmt: skip
LINEAR = [
    (ones(2, 3), ones(4, 2)), (ones(2, 3), ones(1, 4, 3)), (ones(2, 3), ones(2)),
    (ones(2, 3), ones(())), (ones(()), ones(4, 3)), (ones(2, 3), ones(4, 3), ones(3)),
    (ones(2, 3), ones(4, 3), ones(3, 2, 4)), (ones(3), ones(4, 3), ones(2, 4)),
    (ones(2, 3), ones(3), ones(2)), (ones(2, 3), ones(4, 3).double()),
    (ones(2, 3), ones(4, 3), ones(4).double()), (ones(2, 3).bool(), ones(4, 3).bool()),
]  # fmt: skip
GROUP_NORM = [
    (IMAGES, 0), (IMAGES, -2), (IMAGES, 3), (IMAGES, 8), (IMAGES, 1.0), (ones(3), 1),
    (ones(1, 4), 4), (ones(1, 4, 1, 1), 4), (ones(2, 4, 0), 2), (ones(2, 0, 3), 1),
    (IMAGES.long(), 2), (IMAGES, 2, ones(3)), (IMAGES, 2, ones(1)), (IMAGES, 2, ones(1, 4)),
    (IMAGES, 2, None, ones(1)), (IMAGES, 2, ones(4).double()), (IMAGES.double(), 2, ones(4)),
]  # fmt: skip
LAYER_NORM = [
    (IMAGES, (5,)), (IMAGES, ()), (IMAGES, (1, 2, 4, 6, 6)), (IMAGES, (-1,)), (IMAGES, (6.0,)),
    (IMAGES, (6, 6), ones(36)), (IMAGES, (6, 6), ones(6)), (IMAGES, (6,), None, ones(1)),
    (IMAGES.long(), (6,)), (IMAGES, (6,), ones(6).double()),
]  # fmt: skip
INSTANCE_NORM = [
    {"running_mean": ones(4)}, {"running_var": ones(4)}, {"use_input_stats": False},
    {"running_mean": ones(2), "running_var": ones(2)},
    {"running_mean": ones(1), "running_var": ones(1), "use_input_stats": False},
    {"running_mean": ones(1, 4), "running_var": ones(1, 4)}, {"weight": ones(2)},
    {"weight": ones(1)}, {"weight": ones(1, 4)}, {"bias": ones(1)}, {"weight": ones(4).double()},
]  # fmt: skip
CROSS_ENTROPY = [
    {"label_smoothing": 1.1}, {"reduction": "max"}, {"reduction": None}, {"weight": ones(4)},
    {"weight": ones(1)}, {"weight": ones(5, 1)}, {"weight": ones(())}, {"ignore_index": 1.5},
    {"weight": ones(5).double()}, {"weight": ones(5).long()},
]  # fmt: skip
TARGETS = [
    tensor([0, 1, 5]), tensor([0, 1, -1]), tensor([0, 1]), tensor([0, 1, 2, 3]), tensor(0),
    tensor([[0, 1, 2]]), tensor([[0], [1], [2]]), CLASSES.int(), CLASSES.short(), CLASSES.bool(),
    *(ones(shape) for shape in ((3,), (5,), (3, 4), (5, 3), (1, 5), (3, 1), (3, 5, 1))),
]  # fmt: skip
LOGITS_AND_TARGETS = [
    (LOGITS.long(), CLASSES), (ones(5), tensor(5)), (ones(5), tensor([2, 3])), (ones(5), ones(4)),
    (ones(()), tensor(0)), (ones(3, 5, 2), CLASSES), (ones(3, 5, 2), ones(3, 1).long()),
    (ones(3, 5, 2), ones(1, 2).long()), (ones(3, 5, 2), ones(3, 5, 1)), (ones(3, 0), CLASSES),
]  # fmt: skip
ANY_LOSS = [
    ((LOGITS, LOGITS), {"reduction": "max"}), ((LOGITS, LOGITS), {"weight": ones(5)}),
    ((LOGITS, LOGITS), {"weight": ones(3, 1)}), ((LOGITS, LOGITS), {"weight": ones(())}),
    ((LOGITS, ones(4)), {}), ((LOGITS, ones(3)), {}), ((LOGITS.bool(), LOGITS.bool()), {}),
    ((LOGITS.long(), LOGITS.long()), {}), ((ones(5), LOGITS), {"weight": ones(3, 5)}),
]  # fmt: skip
ANY_SOFTMAX = [
    (IMAGES, 4), (IMAGES, -5), (IMAGES, 1.0), (IMAGES, (0, 1)), (IMAGES.long(), 1),
    (IMAGES.bool(), 1), (IMAGES[:0], 4), (ones(()), 1), (IMAGES, 1, None, torch.int64),
]  # fmt: skip
INITIALISATION = [
    ("uniform_", ones(2, 3), 1.0, 0.0), ("uniform_", ones(2, 3), math.nan),
    ("uniform_", ones(2, 3), 0.0, math.inf), ("uniform_", ones(2, 3), -3e38, 3e38),
    ("uniform_", ones(2, 3).long()), ("normal_", ones(2, 3), 0.0, -1.0),
    ("normal_", ones(2, 3), 0.0, math.nan), ("normal_", ones(2, 3).long()),
]  # fmt: skip
for _name in ("xavier_uniform_", "xavier_normal_"):
    for _args in ((ones(3),), (ones(()),), (ones(2, 3), -1.0), (ones(0, 0),), (ones(2, 3, 0),),
                  (ones(2, 3), math.nan), (ones(2, 3).long(),)):  # fmt: skip
        INITIALISATION.append((_name, *_args))
for _name in ("kaiming_uniform_", "kaiming_normal_"):
    for _args in ((ones(3),), (ones(2, 3), 0.0, "fan"), (ones(2, 3), 0.0, "fan_in", "gelu_"),
                  (ones(2, 3), math.nan), (ones(2, 3), "a"), (ones(2, 3), True),
                  (ones(2, 3).long(),)):  # fmt: skip
        INITIALISATION.append((_name, *_args))


def cases():
    """The name of a function and arguments that it refuses."""
    for name, weight in (("conv2d", WEIGHT), ("conv_transpose2d", BACK)):
        for options in ANY_CONVOLUTION:
            yield name, (IMAGES, weight), options
        for args in ANY_CONVOLVED:
            yield name, args, {}
    yield from (("conv2d", args, options) for args, options in CONV2D)
    yield from (("conv_transpose2d", (IMAGES, BACK), options) for options in CONV_TRANSPOSE2D)
    for name in ("max_pool2d", "avg_pool2d"):
        yield from ((name, (IMAGES,), options) for options in ANY_POOLING)
        yield from ((name, (images, 2), {}) for images in ANY_POOLED)
    yield from (("max_pool2d", (IMAGES, 2), options) for options in MAX_POOL2D)
    yield from (("avg_pool2d", (IMAGES, 2), {"divisor_override": d}) for d in (0, 1.5))
    yield from (("linear", args, {}) for args in LINEAR)
    yield from (("group_norm", args, {}) for args in GROUP_NORM)
    yield from (("layer_norm", args, {}) for args in LAYER_NORM)
    yield from (("local_response_norm", (IMAGES, size), {}) for size in (0, -1))
    yield from (("local_response_norm", (ones(shape), 2), {}) for shape in ((4,), (2, 4)))
    yield "instance_norm", (ones(2, 4, 1, 1),), {}
    yield "instance_norm", (ones(4),), {}
    yield "instance_norm", (IMAGES.long(),), {}
    yield from (("instance_norm", (IMAGES,), options) for options in INSTANCE_NORM)
    yield from (("cross_entropy", (LOGITS, CLASSES), options) for options in CROSS_ENTROPY)
    yield from (("cross_entropy", (LOGITS, target), {}) for target in TARGETS)
    yield from (("cross_entropy", args, {}) for args in LOGITS_AND_TARGETS)
    for options in ({"ignore_index": 2}, {"weight": ones(1)}):
        yield "cross_entropy", (LOGITS, LOGITS / 5), options
    yield "cross_entropy", (LOGITS, LOGITS.long()), {}
    for name in ("mse_loss", "l1_loss"):
        yield from ((name, args, options) for args, options in ANY_LOSS)
    for name in ("softmax", "log_softmax"):
        for x, dim, *dtype in ANY_SOFTMAX:
            yield name, (x, dim), {"dtype": dtype[1]} if dtype else {}
    yield from (("dropout", (IMAGES, p), {}) for p in (-0.1, 1.1, math.nan, math.inf))
    yield from (("dropout", (IMAGES, p, False), {}) for p in (-0.1, 1.1))
    yield from (("dropout", (images,), {}) for images in (IMAGES.long(), IMAGES.bool()))
    yield from (("relu", (IMAGES.to(t),), {}) for t in (torch.bool, torch.complex64))
    yield from (("leaky_relu", (IMAGES.to(t),), {}) for t in (torch.bool, torch.int64))
    yield from ((name, args, {}) for name, *args in INITIALISATION)


def short(value):
    tensor = isinstance(value, torch.Tensor)
    return f"{str(value.dtype)[6:]}{list(value.shape)}" if tensor else repr(value)


def named(case):
    name, args, options = case
    given = [*map(short, args), *(f"{key}={short(value)}" for key, value in options.items())]
    return f"{name}({', '.join(given)})"


def refused(function, args, options):
    """The one line with which a function refuses arguments."""
    with pytest.raises(ValueError) as caught:
        function(*args, **options)
    assert str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Using a target size", "ignore:Initializing zero-element")
@pytest.mark.parametrize("case", list(cases()), ids=named)
def test_what_torch_refuses_is_refused(case):
    name, args, options = case
    theirs = getattr(F, name, None) or getattr(torch.nn.init, name)
    if not (name == "group_norm" and 0 in args[0].shape):  # which torch 2.11 normalizes
        with pytest.raises(Exception):  # noqa: B017 - of many kinds, from TypeError to RuntimeError
            theirs(*args, **options)
    refused(getattr(scratch, name), args, options)


# --- functions that torch calls otherwise, or does not have ---------------------------------------


STATISTICS = ("gamma", "beta", "moving_mean", "moving_var")
VECTORS = {"X": ones(4, 3), **{name: ones(1, 3) for name in STATISTICS}}


@pytest.mark.parametrize(
    "changed",
    [{"X": ones(4, 3).long()}, {"X": ones(4, 3).double()}, {"X": ones(4, 0)}, {"eps": -1.0}]
    + [{name: t} for name in STATISTICS
       for t in (ones(3), ones(1, 1), ones(1, 3).double(), ones(1, 3).half())],
    ids=lambda changed: ", ".join(f"{k} {short(v)}" for k, v in changed.items()),
)  # fmt: skip
def test_batch_norm(changed):
    args = {"is_training": True, **VECTORS, "eps": 1e-5, "momentum": 0.9, **changed}
    flat = [args[name].flatten() for name in ("moving_mean", "moving_var", "gamma", "beta")]
    if list(changed) == ["eps"] or args["X"].dtype != args["gamma"].dtype:  # the shapes are others
        with pytest.raises((ValueError, RuntimeError)):
            F.batch_norm(args["X"], *flat, True, eps=args["eps"])
    refused(scratch.batch_norm, (), args)


def test_batch_norm_takes_float32_statistics_of_half_precision():
    given = VECTORS | {"X": ones(4, 3).half()}
    y, mean, _ = scratch.batch_norm(True, **given, eps=1e-5, momentum=0.9)
    assert y.dtype == torch.float16 and mean.dtype == torch.float32


def test_optimizers():
    p = [torch.ones(2, requires_grad=True)]
    sgd = [{"lr": -1}, {"lr": 0.1, "momentum": -0.1}, {"lr": 0.1, "weight_decay": -0.1}]
    for options in sgd:
        with pytest.raises(ValueError):
            torch.optim.SGD(p, **options)
        refused(scratch.sgd, (p,), {"batch_size": 1, "velocities": [torch.zeros(2)]} | options)
    refused(scratch.sgd, (p, 0.1, 0), {})
    refused(scratch.sgd, (p, 0.1, 1), {"momentum": 0.5, "velocities": []})
    adam = [{"lr": -1}, {"betas": (1.0, 0.9)}, {"betas": (0.9, 1.0)}, {"betas": (-0.1, 0.9)},
            {"eps": -1}, {"weight_decay": -1}]  # fmt: skip
    for options in adam:
        with pytest.raises(ValueError):
            torch.optim.Adam(p, **options)
        zeros = {"lr": 0.1, "step": 1, "means": [torch.zeros(2)], "squares": [torch.zeros(2)]}
        refused(scratch.adam, (p,), zeros | options)
    refused(scratch.adam, (p, 0.1, 1, [], []), {})
    assert p[0].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("name", "args"),
    [("linear_backward", (ones(2, 4), ones(2, 3), ones(4, 2))),
     ("linear_backward", (ones(2, 5), ones(2, 3), ones(4, 3))),
     ("linear_backward", (ones(2, 1, 4), ones(2, 1, 3), ones(4, 3))),
     ("conv2d_backward", (ones(2, 6, 4, 5), IMAGES, WEIGHT)),
     ("conv2d_backward", (ones(2, 6, 4, 4), IMAGES, WEIGHT, 2)),
     ("conv2d_backward", (ones(2, 6, 4, 4), IMAGES, WEIGHT, 0)),
     ("conv2d_backward", (ones(2, 6, 4, 4), IMAGES, WEIGHT, 1, -1)),
     ("conv2d_backward", (ones(2, 6, 4, 4), IMAGES, WEIGHT, 1, 0, 1, 2)),
     ("max_pool2d_backward", (ones(2, 4, 3, 2), IMAGES, 2)),
     ("max_pool2d_backward", (ones(4, 3, 3), IMAGES[0], 2)),
     ("max_pool2d_backward", (ones(2, 4, 3, 3), IMAGES, 2, 0)),
     ("avg_pool2d_backward", (ones(2, 4, 3, 2), IMAGES, 2)),
     ("avg_pool2d_backward", (ones(2, 4, 3, 3), IMAGES, 2, 0)),
     ("avg_pool2d_backward", (ones(2, 4, 3, 3), IMAGES, 2, 2, 2)),
     ("batch_norm_backward", (ones(2, 3), ones(4, 3), ones(1, 3), 1e-5)),
     ("batch_norm_backward", (ones(4, 3), ones(4, 3), ones(3), 1e-5)),
     ("batch_norm_backward", (ones(1, 3), ones(1, 3), ones(1, 3), 1e-5)),
     ("softmax_cross_entropy_backward", (LOGITS, tensor([0, 1, 5]))),
     ("softmax_cross_entropy_backward", (LOGITS, tensor([0, 1, -1]))),
     ("softmax_cross_entropy_backward", (LOGITS, tensor([0, 1]))),
     ("softmax_cross_entropy_backward", (LOGITS, CLASSES.int())),
     ("corr2d", (ones(3, 3), ones(0, 2))), ("corr2d", (ones(3), ones(2))),
     ("conv_matrix", (ones(3), (4, 4))), ("conv_matrix", (ones(3, 3), (4, 0))),
     ("conv_matrix", (ones(3, 3), (4, 4), 0)), ("conv_matrix", (ones(3, 3), (4, 4), 1, -1)),
     ("depthwise_separable_conv2d", (ones(6, 6), ones(4, 1, 3, 3), ones(7, 4, 1, 1))),
     ("depthwise_separable_conv2d", (IMAGES, ones(4, 1, 3, 3), ones(7, 3, 1, 1))),
     ("depthwise_separable_conv2d", (IMAGES, ones(4, 1, 3, 3), ones(7, 4, 1, 1), None, 0)),
     ("global_avg_pool2d", (ones(3, 3),)), ("global_avg_pool2d", (IMAGES.long(),)),
     ("linreg", (ones(2, 3), ones(2, 1), ones(1))), ("linreg", (ones(2, 3), ones(3, 4), ones(3))),
     ("perceptron", (ones(2, 3), ones(3, 4), ones(4), ones(3, 2), ones(2))),
     ("squared_loss", (ones(3), ones(2))), ("glorot_normal_", (ones(3),)),
     ("glorot_normal_", (ones(2, 3).long(),)),
     # which torch lets pass
     *(("cross_entropy", (LOGITS, CLASSES, None, -100, "mean", e)) for e in (-0.1, math.nan))],
    ids=lambda value: value if isinstance(value, str) else ", ".join(map(short, value)),
)  # fmt: skip
def test_what_torch_calls_otherwise_or_lets_pass(name, args):
    refused(getattr(scratch, name), args, {})


def test_what_is_unusual_but_right_is_taken():
    """Classes as bytes, empty batches, a stride that is left open, options in tuples of one."""
    assert scratch.cross_entropy(LOGITS, CLASSES.byte()).equal(F.cross_entropy(LOGITS, CLASSES))
    for name in ("conv2d", "max_pool2d"):
        second = WEIGHT if name == "conv2d" else 2
        ours, theirs = (getattr(m, name)(IMAGES[:0], second) for m in (scratch, F))
        assert ours.shape == theirs.shape
    assert scratch.max_pool2d(IMAGES, 2, ()).shape == (2, 4, 3, 3)
    options = {"stride": (2,), "padding": (1,), "dilation": (1,)}
    assert scratch.conv2d(IMAGES, WEIGHT, **options).shape == (2, 6, 3, 3)
    assert scratch.kaiming_normal_(torch.empty(2, 0)).shape == (2, 0)
    with torch.autocast("cpu", torch.bfloat16):  # which brings dtypes together itself
        found = scratch.conv2d(IMAGES.bfloat16(), WEIGHT)
    torch.testing.assert_close(found.float(), F.conv2d(IMAGES, WEIGHT))
    image = ones(3, 2, 2)
    assert scratch.global_avg_pool2d(image).equal(F.adaptive_avg_pool2d(image, 1))
