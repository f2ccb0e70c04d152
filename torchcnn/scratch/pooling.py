"""Pooling by hand, which reduces every window to one number."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from torchcnn.scratch.arguments import floating, whole
from torchcnn.scratch.precision import widen
from torchcnn.scratch.windows import Pair, Two, pad, pair, shifts


def pool_options(
    kernel_size: Pair, stride: Pair | None, padding: Pair, dilation: Pair = 1
) -> tuple[Two, Two, Two, Two]:
    """Return (height, width) of the kernel, the stride, the padding and the dilation of a pooling.

    With padding of more than half of the kernel, a window would lie entirely in the padding.
    """
    kernel = pair(kernel_size, "kernel_size", 1)
    steps = kernel if stride is None or stride == () else pair(stride, "stride", 1)
    padded, spread = pair(padding, "padding", 0), pair(dilation, "dilation", 1)
    if any(2 * p > k for p, k in zip(padded, kernel, strict=True)):
        raise ValueError(f"padding must be at most half of a window, got {padding} for {kernel}")
    return kernel, steps, padded, spread


def pool_output_size(
    size: Sequence[int], kernel: Two, stride: Two, padding: Two, dilation: Two, ceil: bool = False
) -> Two:
    """Return the size (h', w') of the output for images of `size` (h, w).

    With `ceil`, a partial window is added unless it starts in the padding at the end.
    """
    counts = []
    for i, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        room = i + 2 * p - d * (k - 1) - 1  # for steps
        count = room // s + 1
        counts.append(count + (ceil and room % s > 0 and count * s < i + p))
    if min(counts) < 1:
        raise ValueError(f"a window of {kernel} does not fit an image of {tuple(size)}")
    return counts[0], counts[1]


def _pool_windows(
    X: Tensor, kernel: Two, stride: Two, padding: Two, dilation: Two, ceil: bool, value: float
) -> Tensor:
    """Return the windows of images padded with `value`: (n, c, h, w) -> (kh kw, n, c, h', w')."""
    counts = pool_output_size(X.shape[2:], kernel, stride, padding, dilation, ceil)
    bottom, right = (
        (count - 1) * s + d * (k - 1) + 1 - i - p
        for count, i, k, s, p, d in zip(
            counts, X.shape[2:], kernel, stride, padding, dilation, strict=True
        )
    )
    X = pad(X, (padding[1], right, padding[0], bottom), value)
    return torch.stack(shifts(X, kernel, stride, dilation))


def _check(input: Tensor) -> None:
    """Check that a tensor can be pooled."""
    if input.dim() != 4 or 0 in input.shape[1:] or input.dtype == torch.bool:
        raise ValueError(
            f"expected images (n, c, h, w) or (c, h, w) of numbers, which only n may leave empty, "
            f"got {tuple(input.shape)}, {input.dtype}"
        )


def max_pool2d(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Apply max pooling: (n, c, h, w) -> (n, c, h', w').

    Y[i, j] = max_{a, b} X[s i + d a - p, s j + d b - p]

    Padding is never the maximum. Of equal maxima the first counts, and of several NaN the last.
    `stride` defaults to `kernel_size`. An unbatched image (c, h, w) is accepted too. With
    `return_indices` it also returns the position i w + j of each maximum in its image,
    (n, c, h', w') int64. If all of a window is -inf, or is padding, the position is that of its
    first element that is not above or to the left of the image; as in PyTorch, it may then lie
    outside.
    Source: Dumoulin and Visin 2016, arXiv:1603.07285.

    >>> max_pool2d(torch.arange(16.0).view(1, 1, 4, 4), 2)
    tensor([[[[ 5.,  7.],
              [13., 15.]]]])

    Raises:
        ValueError: if the window does not fit the image, the padding exceeds half of the window,
            a size, stride or dilation is below 1, or these are not images.
    """
    if input.dim() == 3:
        found = max_pool2d(input[None], kernel_size, stride, padding, dilation, ceil_mode, True)
        return (found[0][0], found[1][0]) if return_indices else found[0][0]
    _check(input)
    options = pool_options(kernel_size, stride, padding, dilation)
    (_, kw), (sh, sw), (ph, pw), (dh, dw) = options
    fractions, w = input.is_floating_point(), input.shape[3]
    least = -math.inf if fractions else torch.iinfo(input.dtype).min
    with torch.no_grad():
        X = _pool_windows(input, *options, ceil_mode, least)
        Y, place = X.max(0)
        last = len(X) - 1 - X.flip(0).max(0)[1]
        place = last.where(Y.isnan(), place)
    rows = torch.arange(Y.shape[2], device=Y.device)[:, None] * sh - ph
    columns = torch.arange(Y.shape[3], device=Y.device) * sw - pw
    k = torch.arange(len(X), device=Y.device)
    steps = k // kw * dh * w + k % kw * dw  # from the first element of a window to each
    position = rows * w + columns + steps[place]
    first = rows.where(rows >= 0, rows % dh) * w + columns.where(columns >= 0, columns % dw)
    position = first.where(Y.eq(least), position)
    Y = _at(input, position, Y) if fractions else Y
    return (Y, position) if return_indices else Y


def _at(input: Tensor, position: Tensor, Y: Tensor) -> Tensor:
    """Return Y, the pixels at a position each, as a differentiable function of the images.

    Where Y is -inf, that may be no pixel's value but the padding's. The gradient goes to the pixel
    at the position all the same, as in PyTorch, if there is one.
    """
    pixels = input.flatten(2)
    inside = position < pixels.shape[2]
    picked = pixels.gather(2, position.where(inside, 0).flatten(2)).view_as(Y)
    lowered = (picked - math.inf).where(inside & (picked < math.inf), -math.inf)
    return lowered.where(Y.isneginf(), picked)


def avg_pool2d(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Apply average pooling: (n, c, h, w) -> (n, c, h', w').

    Y[i, j] = 1 / (kh kw) sum_{a, b} X[s i + a - p, s j + b - p]

    `stride` defaults to `kernel_size`. The mean includes padded zeros unless `count_include_pad`
    is False, but never the pixels that `ceil_mode` adds after the padding. `divisor_override`
    replaces the number of pixels. An unbatched image (c, h, w) is accepted too.
    Source: Dumoulin and Visin 2016, arXiv:1603.07285.

    >>> avg_pool2d(torch.arange(16.0).view(1, 1, 4, 4), 2)
    tensor([[[[ 2.5000,  4.5000],
              [10.5000, 12.5000]]]])

    Raises:
        ValueError: if the window does not fit the image, the padding exceeds half of the window, a
            size or stride is below 1, the divisor is not a whole number or 0, or these are not
            images.
    """
    if input.dim() == 3:
        options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
        return avg_pool2d(input[None], *options)[0]
    if divisor_override is not None and (divisor_override == 0 or not whole(divisor_override)):
        raise ValueError(f"divisor_override must not be 0, but a number, got {divisor_override!r}")
    _check(input)
    kernel, steps, padded, spread = pool_options(kernel_size, stride, padding)
    # The means of whole numbers are fractions.
    dtype = input.dtype if input.is_floating_point() else torch.get_default_dtype()
    X = widen(_pool_windows(input, kernel, steps, padded, spread, ceil_mode, 0.0)).sum(0)
    if divisor_override is not None:
        return (X / divisor_override).to(dtype)
    counts = []  # the number of pixels in each window that count, along height and along width
    for size, k, s, p, count in zip(
        input.shape[2:], kernel, steps, padded, X.shape[2:], strict=True
    ):
        start = torch.arange(count, device=X.device) * s - p
        first, end = (start, size + p) if count_include_pad else (start.clamp(min=0), size)
        counts.append((start + k).clamp(max=end) - first)
    return (X / (counts[0][:, None] * counts[1])).to(dtype)


def global_avg_pool2d(input: Tensor) -> Tensor:
    """Return the mean of each channel: (n, c, h, w) -> (n, c, 1, 1). Source: arXiv:1312.4400.

    An unbatched image (c, h, w) is accepted too.

    Raises:
        ValueError: if these are not images, or not floating-point.
    """
    if isinstance(input, Tensor):  # what torch.fx traces with has neither axes nor a dtype
        if input.dim() not in (3, 4):
            raise ValueError(f"expected images (n, c, h, w) or (c, h, w), got {tuple(input.shape)}")
        floating(input)
    return input.mean((-2, -1), keepdim=True)
