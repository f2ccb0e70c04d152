"""Convolution by hand; what networks call so is cross-correlation: the kernel is not flipped."""

import torch
from torch import Tensor

from torchcnn.scratch.windows import Pair, pad, pair, shifts

MANY_CHANNELS = 16  # from here on a product for each weight of the kernel is faster than im2col


def corr2d(X: Tensor, K: Tensor) -> Tensor:
    """Two-dimensional cross-correlation: (h, w), (kh, kw) -> (h - kh + 1, w - kw + 1).

    Y[i, j] = sum_{a, b} X[i + a, j + b] K[a, b]

    Written as the definition reads, a loop over the output's pixels; gradients flow to both.
    Source: Zhang et al. 2021, arXiv:2106.11342.

    >>> import torch
    >>> corr2d(torch.arange(9.0).view(3, 3), torch.arange(4.0).view(2, 2))
    tensor([[19., 25.],
            [37., 43.]])

    Raises:
        ValueError: an argument that is not a matrix, or a kernel larger than the image.
    """
    if X.dim() != 2 or K.dim() != 2 or K.shape[0] > X.shape[0] or K.shape[1] > X.shape[1]:
        raise ValueError(
            f"expected an image (h, w) and a kernel no larger, got {tuple(X.shape)} and "
            f"{tuple(K.shape)}"
        )
    kh, kw = K.shape
    h, w = X.shape[0] - kh + 1, X.shape[1] - kw + 1
    Y = X.new_zeros(h, w, dtype=torch.result_type(X, K))
    for i in range(h):
        for j in range(w):
            Y[i, j] = (X[i : i + kh, j : j + kw] * K).sum()
    return Y


def _by_columns(
    X: Tensor, W: Tensor, stride: tuple[int, int], dilation: tuple[int, int], groups: int
) -> Tensor:
    """One product of matrices (im2col): a column (c kh kw) for each window of all images."""
    o, c_group, kh, kw = W.shape
    X = X.transpose(0, 1).unflatten(0, (groups, c_group))  # (g, c / g, n, h, w)
    columns = torch.stack(shifts(X, (kh, kw), stride, dilation), 2)  # (g, c / g, kh kw, n, h', w')
    Y = W.reshape(groups, o // groups, -1) @ columns.flatten(3).flatten(1, 2)
    return Y.view(o, *columns.shape[3:]).transpose(0, 1)


def _by_rows(X: Tensor, W: Tensor, dilation: tuple[int, int]) -> Tensor:
    """kh kw products, and no copy: with a row (c) for each pixel of all images, one after another.

    The pixel that lies a below and b beside another is a w + b rows further on, whichever it is.
    Where that runs over an edge, into the next line or image, the outcome is dropped.
    """
    (n, c, h, w), (o, _, kh, kw), (dh, dw) = X.shape, W.shape, dilation
    lost_h, lost_w = dh * (kh - 1), dw * (kw - 1)
    if h <= lost_h or w <= lost_w:
        raise ValueError(f"a window of {lost_h + 1}×{lost_w + 1} does not fit {(h, w)}")
    rows = X.permute(0, 2, 3, 1).reshape(n * h * w, c)
    count = len(rows) - lost_h * w - lost_w
    Y = X.new_zeros(count, o)
    for a in range(kh):
        for b in range(kw):
            start = a * dh * w + b * dw
            Y = torch.addmm(Y, rows[start : start + count], W[:, :, a, b].t())
    Y = torch.cat([Y, Y.new_zeros(len(rows) - count, o)]).view(n, h, w, o)
    return Y[:, : h - lost_h, : w - lost_w].permute(0, 3, 1, 2)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of images: (n, c, h, w), (o, c / groups, kh, kw) -> (n, o, h', w').

    Y[n, o, i, j] = b[o] + sum_{c, a, b} W[o, c, a, b] X[n, c, s i + d a - p, s j + d b - p]

    where X is 0 outside of the image, and h' = floor((h + 2p - d (kh - 1) - 1) / s) + 1. With
    `groups`, the o-th output sees the channels of its own group alone. `padding` is a number, a
    pair, "valid" (none), or "same" (as many as keep the size, one more behind than before where
    their number is odd; stride 1). An image (c, h, w) without a batch is taken too.
    Source: Dumoulin and Visin 2016, arXiv:1603.07285.

    >>> import torch
    >>> conv2d(torch.arange(9.0).view(1, 1, 3, 3), torch.arange(4.0).view(1, 1, 2, 2))
    tensor([[[[19., 25.],
              [37., 43.]]]])

    Raises:
        ValueError: shapes that do not fit, or "same" with a stride.
    """
    if input.dim() == 3:
        return conv2d(input[None], weight, bias, stride, padding, dilation, groups)[0]
    c, (o, c_group, kh, kw) = input.shape[1], weight.shape
    if c != c_group * groups or o % groups:
        raise ValueError(
            f"expected images of {c_group * groups} channels and outputs in {groups} groups, got "
            f"{tuple(input.shape)} and a weight {tuple(weight.shape)}"
        )
    (sh, sw), (dh, dw) = pair(stride), pair(dilation)
    if isinstance(padding, str) and padding not in ("valid", "same"):
        raise ValueError(f'padding is a number, a pair, "valid" or "same", got {padding!r}')
    if padding == "same":
        if (sh, sw) != (1, 1):
            raise ValueError(f'padding "same" goes with stride 1, got {stride}')
        h_all, w_all = dh * (kh - 1), dw * (kw - 1)
        sides = (w_all // 2, w_all - w_all // 2, h_all // 2, h_all - h_all // 2)
    else:
        ph, pw = (0, 0) if isinstance(padding, str) else pair(padding)
        sides = (pw, pw, ph, ph)
    X = pad(input, sides)
    if (sh, sw) == (1, 1) and groups == 1 and c >= MANY_CHANNELS and len(X):
        Y = _by_rows(X, weight, (dh, dw))
    else:
        Y = _by_columns(X, weight, (sh, sw), (dh, dw), groups)
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
    """Transposed convolution: (n, c, h, w), (c, o / groups, kh, kw) -> (n, o, h', w').

    Y[n, o, s i + d a - p, s j + d b - p] += W[c, o, a, b] X[n, c, i, j], and b[o] on top

    that is, h' = (h - 1) s + d (kh - 1) + 1 - 2p, and `output_padding` more behind. It is the
    gradient of `conv2d` with respect to its input, and written here as a convolution itself: of the
    input stretched by `stride - 1` zeros between its pixels, with the flipped kernel.
    Source: Dumoulin and Visin 2016, arXiv:1603.07285.

    >>> import torch
    >>> conv_transpose2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    tensor([[[[1., 2., 1.],
              [2., 4., 2.],
              [1., 2., 1.]]]])

    Raises:
        ValueError: shapes that do not fit.
    """
    if input.dim() == 3:
        return conv_transpose2d(
            input[None], weight, bias, stride, padding, output_padding, groups, dilation
        )[0]
    (n, c, h, w), (c_in, _, kh, kw) = input.shape, weight.shape
    if c != c_in or c % groups:
        raise ValueError(
            f"expected images of {c_in} channels in {groups} groups, got {tuple(input.shape)}"
        )
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    oh, ow = pair(output_padding)
    stretched = input.new_zeros(n, c, (h - 1) * sh + 1, (w - 1) * sw + 1)
    stretched[:, :, ::sh, ::sw] = input
    top, left = dh * (kh - 1) - ph, dw * (kw - 1) - pw  # all positions that the kernel touches
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
    """A window for each channel, then 1×1: (n, c, h, w) -> (n, o, h', w').

    Z[c] = X[c] * D[c]   Y[o] = b[o] + sum_c P[o, c] Z[c]

    `depthwise` is (c, 1, kh, kw), `pointwise` (o, c, 1, 1): c kh kw + o c weights in place of
    o c kh kw. Source: Chollet 2016, arXiv:1610.02357.

    Raises:
        ValueError: shapes that do not fit.
    """
    Z = conv2d(input, depthwise, None, stride, padding, dilation, groups=input.shape[-3])
    return conv2d(Z, pointwise, bias)


def conv_matrix(K: Tensor, size: tuple[int, int], stride: int = 1, padding: int = 0) -> Tensor:
    """The matrix that a convolution is: (kh, kw) -> (h' w', h w), for images of `size` (h, w).

    Y.flatten() = conv_matrix(K, (h, w)) @ X.flatten()

    It is sparse: a row has the kernel's weights and zeros else. Its transpose goes the other way,
    from (h', w') to (h, w), which is where the transposed convolution has its name from.
    Source: Dumoulin and Visin 2016, arXiv:1603.07285.

    >>> import torch
    >>> W = conv_matrix(torch.ones(3, 3), (4, 4))
    >>> W.shape, (W @ torch.ones(16)).tolist(), (W.T @ torch.ones(4)).view(4, 4)[1].tolist()
    (torch.Size([4, 16]), [9.0, 9.0, 9.0, 9.0], [2.0, 4.0, 4.0, 2.0])

    Raises:
        ValueError: a kernel larger than the padded image.
    """
    # What the convolution makes of each of the h w images with a single 1 are the columns.
    basis = torch.eye(size[0] * size[1], dtype=K.dtype, device=K.device).view(-1, 1, *size)
    return conv2d(basis, K[None, None], stride=stride, padding=padding).flatten(1).T
