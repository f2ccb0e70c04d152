"""What is set in torch for a device."""

import os

import torch

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
