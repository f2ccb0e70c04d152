"""Convolution by hand; as usual in deep learning it is a cross-correlation (unflipped kernel)."""

import torch
from torch import Tensor

from torchcnn.scratch.arguments import same_dtype, shaped, whole
from torchcnn.scratch.precision import HALF, widen
from torchcnn.scratch.windows import Pair, Two, pad, pair, shifts

MANY_CHANNELS = 16  # from this many on, one product for each kernel element is faster than im2col


def corr2d(X: Tensor, K: Tensor) -> Tensor:
    """Apply a 2D cross-correlation: (h, w), (kh, kw) -> (h - kh + 1, w - kw + 1).

    Y[i, j] = sum_{a, b} X[i + a, j + b] K[a, b]

    It follows the definition, with a loop over the output pixels, and is differentiable with
    respect to X and K.
    Source: Zhang et al. 2021, arXiv:2106.11342.

    >>> corr2d(torch.arange(9.0).view(3, 3), torch.arange(4.0).view(2, 2))
    tensor([[19., 25.],
            [37., 43.]])

    Raises:
        ValueError: if an argument is not a matrix, or the kernel is empty or larger than the image.
    """
    sizes = zip(K.shape, X.shape, strict=False)
    if X.dim() != 2 or K.dim() != 2 or not all(1 <= k <= size for k, size in sizes):
        raise ValueError(
            f"expected an image (h, w) and a kernel no larger than it, got {tuple(X.shape)} and "
            f"{tuple(K.shape)}"
        )
    kh, kw = K.shape
    h, w = X.shape[0] - kh + 1, X.shape[1] - kw + 1
    dtype = torch.result_type(X, K)
    X, K = widen(X), widen(K)
    Y = X.new_zeros(h, w, dtype=torch.result_type(X, K))
    for i in range(h):
        for j in range(w):
            Y[i, j] = (X[i : i + kh, j : j + kw] * K).sum()
    return Y.to(dtype)


def _by_columns(X: Tensor, W: Tensor, stride: Two, dilation: Two, groups: int) -> Tensor:
    """Convolve by one matrix product (im2col), with a column (c kh kw) for each window."""
    o, c_group, kh, kw = W.shape
    X = X.transpose(0, 1).unflatten(0, (groups, c_group))  # (g, c / g, n, h, w)
    columns = torch.stack(shifts(X, (kh, kw), stride, dilation), 2)  # (g, c / g, kh kw, n, h', w')
    Y = W.reshape(groups, o // groups, -1) @ columns.flatten(3).flatten(1, 2)
    return Y.view(o, *columns.shape[3:]).transpose(0, 1)


def _by_rows(X: Tensor, W: Tensor, dilation: Two) -> Tensor:
    """Convolve by kh kw matrix products, without copying the windows.

    The images form a matrix with one row (c) for each pixel. The pixel a rows below and b columns
    to the right of another is always a w + b matrix rows after it. Outputs for which that crosses
    an edge, into the next image row or the next image, are dropped.
    """
    (n, c, h, w), (o, _, kh, kw), (dh, dw) = X.shape, W.shape, dilation
    lost_h, lost_w = dh * (kh - 1), dw * (kw - 1)
    if h <= lost_h or w <= lost_w:
        window = f"{lost_h + 1}×{lost_w + 1}"
        raise ValueError(f"a window of {window} does not fit an image of {(h, w)}")
    rows = X.permute(0, 2, 3, 1).reshape(n * h * w, c)
    count = len(rows) - lost_h * w - lost_w
    Y = X.new_zeros(count, o)
    for a in range(kh):
        for b in range(kw):
            start = a * dh * w + b * dw
            Y = torch.addmm(Y, rows[start : start + count], W[:, :, a, b].t())
    Y = torch.cat([Y, Y.new_zeros(len(rows) - count, o)]).view(n, h, w, o)
    return Y[:, : h - lost_h, : w - lost_w].permute(0, 3, 1, 2)


def _sides(
    padding: Pair | str, kernel: Two, stride: Pair, dilation: Two
) -> tuple[int, int, int, int]:
    """Return the padding (left, right, top, bottom) of a convolution."""
    if isinstance(padding, str) and padding not in ("valid", "same"):
        raise ValueError(f'padding must be a number, a pair, "valid" or "same", got {padding!r}')
    if padding == "same":
        if pair(stride, "stride", 1) != (1, 1):
            raise ValueError(f'padding "same" requires stride 1, got {stride}')
        (kh, kw), (dh, dw) = kernel, dilation
        h_all, w_all = dh * (kh - 1), dw * (kw - 1)
        return w_all // 2, w_all - w_all // 2, h_all // 2, h_all - h_all // 2
    ph, pw = (0, 0) if isinstance(padding, str) else pair(padding, "padding", 0)
    return pw, pw, ph, ph


def _check(input: Tensor, weight: Tensor, bias: Tensor | None, groups: int, channels: int) -> None:
    """Check what both convolutions have in common; `channels` is the axis of the input's channels.

    The weight's axis `channels` belongs to the input: (o, c / groups, kh, kw) if it is 1, and
    (c, o / groups, kh, kw) if it is 0. The other one belongs to the output.
    """
    if input.dim() != 4 or weight.dim() != 4:
        raise ValueError(
            f"expected images (n, c, h, w) or (c, h, w) and a weight of 4 axes, got "
            f"{tuple(input.shape)} and {tuple(weight.shape)}"
        )
    if not weight.shape[0] or not weight.shape[2] or not weight.shape[3]:
        raise ValueError(f"expected a kernel that is not empty, got a weight {tuple(weight.shape)}")
    if not whole(groups) or groups < 1:
        raise ValueError(f"groups must be a whole number of at least 1, got {groups!r}")
    outputs = weight.shape[0] if channels else weight.shape[1] * groups
    shaped((outputs,), bias=bias)
    same_dtype(input=input, weight=weight, bias=bias)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Apply a 2D convolution: (n, c, h, w), (o, c / groups, kh, kw) -> (n, o, h', w').

    Y[n, o, i, j] = b[o] + sum_{c, a, b} W[o, c, a, b] X[n, c, s i + d a - p, s j + d b - p]

    where X is 0 outside the image, and h' = floor((h + 2p - d (kh - 1) - 1) / s) + 1. With
    `groups`, each output channel only depends on the input channels of its group. `padding` is a
    number, a pair, "valid" (no padding) or "same", which keeps the size, requires stride 1, and
    adds an odd pixel at the bottom and on the right. An unbatched image (c, h, w) is accepted too.
    Source: Dumoulin and Visin 2016, arXiv:1603.07285.

    >>> conv2d(torch.arange(9.0).view(1, 1, 3, 3), torch.arange(4.0).view(1, 1, 2, 2))
    tensor([[[[19., 25.],
              [37., 43.]]]])

    Raises:
        ValueError: if the shapes or dtypes do not fit, an option is not a whole number, stride,
            dilation or groups are below 1, padding is below 0, or "same" padding is combined with
            a stride.
    """
    if input.dim() == 3:
        return conv2d(input[None], weight, bias, stride, padding, dilation, groups)[0]
    _check(input, weight, bias, groups, channels=1)
    steps, spread = pair(stride, "stride", 1), pair(dilation, "dilation", 1)
    c, (o, c_group, kh, kw) = input.shape[1], weight.shape
    if c != c_group * groups or o % groups:
        raise ValueError(
            f"expected images of {c_group * groups} channels and a multiple of {groups} output "
            f"channels, got {tuple(input.shape)} and a weight {tuple(weight.shape)}"
        )
    X = pad(input, _sides(padding, (kh, kw), stride, spread))
    # In half precision, one product is rounded once; the sum of many would be rounded every time.
    by_rows = groups == 1 and c >= MANY_CHANNELS and X.dtype not in HALF
    if by_rows and steps == (1, 1) and len(X):
        Y = _by_rows(X, weight, spread)
    else:
        Y = _by_columns(X, weight, steps, spread, groups)
    return Y if bias is None else Y + bias.view(-1, 1, 1)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
) -> Tensor:
    """Apply a transposed convolution: (n, c, h, w), (c, o / groups, kh, kw) -> (n, o, h', w').

    Y[n, o, s i + d a - p, s j + d b - p] += W[c, o, a, b] X[n, c, i, j], starting from b[o]

    where h' = (h - 1) s + d (kh - 1) + 1 - 2p + output_padding; `output_padding` extends the bottom
    and the right. It is the gradient of `conv2d` with respect to its input, and is computed as a
    convolution with the flipped kernel, after s - 1 zeros are inserted between the input pixels.
    Source: Dumoulin and Visin 2016, arXiv:1603.07285.

    >>> conv_transpose2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    tensor([[[[1., 2., 1.],
              [2., 4., 2.],
              [1., 2., 1.]]]])

    Raises:
        ValueError: if the shapes or dtypes do not fit, an option is not a whole number, stride,
            dilation or groups are below 1, a padding is below 0, or `output_padding` is neither
            smaller than the stride nor than the dilation.
    """
    if input.dim() == 3:
        return conv_transpose2d(
            input[None], weight, bias, stride, padding, output_padding, groups, dilation
        )[0]
    _check(input, weight, bias, groups, channels=0)
    (n, c, h, w), (c_in, _, kh, kw) = input.shape, weight.shape
    if c != c_in or c % groups or not h or not w:
        raise ValueError(
            f"expected images of {c_in} channels, divisible into {groups} groups, "
            f"got {tuple(input.shape)}"
        )
    (sh, sw), (dh, dw) = pair(stride, "stride", 1), pair(dilation, "dilation", 1)
    (ph, pw), (oh, ow) = pair(padding, "padding", 0), pair(output_padding, "output_padding", 0)
    if oh >= max(sh, dh) or ow >= max(sw, dw):
        raise ValueError(
            f"output_padding must be smaller than the stride {(sh, sw)} or the dilation "
            f"{(dh, dw)}, got {(oh, ow)}"
        )
    stretched = input.new_zeros(n, c, (h - 1) * sh + 1, (w - 1) * sw + 1)
    stretched[:, :, ::sh, ::sw] = input
    # Without padding, the output has every pixel that the kernel reaches.
    top, left = dh * (kh - 1) - ph, dw * (kw - 1) - pw
    flipped = weight.flip(2, 3).unflatten(0, (groups, c // groups)).transpose(1, 2).flatten(0, 1)
    stretched = pad(stretched, (left, left + ow, top, top + oh))
    return conv2d(stretched, flipped, bias, dilation=(dh, dw), groups=groups)


def depthwise_separable_conv2d(
    input: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
) -> Tensor:
    """Apply a depthwise, then a 1×1 convolution: (n, c, h, w) -> (n, o, h', w').

    Z[c] = X[c] * D[c]   Y[o] = b[o] + sum_c P[o, c] Z[c]

    where * is a convolution of one channel. `depthwise` is (c, 1, kh, kw) and `pointwise` is
    (o, c, 1, 1), so that there are c kh kw + o c weights instead of o c kh kw.
    Source: Chollet 2016, arXiv:1610.02357.

    Raises:
        ValueError: if the shapes do not fit, or as for `conv2d`.
    """
    if input.dim() not in (3, 4):
        raise ValueError(f"expected images (n, c, h, w) or (c, h, w), got {tuple(input.shape)}")
    Z = conv2d(input, depthwise, None, stride, padding, dilation, groups=input.shape[-3])
    return conv2d(Z, pointwise, bias)


def conv_matrix(K: Tensor, size: tuple[int, int], stride: int = 1, padding: int = 0) -> Tensor:
    """Return a convolution as a matrix, for images of `size` (h, w): (kh, kw) -> (h' w', h w).

    Y.flatten() = conv_matrix(K, (h, w)) @ X.flatten()

    The matrix is sparse: each row holds the kernel's elements, and is 0 elsewhere. Its transpose
    maps (h', w') to (h, w), which gives the transposed convolution its name.
    Source: Dumoulin and Visin 2016, arXiv:1603.07285.

    >>> W = conv_matrix(torch.ones(3, 3), (4, 4))
    >>> W.shape, (W @ torch.ones(16)).tolist(), (W.T @ torch.ones(4)).view(4, 4)[1].tolist()
    (torch.Size([4, 16]), [9.0, 9.0, 9.0, 9.0], [2.0, 4.0, 4.0, 2.0])

    Raises:
        ValueError: if K is not a matrix, the kernel is larger than the padded image, or as for
            `conv2d`.
    """
    if K.dim() != 2:
        raise ValueError(f"expected a kernel (kh, kw), got {tuple(K.shape)}")
    size = pair(size, "size", 1)
    # The columns are the convolutions of the h w images that have a single 1.
    basis = torch.eye(size[0] * size[1], dtype=K.dtype, device=K.device).view(-1, 1, *size)
    return conv2d(basis, K[None, None], stride=stride, padding=padding).flatten(1).T
