"""What the device needs to compute fast: torch's settings, and the gradient of gray images."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

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
    """Let convolutions of gray images compute the gradient of their weights faster.

    With AVX2, oneDNN computes it as if images of one channel had eight, unless they are in
    channels-last format. One channel lies in memory alike in both formats, so that it is enough to
    have autograd save the images in the other one. The gradient is the same to the bit. Smaller
    windows than 5×5 and larger ones than 7×7 are left alone, which are not always faster so, and
    other processors, on which this was not measured. A network that is compiled would be so anew
    whenever these hooks come or go.
    """
    handles = []
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        for layer in net.modules():
            if _is_slow_for_gray(layer):
                hooks = saved_tensors_hooks(_save, _load)
                handles += [
                    layer.register_forward_pre_hook(lambda *_, hooks=hooks: hooks.__enter__()),
                    layer.register_forward_hook(
                        lambda *_, hooks=hooks: hooks.__exit__(), always_call=True
                    ),
                ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_slow_for_gray(layer: nn.Module) -> bool:
    if not isinstance(layer, nn.Conv2d) or layer.weight.device.type != "cpu":
        return False
    window = layer.kernel_size
    return layer.in_channels == 1 and 5 <= min(window) <= max(window) <= 7


def _save(x: Tensor) -> tuple[Tensor, int]:
    """Describe gray images (n, 1, h, w) as channels-last, without a copy; leave all else."""
    version = x._version
    if x.dim() == 4 and x.shape[1] == 1 and x.is_contiguous():
        *_, h, w = x.shape
        x = x.as_strided(x.shape, (h * w, 1, w, 1))
    return x, version


def _load(saved: tuple[Tensor, int]) -> Tensor:
    """Return what `_save` was given, as autograd does: only if it is unchanged."""
    x, version = saved
    if x._version != version:
        raise RuntimeError(
            "images or weights were changed in place before their gradient was taken"
        )
    return x
