"""What the machine has, and what torchrun tells its processes about each other."""

import os
import re
from pathlib import Path

import torch

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")  # Linux's


def free_memory(device: torch.device) -> int:
    """Bytes that are free for each rank, on the device or the machine, whichever are fewer."""
    free = [2**33]  # a guess for systems that do not tell, as Windows and macOS
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", MEMINFO.read_text())
        free = [int(found[1]) * 2**10] if found else free
        limit, used = (int((CGROUP / f"memory.{n}").read_text()) for n in ("max", "current"))
        cached = re.search(r"^inactive_file (\d+)", (CGROUP / "memory.stat").read_text(), re.M)
        free.append(max(0, limit - used + (int(cached[1]) if cached else 0)))
    except (OSError, ValueError):  # not Linux, or no limit
        pass
    share = [bytes // local_world_size() for bytes in free]
    return min([*share, *(torch.cuda.mem_get_info(device)[:1] if device.type == "cuda" else ())])


def cores() -> int:
    """The number of processors that each rank on this machine has."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, here // local_world_size())


def local_world_size() -> int:
    """The number of ranks on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def world_size() -> int:
    """The number of ranks on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_elastic() -> bool:
    """Whether torchrun started this process; it restarts all ranks after one has died."""
    return "TORCHELASTIC_RUN_ID" in os.environ
