"""Layers of the Keras lineage against TensorFlow itself, in float64."""

import pytest
import torch
import torch._dynamo  # loads Triton, which must come before TensorFlow in one process
from torch.profiler import profile

from torchcnn.layers import KerasBatchNorm2d, SameAvgPool2d, SameConv2d, SameMaxPool2d

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install .[keras]")
pytestmark = pytest.mark.extra

SIZES = [(7, 8), (8, 13), (14, 11), (28, 5)]
F64 = torch.float64


def nhwc(x):
    return tf.constant(x.detach().permute(0, 2, 3, 1).numpy())


def hwio(conv):
    """A kernel as TensorFlow has it: OIHW -> HWIO."""
    return tf.constant(conv.weight.detach().permute(2, 3, 1, 0).numpy())


def nchw(x):
    return torch.from_numpy(x.numpy()).permute(0, 3, 1, 2)


@pytest.mark.parametrize("stride", [1, 2, 3, (1, 2), (3, 2)])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7, 11, (2, 3), (5, 6)])
def test_same_layers_equal_tensorflow(kernel, stride):
    conv = SameConv2d(3, 4, kernel, stride).to(F64)
    for size in SIZES:
        x = torch.randn(2, 3, *size, dtype=F64)
        ours = (conv(x), SameMaxPool2d(kernel, stride)(x), SameAvgPool2d(kernel, stride)(x))
        theirs = (
            tf.nn.conv2d(nhwc(x), hwio(conv), stride, "SAME") + conv.bias.detach().numpy(),
            tf.nn.max_pool2d(nhwc(x), kernel, stride, "SAME"),
            tf.nn.avg_pool2d(nhwc(x), kernel, stride, "SAME"),
        )
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, nchw(b), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("layer", "size", "pads"),
    [
        (SameConv2d(3, 4, 5), 8, 0),  # 2 pixels at each side, which the convolution itself adds
        (SameMaxPool2d(3, 1), 8, 0),
        (SameConv2d(3, 4, 3, 2), 9, 0),
        (SameConv2d(3, 4, 3, 2), 8, 1),  # one pixel more at the bottom and on the right
        (SameMaxPool2d(2, 1), 8, 1),
        (SameMaxPool2d(3, 2), 8, 0),  # the windows are cut off there instead
        (SameMaxPool2d(2, 3), 10, 1),  # but not windows that are smaller than their stride
    ],
)
def test_padding_is_a_copy_only_where_it_is_uneven(layer, size, pads):
    with profile() as profiled:
        layer(torch.randn(2, 3, size, size))
    names = [event.name for event in profiled.events()]
    assert names.count("aten::constant_pad_nd") == pads


@pytest.mark.parametrize("dilation", [2, 3])
def test_same_convolution_with_dilation_equals_tensorflow(dilation):
    conv = SameConv2d(2, 3, 3, dilation=dilation).to(F64)
    x = torch.randn(2, 2, 9, 12, dtype=F64)
    theirs = tf.nn.conv2d(nhwc(x), hwio(conv), 1, "SAME",
                          dilations=dilation) + conv.bias.detach().numpy()  # fmt: skip
    torch.testing.assert_close(conv(x), nchw(theirs), rtol=0, atol=1e-9)


def test_batch_norm_equals_keras_over_training_and_in_eval():
    import keras

    theirs = keras.layers.BatchNormalization(dtype="float64")
    ours = KerasBatchNorm2d(3).to(F64)
    with torch.no_grad():
        ours.weight.copy_(torch.tensor([0.5, 1.5, 2.0]))
        ours.bias.copy_(torch.tensor([0.1, 0.0, -1.0]))
    theirs.build((None, 5, 4, 3))
    theirs.gamma.assign(ours.weight.detach().numpy())
    theirs.beta.assign(ours.bias.detach().numpy())
    for training in (True, True, True, False):
        x = torch.randn(2, 3, 5, 4, dtype=F64) * 3 + 1
        a, b = ours.train(training)(x), theirs(nhwc(x), training=training)
        torch.testing.assert_close(a, nchw(tf.convert_to_tensor(b)), rtol=0, atol=1e-9)
    for a, b in (
        (ours.running_mean, theirs.moving_mean),
        (ours.running_var, theirs.moving_variance),
    ):
        torch.testing.assert_close(a, torch.from_numpy(b.numpy()), rtol=0, atol=1e-12)
