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


def windows(
    X: Tensor, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> Tensor:
    """Every window of an image, as a view of it: (n, c, h, w) -> (n, c, h', w', kh, kw).

    Raises:
        ValueError: a window larger than the image.
    """
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if X.shape[2] < span[0] or X.shape[3] < span[1]:
        raise ValueError(f"a window of {span[0]}×{span[1]} does not fit {tuple(X.shape[2:])}")
    X = X.unfold(2, span[0], stride[0]).unfold(3, span[1], stride[1])
    return X[..., :: dilation[0], :: dilation[1]]
