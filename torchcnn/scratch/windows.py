"""Padding and sliding windows, which convolution and pooling share."""

from torch import Tensor

from torchcnn.scratch.arguments import whole

Two = tuple[int, int]  # (height, width)
Pair = int | tuple[int, ...]  # one value for both axes, or (height, width)


def pair(value: Pair, name: str, least: int) -> Two:
    """Return (height, width) from a number or from a tuple of one or two numbers."""
    numbers = value if isinstance(value, tuple | list) else (value,)
    if len(numbers) not in (1, 2) or not all(whole(i) and i >= least for i in numbers):
        raise ValueError(
            f"the {name} must be a whole number or a pair of them, at least {least}, got {value!r}"
        )
    return numbers[0], numbers[-1]


def pad(X: Tensor, sides: tuple[int, int, int, int], value: float = 0.0) -> Tensor:
    """Pad images with `value`: (..., h, w) -> (..., top + h + bottom, left + w + right).

    `sides` is (left, right, top, bottom), in the order of `torch.nn.functional.pad`; a negative
    number crops that side.
    """
    left, right, top, bottom = sides
    h, w = X.shape[-2:]
    if top + h + bottom < 0 or left + w + right < 0:
        raise ValueError(f"an image of {(h, w)} cannot be padded by {sides}: too much is cropped")
    X = X[..., max(-top, 0) : h - max(-bottom, 0), max(-left, 0) : w - max(-right, 0)]
    left, right, top, bottom = (max(side, 0) for side in sides)
    if not (left or right or top or bottom):
        return X
    h, w = X.shape[-2:]
    Y = X.new_full((*X.shape[:-2], top + h + bottom, left + w + right), value)
    Y[..., top : top + h, left : left + w] = X
    return Y


def shifts(X: Tensor, kernel: Two, stride: Two, dilation: Two) -> list[Tensor]:
    """Return a view of the image for each kernel element: (..., h, w) -> kh kw times (..., h', w').

    The view for the kernel element (a, b) contains the pixels X[..., s i + d a, s j + d b] that it
    meets in all windows (i, j). The views are in row-major order of (a, b).
    """
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if X.shape[-2] < spans[0] or X.shape[-1] < spans[1]:
        size = tuple(X.shape[-2:])
        raise ValueError(f"a window of {spans[0]}×{spans[1]} does not fit an image of {size}")
    (sh, sw), (dh, dw) = stride, dilation
    rows, columns = X.shape[-2] - spans[0] + 1, X.shape[-1] - spans[1] + 1  # before striding
    return [
        X[..., a * dh : a * dh + rows : sh, b * dw : b * dw + columns : sw]
        for a in range(kernel[0])
        for b in range(kernel[1])
    ]
