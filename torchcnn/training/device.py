"""What the device needs to compute fast: torch's settings, and the gradient of gray images."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.backends import mkldnn

from torchcnn.system import keep_freed_memory


def set_up_device(device: torch.device, deterministic: bool) -> None:
    """Set up torch for a device: its precision, and whether its algorithms are deterministic.

    On a CPU nothing is rounded to fewer bits, all algorithms used here are deterministic, and the
    process keeps the memory that it frees.
    """
    cuda = device.type == "cuda"
    if device.type == "cpu":
        keep_freed_memory()
    if cuda and device.index is not None:
        torch.cuda.set_device(device)  # or the first GPU is used too, by all that names none
    # Linear layers in TF32, as torch computes convolutions on a GPU; this is deterministic too. The
    # newer `torch.backends.cuda.matmul.fp32_precision` makes torch.compile fail in torch 2.11.
    torch.set_float32_matmul_precision("high" if cuda else "highest")
    if cuda:  # cuDNN measures which algorithm is the fastest, once for each shape of a run
        torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses
        # Nothing here reads memory that was not written, so that it need not be filled.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if deterministic != torch.are_deterministic_algorithms_enabled():  # asking costs seconds
        torch.use_deterministic_algorithms(deterministic)


@contextmanager
def fast_gray_gradients(net: nn.Module) -> Iterator[None]:
    """Let convolutions of gray images compute the gradient of their weights faster, in float32.

    With AVX2, oneDNN computes it as if images of one channel had eight, unless they are in
    channels-last format. One channel lies in memory alike in both formats, so that it is enough to
    have autograd save the images in the other one. The gradient is the same to the bit. Windows
    other than 5×5 to 7×7 are left alone, which are not always faster so, and so are other
    processors, on which this was not measured.

    The backward pass belongs into this context, too. Copy and save the network outside of it.
    `torch.compile` would compile the network anew each time this begins or ends.
    """
    layers = []
    if torch.backends.cpu.get_cpu_capability() == "AVX2" and mkldnn.enabled:
        layers = [m for m in net.modules() if isinstance(m, nn.Conv2d) and _is_slow_for_gray(m)]
    handles = []
    try:
        for layer in layers:
            layer.__dict__["forward"] = _GrayForward(layer)
            restore_stride = partial(_as_strided, layer.weight.stride())
            handles.append(layer.weight.register_hook(restore_stride))
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
        for handle in handles:
            handle.remove()


def _is_slow_for_gray(layer: nn.Conv2d) -> bool:
    window, plain = layer.kernel_size, layer.dilation == (1, 1) and "forward" not in vars(layer)
    if layer.in_channels != 1 or not 5 <= min(window) <= max(window) <= 7 or not plain:
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
