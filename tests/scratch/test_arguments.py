"""What torch refuses, the hand-written operations refuse too, with one line that says why."""

from math import inf, nan
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import ones, tensor

from torchcnn import scratch

TORCH = SimpleNamespace(**vars(torch.nn.init) | vars(F))
IMAGES, WEIGHT, BACK = ones(2, 4, 6, 6), ones(6, 4, 3, 3), ones(4, 6, 3, 3)
LOGITS, CLASSES = ones(3, 5), tensor([0, 1, 4])

# One call for every reason; `m` is torch, which refuses it too, or torchcnn.
REFUSED = [
    (lambda m: m.conv2d(IMAGES[0, 0], WEIGHT), "and a weight of 4 axes"),
    (lambda m: m.conv2d(IMAGES, ones(6, 4, 0, 3)), "kernel that is not empty"),
    (lambda m: m.conv2d(IMAGES[:, :3], WEIGHT), "images of 4 channels"),
    (lambda m: m.conv2d(IMAGES, WEIGHT[:, :1], groups=4), "a multiple of 4 output channels"),
    (lambda m: m.conv2d(IMAGES, WEIGHT, groups=0), "groups must be .* at least 1, got 0"),
    (lambda m: m.conv2d(IMAGES[:, :, :2], WEIGHT), r"3×3 does not fit an image of \(2, 6\)"),
    (lambda m: m.conv2d(IMAGES, WEIGHT, ones(1)), r"bias must have the shape \(6,\), got \(1,\)"),
    (lambda m: m.conv2d(IMAGES, WEIGHT.double()), "input torch.float32, weight torch.float64"),
    (lambda m: m.conv2d(IMAGES.bool(), WEIGHT.bool()), "numbers of one dtype"),
    (lambda m: m.conv2d(IMAGES, WEIGHT, stride=0), "stride must be .* at least 1, got 0"),
    (lambda m: m.conv2d(IMAGES, WEIGHT, stride=1.5), "got 1.5"),
    (lambda m: m.conv2d(IMAGES, WEIGHT, stride=True), "got True"),
    (lambda m: m.conv2d(IMAGES, WEIGHT, padding=(1, 1, 1)), r"got \(1, 1, 1\)"),
    (lambda m: m.conv2d(IMAGES, WEIGHT, padding=(0, -1)), "padding must be .* at least 0"),
    (lambda m: m.conv2d(IMAGES, WEIGHT, padding="full"), "got 'full'"),
    (lambda m: m.conv2d(IMAGES, WEIGHT, None, 2, "same"), "requires stride 1, got 2"),
    (lambda m: m.conv_transpose2d(IMAGES[:, :3], BACK), "images of 4 channels"),
    (lambda m: m.conv_transpose2d(IMAGES[:, :, :0], BACK), r"got \(2, 4, 0, 6\)"),
    (lambda m: m.conv_transpose2d(IMAGES, BACK, ones(5)), r"bias must have the shape \(6,\)"),
    (lambda m: m.conv_transpose2d(IMAGES, BACK, output_padding=1), "smaller than the stride"),
    (lambda m: m.conv_transpose2d(IMAGES, BACK, padding=8), "too much is cropped"),
    (lambda m: m.max_pool2d(IMAGES[0, 0], 2), "expected images"),
    (lambda m: m.max_pool2d(IMAGES[:, :0], 2), "which only n may leave empty"),
    (lambda m: m.avg_pool2d(IMAGES.bool(), 2), "of numbers"),
    (lambda m: m.max_pool2d(IMAGES, ()), "the kernel_size must be"),
    (lambda m: m.max_pool2d(IMAGES, 2, padding=2), "half of a window"),
    (lambda m: m.max_pool2d(IMAGES, 2, dilation=6), "does not fit"),
    (lambda m: m.avg_pool2d(IMAGES, 7), "does not fit"),
    (lambda m: m.avg_pool2d(IMAGES, 2, divisor_override=0), "must not be 0"),
    (lambda m: m.linear(ones(2, 3), ones(4, 2)), r"\(q, d\), or \(d,\) without bias"),
    (lambda m: m.linear(ones(2, 3), ones(3), ones(2)), r"got \(2, 3\) and \(3,\)"),
    (lambda m: m.linear(ones(2, 3), ones(4, 3), ones(3)), "does not fit an output"),
    (lambda m: m.linear(ones(2, 3), ones(4, 3), ones(4).double()), "bias torch.float64"),
    (lambda m: m.group_norm(IMAGES, 3), "4 channels do not make 3 groups"),
    (lambda m: m.group_norm(ones(3), 1), "with pixels"),
    (lambda m: m.group_norm(ones(1, 4), 4), "more than one value per group"),
    (lambda m: m.group_norm(IMAGES, 2, ones(3)), r"weight must have the shape \(4,\)"),
    (lambda m: m.group_norm(IMAGES, 2, ones(4).double()), "weight must be torch.float32"),
    (lambda m: m.layer_norm(IMAGES, (5,)), r"last axes \(5,\), got \(2, 4, 6, 6\)"),
    (lambda m: m.layer_norm(IMAGES, (6,), None, ones(1)), r"bias must have the shape \(6,\)"),
    (lambda m: m.layer_norm(IMAGES.long(), (6,)), "floating-point"),
    (lambda m: m.instance_norm(ones(4)), r"expected images \(n, c, ...\)"),
    (lambda m: m.instance_norm(ones(2, 4, 1, 1)), "more than one pixel"),
    (lambda m: m.instance_norm(IMAGES, ones(4)), "both or neither"),
    (lambda m: m.instance_norm(IMAGES, ones(2), ones(2)), "running_mean must have the shape"),
    (lambda m: m.instance_norm(IMAGES, use_input_stats=False), "are needed"),
    (lambda m: m.local_response_norm(IMAGES, 0), "at least 1, got 0"),
    (lambda m: m.local_response_norm(ones(2, 4), 2), "expected images"),
    (lambda m: m.cross_entropy(LOGITS, CLASSES, label_smoothing=1.1), "got 1.1"),
    (lambda m: m.cross_entropy(LOGITS, CLASSES, reduction="max"), "got 'max'"),
    (lambda m: m.cross_entropy(LOGITS, CLASSES, ones(1)), r"weight must have the shape \(5,\)"),
    (lambda m: m.cross_entropy(LOGITS, CLASSES, ones(5).long()), "weight torch.int64"),
    (lambda m: m.cross_entropy(LOGITS, CLASSES, ignore_index=1.5), "a whole ignore_index"),
    (lambda m: m.cross_entropy(LOGITS, tensor([0, 1, 5])), r"lie in \[0, 4\]"),
    (lambda m: m.cross_entropy(LOGITS, tensor([0, 1])), r"target must have the shape \(3,\)"),
    (lambda m: m.cross_entropy(LOGITS, CLASSES.int()), "as int64 or uint8"),
    (lambda m: m.cross_entropy(LOGITS, ones(3, 4)), r"target must have the shape \(3, 5\)"),
    (lambda m: m.cross_entropy(LOGITS, LOGITS / 5, ignore_index=2), "2 and probabilities"),
    (lambda m: m.cross_entropy(ones(()), tensor(0)), "got a scalar"),
    (lambda m: m.mse_loss(LOGITS, ones(4)), "targets of the shape of the input"),
    (lambda m: m.l1_loss(LOGITS, LOGITS, weight=ones(5)), "weight must have the shape"),
    (lambda m: m.l1_loss(LOGITS.long(), LOGITS.long()), "floating-point numbers"),
    (lambda m: m.softmax(IMAGES, 4), r"lie in \[-4, 3\], got 4"),
    (lambda m: m.log_softmax(IMAGES.long(), 1), "floating-point"),
    (lambda m: m.dropout(IMAGES, nan), r"\[0, 1\], got nan"),
    (lambda m: m.dropout(IMAGES.long()), "floating-point"),
    (lambda m: m.relu(IMAGES.bool()), "real numbers"),
    (lambda m: m.leaky_relu(IMAGES.long()), "floating-point"),
    (lambda m: m.uniform_(ones(2, 3), 1.0, 0.0), "<= a <= b <="),
    (lambda m: m.uniform_(ones(2, 3), 0.0, inf), "<= a <= b <="),
    (lambda m: m.normal_(ones(2, 3), 0.0, -1.0), "at least 0, got -1.0"),
    (lambda m: m.normal_(ones(2, 3).long()), "floating-point"),
    (lambda m: m.xavier_uniform_(ones(3)), r"two axes or more, got \(3,\)"),
    (lambda m: m.xavier_normal_(ones(0, 0)), "with elements"),
    (lambda m: m.kaiming_uniform_(ones(2, 3), mode="fan"), "fan_in or fan_out, got 'fan'"),
    (lambda m: m.kaiming_normal_(ones(2, 3), nonlinearity="gelu_"), "got 'gelu_'"),
    (lambda m: m.kaiming_normal_(ones(2, 3), "a"), "the slope of leaky ReLU, got 'a'"),
]

X, STATISTICS = ones(4, 3), (ones(1, 3), ones(1, 3), ones(1, 3), ones(1, 3))
# What torch calls otherwise, does not have, or lets pass.
OURS = [
    (lambda: scratch.cross_entropy(LOGITS, CLASSES, label_smoothing=-0.1), "got -0.1"),
    (lambda: scratch.batch_norm(True, ones(2, 3, 4), *STATISTICS, 1e-5, 0.9), r"\(2, 3, 4\)"),
    (lambda: scratch.batch_norm(True, X[:1], *STATISTICS, 1e-5, 0.9), "more than one value"),
    (
        lambda: scratch.batch_norm(False, X[:, :1], *STATISTICS, 1e-5, 0.9),
        r"gamma must have the shape \(1, 1\), got",
    ),
    (lambda: scratch.batch_norm(True, X.double(), *STATISTICS, 1e-5, 0.9), "be torch.float64 as"),
    (lambda: scratch.batch_norm(True, X, *STATISTICS, -1.0, 0.9), "eps must be at least 0"),
    (lambda: scratch.linear_backward(ones(2, 4), ones(2, 3), ones(4, 2)), r"weight \(q, d\)"),
    (lambda: scratch.linear_backward(ones(2, 5), ones(2, 3), ones(4, 3)), "grad_output must have"),
    (lambda: scratch.conv2d_backward(ones(2, 6, 4, 4), IMAGES, WEIGHT, 1, 0, 1, 2), "2 groups"),
    (lambda: scratch.max_pool2d_backward(ones(4, 3, 3), IMAGES[0], 2), r"images \(n, c, h, w\)"),
    (lambda: scratch.softmax_cross_entropy_backward(LOGITS, tensor([0, 1, 5])), r"in \[0, 4\]"),
    (lambda: scratch.softmax_cross_entropy_backward(LOGITS, CLASSES.int()), "classes in int64"),
    (lambda: scratch.corr2d(ones(2, 2), ones(3, 1)), r"got \(2, 2\) and \(3, 1\)"),
    (lambda: scratch.conv_matrix(ones(3), (4, 4)), r"a kernel \(kh, kw\)"),
    (lambda: scratch.depthwise_separable_conv2d(ones(6, 6), BACK, BACK), r"got \(6, 6\)"),
    (lambda: scratch.global_avg_pool2d(ones(3, 3)), r"got \(3, 3\)"),
    (lambda: scratch.linreg(ones(2, 3), ones(2, 1), ones(1)), r"a weight \(d, q\)"),
    (lambda: scratch.linreg(ones(2, 3), ones(3, 4), ones(3)), "does not fit an output"),
    (lambda: scratch.squared_loss(ones(3), ones(2)), "as many labels as predictions"),
    (lambda: scratch.data_iter(0, ones(4), ones(4)), "got 0, 4 features and 4 labels"),
    (lambda: scratch.data_iter(2, ones(4), ones(3)), "got 2, 4 features and 3 labels"),
    (lambda: scratch.k_fold(1, ones(4), ones(4)), "2 to 4 folds, got 4 labels and 1"),
    (lambda: scratch.sgd([], -1, 1), "lr must be at least 0, got -1"),
    (lambda: scratch.sgd([], 0.1, 0), "batch_size must be at least 1"),
    (lambda: scratch.sgd([], 0.1, 1, momentum=0.9), "needs velocities"),
    (lambda: scratch.sgd([X], 0.1, 1, velocities=[]), "expected 1 velocities, got 0"),
    (lambda: scratch.adam([], 0.1, 0, [], []), "from 1, got 0"),
    (lambda: scratch.adam([], 0.1, 1, [], [], (1.0, 0.9)), r"betas must lie in \[0, 1\)"),
    (lambda: scratch.adam([X], 0.1, 1, [], []), "expected 1 means and squares"),
]


def refused(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Using a target size", "ignore:Initializing zero-element")
@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_torch_refuses_is_refused(call, message):
    with pytest.raises(Exception):  # noqa: B017 - of many kinds, from TypeError to RuntimeError
        call(TORCH)
    refused(lambda: call(scratch), message)


@pytest.mark.parametrize(("call", "message"), OURS)
def test_what_torch_calls_otherwise_or_lets_pass(call, message):
    refused(call, message)


def test_what_is_unusual_but_right_is_taken():
    """Classes as bytes, empty batches, a stride that is left open, options in tuples of one."""
    assert scratch.cross_entropy(LOGITS, CLASSES.byte()).equal(F.cross_entropy(LOGITS, CLASSES))
    for m in (scratch, F):
        assert m.conv2d(IMAGES[:0], WEIGHT).shape == (0, 6, 4, 4)
        assert m.max_pool2d(IMAGES[:0], 2).shape == (0, 4, 3, 3)
    assert scratch.max_pool2d(IMAGES, 2, ()).shape == (2, 4, 3, 3)
    options = {"stride": (2,), "padding": (1,), "dilation": (1,)}
    assert scratch.conv2d(IMAGES, WEIGHT, **options).shape == (2, 6, 3, 3)
    assert scratch.kaiming_normal_(torch.empty(2, 0)).shape == (2, 0)
    with torch.autocast("cpu", torch.bfloat16):  # which brings dtypes together itself
        found = scratch.conv2d(IMAGES.bfloat16(), WEIGHT)
    torch.testing.assert_close(found.float(), F.conv2d(IMAGES, WEIGHT))
    image = ones(3, 2, 2)
    assert scratch.global_avg_pool2d(image).equal(F.adaptive_avg_pool2d(image, 1))
