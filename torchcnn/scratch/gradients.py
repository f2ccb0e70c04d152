"""The backward pass by hand: gradients of layers, derived on paper instead of by autograd.

Each function takes `grad_output`, the gradient g of a scalar L with respect to the output of a
layer, and returns the gradients of L with respect to its inputs and parameters.
"""

import torch
from torch import Tensor

from torchcnn.scratch.arguments import shaped
from torchcnn.scratch.convolution import conv_transpose2d
from torchcnn.scratch.losses import softmax
from torchcnn.scratch.normalization import check_batch_norm
from torchcnn.scratch.pooling import max_pool2d, pool_options, pool_output_size
from torchcnn.scratch.precision import widen
from torchcnn.scratch.windows import Pair, Two, pad, pair, shifts


def _input_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Two,
    padding: Two,
    dilation: Two,
    groups: int,
) -> Tensor:
    """Return dL/dX of a convolution: (n, o, h', w') -> (n, c, h, w)."""
    kernel = (weight.shape[2], weight.shape[3])
    options = (input.shape[2:], kernel, stride, padding, dilation)
    shaped((len(input), len(weight), *pool_output_size(*options)), grad_output=grad_output)
    # How many pixels at the bottom and on the right are not reached by any window.
    rest = tuple((i + 2 * p - d * (k - 1) - 1) % s for i, k, s, p, d in zip(*options, strict=True))
    return conv_transpose2d(grad_output, weight, None, stride, padding, rest, groups, dilation)


def linear_backward(
    grad_output: Tensor, input: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Backpropagate through y = x W^T + b.

    (n, q), (n, d), (q, d) -> dL/dx (n, d), dL/dW (q, d), dL/db (q,)

    dL/dx = g W   dL/dW = g^T x   dL/db = sum_n g

    Source: Rumelhart, Hinton and Williams 1986.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if input.dim() != 2 or weight.dim() != 2 or input.shape[1] != weight.shape[1]:
        raise ValueError(
            f"expected an input (n, d) and a weight (q, d), got {tuple(input.shape)} and "
            f"{tuple(weight.shape)}"
        )
    shaped((len(input), len(weight)), grad_output=grad_output)
    return grad_output @ weight, grad_output.t() @ input, grad_output.sum(0)


def conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Backpropagate through `conv2d`.

    (n, o, h', w') -> dL/dX (n, c, h, w), dL/dW (o, c / groups, kh, kw), dL/db (o,)

    dL/dX = conv_transpose2d(g, W)
    dL/dW[o, c, a, b] = sum_{n, i, j} g[n, o, i, j] X[n, c, s i + d a - p, s j + d b - p]
    dL/db[o] = sum_{n, i, j} g[n, o, i, j]

    Source: Dumoulin and Visin 2016, arXiv:1603.07285.

    Raises:
        ValueError: if the shapes do not fit, or as for `conv2d`.
    """
    if input.dim() != 4 or weight.dim() != 4 or input.shape[1] != weight.shape[1] * groups:
        raise ValueError(
            f"expected images (n, c, h, w) and a weight (o, c / groups, kh, kw), got "
            f"{tuple(input.shape)}, {tuple(weight.shape)} and {groups} groups"
        )
    steps, spread = pair(stride, "stride", 1), pair(dilation, "dilation", 1)
    ph, pw = pair(padding, "padding", 0)
    grad_input = _input_backward(grad_output, input, weight, steps, (ph, pw), spread, groups)
    (_, _, kh, kw), (_, _, h, w) = weight.shape, grad_output.shape
    X = torch.stack(shifts(pad(input, (pw, pw, ph, ph)), (kh, kw), steps, spread))
    X = X[..., :h, :w].unflatten(2, (groups, -1))  # (kh kw, n, g, c / g, h', w')
    g = grad_output.unflatten(1, (groups, -1))
    grad_weight = torch.einsum("ngohw,kngchw->gock", g, X).reshape(weight.shape)
    return grad_input, grad_weight, grad_output.sum((0, 2, 3))


def max_pool2d_backward(
    grad_output: Tensor,
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Backpropagate through `max_pool2d`: (n, c, h', w') -> (n, c, h, w).

    dL/dX[i', j'] is the sum of all g[i, j] whose window has its first maximum at (i', j').
    Source: Rumelhart, Hinton and Williams 1986.

    Raises:
        ValueError: if the shapes do not fit, or as for `max_pool2d`.
    """
    _check_images(input)
    _, position = max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, True)
    shaped(position.shape, grad_output=grad_output)
    grad = torch.zeros_like(input).flatten(2)
    inside = position < grad.shape[2]  # a window of padding may have its position outside
    position, g = position.where(inside, 0), grad_output.where(inside, 0)
    return grad.scatter_add(2, position.flatten(2), g.flatten(2)).view_as(input)


def avg_pool2d_backward(
    grad_output: Tensor,
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
) -> Tensor:
    """Backpropagate through `avg_pool2d`: (n, c, h', w') -> (n, c, h, w).

    Each gradient is spread evenly over its window, which is a depthwise transposed convolution
    with a kernel whose elements are 1 / (kh kw).
    Source: Dumoulin and Visin 2016, arXiv:1603.07285.

    Raises:
        ValueError: if the shapes do not fit, or as for `avg_pool2d`.
    """
    _check_images(input)
    kernel, steps, padded, spread = pool_options(kernel_size, stride, padding)
    c = input.shape[1]
    weight = input.new_full((c, 1, *kernel), 1 / (kernel[0] * kernel[1]))
    return _input_backward(grad_output, input, weight, steps, padded, spread, c)


def _check_images(input: Tensor) -> None:
    """Check that a tensor has the axes of a batch of images."""
    if input.dim() != 4:
        raise ValueError(f"expected images (n, c, h, w), got {tuple(input.shape)}")


def batch_norm_backward(
    grad_output: Tensor, X: Tensor, gamma: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Backpropagate through `batch_norm` in training mode: -> dL/dX, dL/dgamma, dL/dbeta.

    The gradients have the shapes of X, gamma and beta. With X_hat = (X - mu) / sqrt(var + eps),
    and with means over the same axes as mu,

    dL/dX = gamma / sqrt(var + eps) (g - mean(g) - X_hat mean(g X_hat))
    dL/dgamma = sum g X_hat   dL/dbeta = sum g

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, section 3.

    Raises:
        ValueError: if the shapes do not fit, or as for `batch_norm`.
    """
    check_batch_norm(True, X, eps, gamma=gamma)
    shaped(X.shape, grad_output=grad_output)
    dtype, parameter_dtype = X.dtype, gamma.dtype
    X, gamma, grad_output = widen(X), widen(gamma), widen(grad_output)
    dims = [0] if X.dim() == 2 else [0, 2, 3]
    deviation = X - X.mean(dims, keepdim=True)
    std = torch.sqrt((deviation**2).mean(dims, keepdim=True) + eps)
    X_hat, g = deviation / std, grad_output
    along = (g * X_hat).mean(dims, keepdim=True)
    grad_X = gamma / std * (g - g.mean(dims, keepdim=True) - X_hat * along)
    grad_gamma, grad_beta = (g * X_hat).sum(dims, keepdim=True), g.sum(dims, keepdim=True)
    return grad_X.to(dtype), grad_gamma.to(parameter_dtype), grad_beta.to(parameter_dtype)


def softmax_cross_entropy_backward(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the gradient of the mean `cross_entropy`: (n, k), (n,) -> dL/dlogits (n, k).

    dL/dx = (softmax(x) - t) / n

    where t is 1 for the target class and 0 elsewhere, so that softmax(x) - t is the error of the
    probabilities. Source: Bridle 1990.

    Raises:
        ValueError: if the shapes do not fit, or a class is not one of k.
    """
    if logits.dim() != 2 or classes.dtype != torch.int64:
        raise ValueError(
            f"expected logits (n, k) and classes in int64, got {tuple(logits.shape)} and "
            f"{classes.dtype}"
        )
    shaped(logits.shape[:1], classes=classes)
    x = widen(logits)
    try:
        t = torch.zeros_like(x).scatter(1, classes[:, None], 1.0)
    except RuntimeError as error:  # shapes fit, so that a class is out of range
        got = str(error).splitlines()[0]
        raise ValueError(f"the classes must lie in [0, {x.shape[1] - 1}], got: {got}") from error
    return ((softmax(x, 1) - t) / len(x)).to(logits.dtype)
