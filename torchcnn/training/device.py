"""What is set in torch while a device is used, and set back afterwards."""

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


@contextmanager
def device_settings(device: torch.device, deterministic: bool) -> Iterator[None]:
    """Set torch up for a device: its precision, and whether its algorithms are deterministic.

    On a CPU nothing is rounded to fewer bits, and all algorithms used here are deterministic.
    Afterwards torch's settings, the environment and the filters of warnings are as they were, for
    torch and what it imports change these two as well.
    """
    backends: Any = torch.backends
    filling: Any = torch.utils.deterministic
    environment, was_deterministic = dict(os.environ), _deterministic()
    matmuls = [backends.cuda.matmul, backends.mkldnn.matmul]
    precisions = [matmul.fp32_precision for matmul in matmuls]
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by the newer `fp32_precision` alone
        precision = ""
    benchmark, filled = backends.cudnn.benchmark, filling.fill_uninitialized_memory
    # CUDA graphs switch this warning off; torch 2.11 cannot be asked, and its default is on.
    warns = getattr(torch._C, "_warn_on_accumulate_grad_stream_mismatch", lambda: True)()
    cuda = device.type == "cuda"
    # A GPU is made the current one, or the first is used too, by all that names none.
    current: AbstractContextManager[Any] = torch.cuda.device(device) if cuda else nullcontext()
    with warnings.catch_warnings(), current:
        try:
            # Linear layers in TF32, as torch computes convolutions on a GPU; this is deterministic
            # too. The newer `torch.backends.cuda.matmul.fp32_precision` makes torch.compile fail in
            # 2.11.
            torch.set_float32_matmul_precision("high" if cuda else "highest")
            if cuda:  # cuDNN measures which algorithm is the fastest, once for each shape of a run
                backends.cudnn.benchmark = not deterministic
            if deterministic:
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses
                # Nothing here reads memory that was not written, so that it need not be filled.
                filling.fill_uninitialized_memory = False
            _set_deterministic(deterministic)
            yield
        finally:
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)
            if precision:
                torch.set_float32_matmul_precision(precision)
            for matmul, before in zip(matmuls, precisions, strict=True):
                matmul.fp32_precision = before
            backends.cudnn.benchmark, filling.fill_uninitialized_memory = benchmark, filled
            _set_deterministic(*was_deterministic)
            torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(warns)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of the device, as `torch.manual_seed` seeds all devices.

    A GPU that has not been used yet would be seeded by that when it is, long after a run.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def _set_deterministic(mode: bool, warn_only: bool = False) -> None:
    if (mode, warn_only) != _deterministic():
        torch.use_deterministic_algorithms(mode, warn_only=warn_only)  # costs seconds


def _deterministic() -> tuple[bool, bool]:
    """Whether algorithms are deterministic, and whether torch only warns of those that are not."""
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warn_only
