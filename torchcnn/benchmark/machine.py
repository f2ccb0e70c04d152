"""What the machine is, for the head of a report: speeds mean nothing without it."""

import platform
import re
from pathlib import Path

import torch

from torchcnn.files import plural
from torchcnn.system import cores

CPUINFO = Path("/proc/cpuinfo")  # Linux's


def about(device: torch.device, versions: dict[str, str]) -> dict[str, str | int]:
    """Return the versions of torch and of other packages, the device, and the processor.

    Args:
        versions: Of the packages that are compared with torch, by their name.
    """
    return {
        "torch": torch.__version__,
        **versions,
        "device": device_name(device),
        "cpu": cpu_name(),
        "cores": cores(),
    }


def head(about: dict[str, str | int]) -> str:
    """Format what `about` returns as the beginning of a line."""
    versions = [f"{name} {about[name]}" for name in about if name not in ("device", "cpu", "cores")]
    cores = plural(int(about["cores"]), "core")
    return f"{', '.join(versions)}, {about['device']}, {about['cpu']}, {cores}"


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or the type of another device and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {plural(torch.get_num_threads(), 'thread')}"


def cpu_name() -> str:
    """Return the model name of the processor, or at least its architecture."""
    try:
        found = re.search(r"^model name\s*: *(.+)$", CPUINFO.read_text(), re.M)
    except OSError:  # not Linux
        found = None
    return found[1] if found else platform.processor() or platform.machine()
