"""Layers that a CPU computes faster than torch does, with the same results, while a run lasts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks
from torch.backends import mkldnn

from torchcnn.layers import SameMaxPool2d

POOLED_PER_THREAD = 50_000  # elements; for fewer, torch's one call is faster than seven


@contextmanager
def fast_layers(net: nn.Module) -> Iterator[None]:
    """Let a CPU compute max pooling and the gradient of gray images faster, in float32.

    Max pooling with windows of 2×2 that do not overlap is computed by maxima of whole rows, where
    torch compares element by element. Where several elements of a window are the maximum, the
    gradient goes to the same one as in torch.

    With AVX2, oneDNN computes the gradient of a convolution's weights as if images of one channel
    had eight, unless they are in channels-last format. One channel lies in memory alike in both
    formats, so that it is enough to have autograd save the images in the other one. The gradient
    is the same to the bit. Windows other than 5×5 to 7×7 are left alone, which are not always
    faster so, and so are other processors, on which this was not measured.

    The backward pass belongs into this context, too. Copy and save the network outside of it.
    `torch.compile` would compile the network anew each time this begins or ends.
    """
    replaced: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
    handles = []
    has_slow_gray = torch.backends.cpu.get_cpu_capability() == "AVX2" and mkldnn.enabled
    try:
        for layer in net.modules():
            if "forward" in vars(layer):
                continue
            if _is_pooling_2x2(layer):
                replaced[layer] = _PoolingForward(layer)
            elif has_slow_gray and _is_slow_for_gray(layer):
                replaced[layer] = _GrayForward(layer)
                restore_stride = partial(_as_strided, layer.weight.stride())
                handles.append(layer.weight.register_hook(restore_stride))
        for layer, forward in replaced.items():
            layer.__dict__["forward"] = forward
        yield
    finally:
        for layer in replaced:
            layer.__dict__.pop("forward", None)
        for handle in handles:
            handle.remove()


def _is_pooling_2x2(layer: nn.Module) -> TypeGuard[nn.MaxPool2d]:
    if not isinstance(layer, nn.MaxPool2d) or type(layer) not in (nn.MaxPool2d, SameMaxPool2d):
        return False  # one that is written by hand remains so
    window, stride = layer.kernel_size, layer.stride
    plain = layer.padding in (0, (0, 0)) and layer.dilation in (1, (1, 1))
    return {window, stride} <= {2, (2, 2)} and plain and not layer.return_indices


class _PoolingForward:
    """The forward pass of a max pooling of 2×2; torch's own where that is faster, or not exact."""

    def __init__(self, layer: nn.MaxPool2d) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        usual = x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling()
        if usual or not (x.dim() == 4 and x.is_contiguous() and _is_even(x)):
            return type(self.layer).forward(self.layer, x)
        if x.numel() < POOLED_PER_THREAD * torch.get_num_threads():
            return type(self.layer).forward(self.layer, x)
        y: Tensor = _MaxPool2x2.apply(x)
        return y


def _is_even(x: Tensor) -> bool:
    return x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0


class _MaxPool2x2(Function):
    """(n, c, 2h, 2w) -> (n, c, h, w): first the maxima of columns side by side, then of rows.

    In this order, and since an equal element does not replace one before it, each window's gradient
    goes to its first maximum, row by row, as in torch.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        left, right = x[..., 0::2], x[..., 1::2]
        rows = torch.maximum(left, right)
        upper, lower = rows[..., 0::2, :], rows[..., 1::2, :]
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(right > left, lower > upper)
        return torch.maximum(upper, lower)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        from_right, from_lower = ctx.saved_tensors
        n, c, h, w = gradient.shape
        # A product with a mask, and what is left, is twice as fast as `torch.where`.
        lower = gradient * from_lower
        rows = torch.stack((gradient - lower, lower), dim=3).view(n, c, 2 * h, w)
        right = rows * from_right
        pairs = torch.complex(rows - right, right)  # lie in memory by turns; `stack` is slower
        return torch.view_as_real(pairs).view(n, c, 2 * h, 2 * w)


def _is_slow_for_gray(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    if not isinstance(layer, nn.Conv2d) or layer.in_channels != 1 or layer.dilation != (1, 1):
        return False
    if not 5 <= min(layer.kernel_size) <= max(layer.kernel_size) <= 7:
        return False
    weight = layer._parameters.get("weight")  # one that is computed is not to be computed here
    return weight is not None and weight.requires_grad and weight.device.type == "cpu"


class _GrayForward:
    """The forward pass of a convolution that has autograd save gray images as channels-last."""

    def __init__(self, layer: nn.Conv2d) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        forward = type(self.layer).forward
        if torch.compiler.is_compiling():
            return forward(self.layer, x)
        with saved_tensors_hooks(_save, _load):
            return forward(self.layer, x)


def _save(x: Tensor) -> tuple[Tensor, int]:
    """Describe gray images (n, 1, h, w) as channels-last, without a copy; leave all else."""
    version = x._version
    is_image = x.dim() == 4 and x.shape[1] == 1 and not isinstance(x, nn.Parameter)
    if is_image and x.dtype == torch.float32 and x.is_contiguous():
        *_, h, w = x.shape
        x = x.as_strided(x.shape, (h * w, 1, w, 1))
    return x, version


def _load(saved: tuple[Tensor, int]) -> Tensor:
    """Return what was saved, if nothing changed it in place meanwhile, as autograd asks, too."""
    x, version = saved
    if x._version != version:
        raise RuntimeError("images or weights were changed in place before the backward pass")
    return x


def _as_strided(stride: tuple[int, ...], gradient: Tensor) -> Tensor:
    """Describe a weight's gradient as the weight is described, which data parallelism asks for."""
    return gradient.as_strided(gradient.shape, stride)
