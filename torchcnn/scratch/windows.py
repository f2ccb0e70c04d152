"""What convolution and pooling share: padding, and the windows of an image."""

from torch import Tensor

Pair = int | tuple[int, ...]  # a number for both axes, or one for height and one for width


def pair(value: Pair) -> tuple[int, int]:
    """(height, width) of a number or of a tuple of one or two."""
    numbers = (value,) if isinstance(value, int) else tuple(value)
    return numbers[0], numbers[-1]


def pad(X: Tensor, sides: tuple[int, int, int, int], value: float = 0.0) -> Tensor:
    """Put `value` around images: (n, c, h, w) -> (n, c, top + h + bottom, left + w + right).

    `sides` are (left, right, top, bottom), in the order of `torch.nn.functional.pad`; a negative
    one takes pixels away.
    """
    left, right, top, bottom = sides
    X = X[:, :, max(-top, 0) :, max(-left, 0) :]
    X = X[:, :, : X.shape[2] - max(-bottom, 0), : X.shape[3] - max(-right, 0)]
    left, right, top, bottom = (max(side, 0) for side in sides)
    if not (left or right or top or bottom):
        return X
    n, c, h, w = X.shape
    Y = X.new_full((n, c, top + h + bottom, left + w + right), value)
    Y[:, :, top : top + h, left : left + w] = X
    return Y


def shifts(
    X: Tensor, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> list[Tensor]:
    """What each place of a window sees, row by row: kh kw views (..., h', w') of (..., h, w).

    The one of place (a, b) is X[..., s i + d a, s j + d b], for all windows (i, j) at once.

    Raises:
        ValueError: a window larger than the image.
    """
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if X.shape[-2] < spans[0] or X.shape[-1] < spans[1]:
        raise ValueError(f"a window of {spans[0]}×{spans[1]} does not fit {tuple(X.shape[-2:])}")
    (sh, sw), (dh, dw) = stride, dilation
    rows, columns = X.shape[-2] - spans[0] + 1, X.shape[-1] - spans[1] + 1  # before striding
    return [
        X[..., a * dh : a * dh + rows : sh, b * dw : b * dw + columns : sw]
        for a in range(kernel[0])
        for b in range(kernel[1])
    ]
