"""Linear regression, softmax regression and the multilayer perceptron by hand."""

from torch import Tensor

from torchcnn.scratch.activations import relu
from torchcnn.scratch.arguments import biased


def linreg(X: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Apply the linear model y = Xw + b: (n, d), (d, q), (q,) -> (n, q).

    With q classes and the loss `cross_entropy`, which includes the softmax, this is softmax
    regression, and y are the logits. Source: Zhang et al. 2021, arXiv:2106.11342.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if X.dim() < 1 or w.dim() not in (1, 2) or X.shape[-1] != w.shape[0]:
        raise ValueError(
            f"expected features (n, d) and a weight (d, q), got {tuple(X.shape)} and "
            f"{tuple(w.shape)}"
        )
    return biased(X @ w, b)


def perceptron(X: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """Apply the multilayer perceptron with one hidden layer: (n, d) -> (n, q).

    H = relu(X w1 + b1)   y = H w2 + b2

    with w1 (d, h), b1 (h,), w2 (h, q), b2 (q,). Without the ReLU it would be a linear model:
    (X w1 + b1) w2 + b2 = X (w1 w2) + (b1 w2 + b2). Source: Rumelhart et al. 1986.

    Raises:
        ValueError: if the shapes do not fit.
    """
    return linreg(relu(linreg(X, w1, b1)), w2, b2)


def squared_loss(y_hat: Tensor, y: Tensor) -> Tensor:
    """Return half the squared error, without reduction: (n, ...), (n, ...) -> (n, ...).

    l = (y_hat - y)^2 / 2

    `y` is reshaped to the shape of `y_hat`, so that (n,) and (n, 1) do not broadcast to (n, n).
    Source: Zhang et al. 2021, arXiv:2106.11342.

    Raises:
        ValueError: if there are not as many labels as predictions.
    """
    if y.numel() != y_hat.numel():
        raise ValueError(
            f"expected as many labels as predictions, got {tuple(y.shape)} and {tuple(y_hat.shape)}"
        )
    return (y_hat - y.reshape(y_hat.shape)) ** 2 / 2
