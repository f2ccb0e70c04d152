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

POOLED_PER_THREAD = 50_000  # elements; to start many small operations takes longer for fewer


@contextmanager
def fast_layers(net: nn.Module) -> Iterator[None]:
    """Let a CPU compute max pooling and the gradient of gray images faster, in float32.

    Max pooling with windows of 2×2 that do not overlap is computed by maxima of whole rows, where
    torch compares element by element: for contiguous images of even height and width, from 50,000
    elements for each thread on. Where several elements of a window are the maximum, the gradient
    goes to the same one as in torch. Only NaN and infinite gradients reach other elements, too.

    With AVX2, oneDNN computes the gradient of a convolution's weights as if images of one channel
    had eight, unless they are in channels-last format. One channel lies in memory alike in both
    formats, so that it is enough to have autograd save the images in the other one. The gradient
    is the same to the bit. Windows other than 5×5 to 7×7 are left alone, which are not always
    faster so, and so are other processors, on which this was not measured.

    The backward pass belongs into this context, too. Copy, trace and pickle the network outside of
    it: what is made inside keeps the replaced forward passes. `torch.compile` would compile the
    network anew each time this begins or ends, and `torch.func` does not take the gray images.
    """
    replaced: dict[nn.Module, Callable[..., Any]] = {}
    handles = []
    has_slow_gray = torch.backends.cpu.get_cpu_capability() == "AVX2" and mkldnn.enabled
    try:
        for layer in net.modules():
            if "forward" in vars(layer):
                continue
            if _is_pooling_2x2(layer):
                replaced[layer] = partial(_pool, layer)
            elif has_slow_gray and _is_slow_for_gray(layer):
                replaced[layer] = partial(_convolve_gray, layer)
                restore_stride = partial(_as_strided, layer.weight.stride())
                handles.append(layer.weight.register_hook(restore_stride))
        for layer, forward in replaced.items():
            layer.__dict__["forward"] = forward
        yield
    finally:
        for layer, forward in replaced.items():
            if vars(layer).get("forward") is forward:
                del layer.__dict__["forward"]
        for handle in handles:
            handle.remove()


def _is_pooling_2x2(layer: nn.Module) -> TypeGuard[nn.MaxPool2d]:
    if not isinstance(layer, nn.MaxPool2d) or type(layer) not in (nn.MaxPool2d, SameMaxPool2d):
        return False  # one that is written by hand remains so
    two, none, one = (2, (2, 2)), (0, (0, 0)), (1, (1, 1))
    plain = layer.padding in none and layer.dilation in one and not layer.return_indices
    return layer.kernel_size in two and layer.stride in two and plain


def _pool(layer: nn.MaxPool2d, *args: Any, **kwargs: Any) -> Any:
    """The forward pass of a max pooling of 2×2."""
    if len(args) != 1 or kwargs or not _is_slow_to_pool(x := args[0]):
        return type(layer).forward(layer, *args, **kwargs)
    if torch.is_grad_enabled() and x.requires_grad:
        return _MaxPool2x2.apply(x)[0]
    return torch.maximum(*_rows(torch.maximum(*_columns(x))))


def _is_slow_to_pool(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or x.dim() != 4 or x.shape[2] % 2 or x.shape[3] % 2:
        return False
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.layout != torch.strided:
        return False
    return x.is_contiguous() and x.numel() >= POOLED_PER_THREAD * torch.get_num_threads()


def _columns(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 0::2], x[..., 1::2]


def _rows(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 0::2, :], x[..., 1::2, :]


class _MaxPool2x2(Function):
    """(n, c, 2h, 2w) -> (n, c, h, w): first the maxima of columns side by side, then of rows.

    In this order, and since an equal element does not replace one before it, each window's gradient
    goes to its first maximum, row by row, as in torch. Two masks are further outputs: whether the
    maximum comes from the right and from the lower one.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left, right = _columns(x)
        upper, lower = _rows(torch.maximum(left, right))
        return torch.maximum(upper, lower), right > left, lower > upper

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)  # the masks have none
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, *_: None) -> Tensor | None:
        if gradient is None:
            return None
        from_right, from_lower = ctx.saved_tensors
        n, c, h, w = gradient.shape
        gradient = gradient.contiguous()
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
    if weight is None or not weight.requires_grad or not weight.is_contiguous():
        return False
    return weight.device.type == "cpu"


def _convolve_gray(layer: nn.Conv2d, *args: Any, **kwargs: Any) -> Tensor:
    """The forward pass of a convolution that has autograd save gray images as channels-last.

    Not if they need a gradient, which would have other bits.
    """
    forward = type(layer).forward
    if torch.compiler.is_compiling() or any(x.requires_grad for x in (*args, *kwargs.values())):
        return forward(layer, *args, **kwargs)
    with saved_tensors_hooks(_save, _load):
        return forward(layer, *args, **kwargs)


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
    return gradient.as_strided(gradient.shape, stride) if gradient.is_contiguous() else gradient
