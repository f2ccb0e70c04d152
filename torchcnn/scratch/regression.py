"""Linear regression by hand: the model and its loss."""

from torch import Tensor


def linreg(X: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The linear model y = Xw + b: (n, d), (d, q), (q,) -> (n, q)."""
    return X @ w + b


def squared_loss(y_hat: Tensor, y: Tensor) -> Tensor:
    """Half the squared error of every example, not reduced: l = (y_hat - y)^2 / 2.

    `y` takes the shape of `y_hat`, so that (n,) against (n, 1) does not broadcast to (n, n).
    """
    return (y_hat - y.reshape(y_hat.shape)) ** 2 / 2
