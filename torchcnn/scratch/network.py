"""Hand-written layers with the interface of `torch.nn`, and a function that converts networks.

Each layer is a subclass of its counterpart in `torch.nn`, with the same parameters, names and
options; only `forward` is replaced: it calls the function of that name.
"""

import copy
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from torchcnn.scratch.activations import leaky_relu, relu, sigmoid, tanh
from torchcnn.scratch.convolution import conv2d
from torchcnn.scratch.dropout import dropout
from torchcnn.scratch.linear import linear
from torchcnn.scratch.normalization import batch_norm
from torchcnn.scratch.pooling import avg_pool2d, max_pool2d
from torchcnn.scratch.precision import widen
from torchcnn.scratch.windows import pad

# torch.fx records these functions as they are, as it records the layers of torch.nn. It must not
# trace into them, because they check and use the shapes of their arguments.
for _by_hand in (linear, conv2d, max_pool2d, avg_pool2d, dropout, pad):
    torch.fx.wrap(_by_hand.__name__)
for _activation in (relu, leaky_relu, sigmoid, tanh):
    torch.fx.wrap(_activation.__name__)


class Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Conv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class MaxPool2d(nn.MaxPool2d):
    def forward(self, x: Tensor) -> Any:
        window = (self.kernel_size, self.stride, self.padding, self.dilation)
        return max_pool2d(x, *window, self.ceil_mode, self.return_indices)


class AvgPool2d(nn.AvgPool2d):
    def forward(self, x: Tensor) -> Tensor:
        window = (self.kernel_size, self.stride, self.padding, self.ceil_mode)
        return avg_pool2d(x, *window, self.count_include_pad, self.divisor_override)


@torch.fx.wrap
def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    training: bool,
    momentum: float | Tensor | None,
    eps: float,
    axes: tuple[int, ...],
) -> Tensor:
    """Apply `batch_norm` with the parameters, statistics and conventions of a PyTorch layer.

    In PyTorch momentum is the weight of the new value, and the moving variance is updated with the
    unbiased variance of a batch, n / (n - 1) times the one that `batch_norm` uses. `axes` are the
    numbers of axes that x may have.
    """
    if x.dim() not in axes:
        allowed = " or ".join(map(str, axes))
        raise ValueError(f"expected an input of {allowed} axes, got {tuple(x.shape)}")
    vectors = x.dim() == 3  # (n, c, l) are treated as images of width 1
    x = x[..., None] if vectors else x
    shape = (1, x.shape[1], *[1] * (x.dim() - 2))
    ones, zeros = x.new_ones(shape), x.new_zeros(shape)
    gamma = ones if weight is None else weight.view(shape)
    beta = zeros if bias is None else bias.view(shape)
    mean = zeros if running_mean is None else widen(running_mean).view(shape)
    var = ones if running_var is None else widen(running_var).view(shape)
    if training and num_batches_tracked is not None:
        num_batches_tracked.add_(1)
        if momentum is None:  # a cumulative average over all batches so far
            momentum = 1 / num_batches_tracked.to(var.dtype)
    share: Any = 0.0 if momentum is None else momentum
    by_batch = training or running_mean is None
    y, new_mean, new_var = batch_norm(by_batch, x, gamma, beta, mean, var, eps, 1 - share)
    if training and running_mean is not None and running_var is not None:
        with torch.no_grad():
            n, old = x.numel() / x.shape[1], (1 - share) * var
            running_mean.copy_(new_mean.flatten())
            running_var.copy_((old + (new_var - old) * (n / (n - 1))).flatten())
    return y[..., 0] if vectors else y


class BatchNorm1d(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        statistics = (self.running_mean, self.running_var, self.num_batches_tracked)
        options = (self.training, self.momentum, self.eps)
        return _batch_norm(x, self.weight, self.bias, *statistics, *options, axes=(2, 3))


class BatchNorm2d(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        statistics = (self.running_mean, self.running_var, self.num_batches_tracked)
        options = (self.training, self.momentum, self.eps)
        return _batch_norm(x, self.weight, self.bias, *statistics, *options, axes=(4,))


class ZeroPad2d(nn.ZeroPad2d):
    def forward(self, x: Tensor) -> Tensor:
        left, right, top, bottom = self.padding
        return pad(x, (left, right, top, bottom))


class Dropout(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)


class ReLU(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return relu(x)


class LeakyReLU(nn.LeakyReLU):
    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(x, self.negative_slope)


class Sigmoid(nn.Sigmoid):
    def forward(self, x: Tensor) -> Tensor:
        return sigmoid(x)


class Tanh(nn.Tanh):
    def forward(self, x: Tensor) -> Tensor:
        return tanh(x)


# The hand-written class of each layer; modules that compute nothing themselves map to themselves.
# `torchcnn.layers` adds its own layers.
BY_HAND: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: Linear,
    nn.Conv2d: Conv2d,
    nn.MaxPool2d: MaxPool2d,
    nn.AvgPool2d: AvgPool2d,
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.Dropout: Dropout,
    nn.ReLU: ReLU,
    nn.LeakyReLU: LeakyReLU,
    nn.Sigmoid: Sigmoid,
    nn.Tanh: Tanh,
    nn.ZeroPad2d: ZeroPad2d,
    nn.Flatten: nn.Flatten,
    nn.Unflatten: nn.Unflatten,
    nn.Identity: nn.Identity,
    nn.Sequential: nn.Sequential,
    nn.ModuleList: nn.ModuleList,
    nn.ModuleDict: nn.ModuleDict,
}


def from_scratch(net: nn.Module) -> nn.Module:
    """Return the same network with every layer replaced by a hand-written one.

    The result has the structure and the mode of `net` and shares its parameters and buffers, so
    that training one trains both. The keys of `state_dict` are the same. Logits and gradients are
    the same up to rounding, and so is dropout on a CPU with the same seed. Operations between the
    layers, such as sums and concatenations, are the network's own code and are not replaced.
    `torch.fx` traces the result in its present mode, training or not, which it then stays in.

    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    >>> by_hand = from_scratch(net)
    >>> type(by_hand[0]).__module__, by_hand[0].weight is net[0].weight
    ('torchcnn.scratch.network', True)

    Raises:
        ValueError: if a layer has no hand-written counterpart; the message names it.
    """
    return _converted(net, "", {})


def _converted(net: nn.Module, name: str, done: dict[int, nn.Module]) -> nn.Module:
    """Return the hand-written counterpart of a module; `done` holds those made so far, by id."""
    if id(net) in done:  # a layer that occurs twice stays a single layer
        return done[id(net)]
    kind = type(net)
    known = kind in BY_HAND or kind in BY_HAND.values()
    # Containers are converted recursively, except those of `torch.nn`, such as attention, which
    # compute something themselves.
    if not known and (not any(net.children()) or kind.__module__.startswith("torch.nn")):
        known_names = ", ".join(sorted(layer.__name__ for layer in BY_HAND))
        raise ValueError(
            f"layer {name!r} is a {kind.__name__}, which is not written by hand; "
            f"there are {known_names}"
        )
    if getattr(net, "padding_mode", "zeros") != "zeros":
        raise ValueError(
            f"layer {name!r} pads with {net.padding_mode!r}; the hand-written layers pad with zeros"
        )
    converted = done[id(net)] = copy.copy(net)  # shares the dicts of parameters and buffers
    for key, value in vars(net).items():
        if "hooks" in key and isinstance(value, dict):
            vars(converted)[key] = value.copy()
    converted.__class__ = BY_HAND.get(kind, kind)
    converted._modules = {
        key: child and _converted(child, f"{name}.{key}".lstrip("."), done)
        for key, child in net._modules.items()
    }
    return converted
