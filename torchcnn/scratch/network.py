"""Hand-written layers with the interface of `torch.nn`, and a function that converts networks.

Each layer is a subclass of its counterpart in `torch.nn`, with the same parameters, names and
options; only `forward` is replaced.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from torchcnn.scratch.activations import leaky_relu, relu, sigmoid, tanh
from torchcnn.scratch.convolution import conv2d
from torchcnn.scratch.dropout import dropout
from torchcnn.scratch.linear import linear
from torchcnn.scratch.normalization import batch_norm
from torchcnn.scratch.pooling import avg_pool2d, max_pool2d
from torchcnn.scratch.windows import pad


class Linear(nn.Linear):
    """Applies `linear`: (..., d) -> (..., q)."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Conv2d(nn.Conv2d):
    """Applies `conv2d`: (n, c, h, w) -> (n, o, h', w')."""

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class MaxPool2d(nn.MaxPool2d):
    """Applies `max_pool2d`: (n, c, h, w) -> (n, c, h', w')."""

    def forward(self, x: Tensor) -> Any:
        window = (self.kernel_size, self.stride, self.padding, self.dilation)
        return max_pool2d(x, *window, self.ceil_mode, self.return_indices)


class AvgPool2d(nn.AvgPool2d):
    """Applies `avg_pool2d`: (n, c, h, w) -> (n, c, h', w')."""

    def forward(self, x: Tensor) -> Tensor:
        window = (self.kernel_size, self.stride, self.padding, self.ceil_mode)
        return avg_pool2d(x, *window, self.count_include_pad, self.divisor_override)


def _batch_norm(layer: Any, x: Tensor) -> Tensor:
    """Apply `batch_norm` with the parameters, statistics and conventions of a PyTorch layer.

    In PyTorch momentum is the weight of the new value, and the moving variance is updated with the
    unbiased variance of a batch, n / (n - 1) times the one that `batch_norm` uses.
    """
    shape = (1, x.shape[1], *[1] * (x.dim() - 2))
    ones, zeros = x.new_ones(shape), x.new_zeros(shape)
    gamma = ones if layer.weight is None else layer.weight.view(shape)
    beta = zeros if layer.bias is None else layer.bias.view(shape)
    tracked = layer.running_mean is not None
    mean = layer.running_mean.view(shape) if tracked else zeros
    var = layer.running_var.view(shape) if tracked else ones
    by_batch = layer.training or not tracked
    momentum = layer.momentum
    if layer.training and tracked:
        layer.num_batches_tracked.add_(1)
        if momentum is None:  # a cumulative average over all batches so far
            momentum = 1 / layer.num_batches_tracked.to(x.dtype)
    momentum = 0.0 if momentum is None else momentum
    y, new_mean, new_var = batch_norm(by_batch, x, gamma, beta, mean, var, layer.eps, 1 - momentum)
    if layer.training and tracked:
        with torch.no_grad():
            n, old = x.numel() / x.shape[1], (1 - momentum) * var
            layer.running_mean.copy_(new_mean.flatten())
            layer.running_var.copy_((old + (new_var - old) * (n / (n - 1))).flatten())
    return y


class BatchNorm1d(nn.BatchNorm1d):
    """Applies `batch_norm`: (n, c) -> (n, c), or (n, c, l) -> (n, c, l)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:  # treated as images of width 1
            return _batch_norm(self, x[..., None])[..., 0]
        return _batch_norm(self, x)


class BatchNorm2d(nn.BatchNorm2d):
    """Applies `batch_norm`: (n, c, h, w) -> (n, c, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        return _batch_norm(self, x)


class ZeroPad2d(nn.ZeroPad2d):
    """Applies `pad`: (n, c, h, w) -> (n, c, top + h + bottom, left + w + right)."""

    def forward(self, x: Tensor) -> Tensor:
        left, right, top, bottom = self.padding
        return pad(x, (left, right, top, bottom))


class Dropout(nn.Dropout):
    """Applies `dropout`: (...) -> (...)."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)


class ReLU(nn.ReLU):
    """Applies `relu`: (...) -> (...)."""

    def forward(self, x: Tensor) -> Tensor:
        return relu(x)


class LeakyReLU(nn.LeakyReLU):
    """Applies `leaky_relu`: (...) -> (...)."""

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(x, self.negative_slope)


class Sigmoid(nn.Sigmoid):
    """Applies `sigmoid`: (...) -> (...)."""

    def forward(self, x: Tensor) -> Tensor:
        return sigmoid(x)


class Tanh(nn.Tanh):
    """Applies `tanh`: (...) -> (...)."""

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

    >>> import torch
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
