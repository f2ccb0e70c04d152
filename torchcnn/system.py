"""The machine and its files, what torchrun tells processes, and how libraries share a process."""

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")  # Linux's

# Of glibc's mallopt(3), by the numbers in malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD.
MALLOC_OPTIONS = {-4: 0, -1: 2**31 - 1, -2: 2**26}

# Folders and files that systems put beside those of their users, in lower case.
COMPANIONS = {"__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin"}


def free_memory(device: "torch.device") -> int:
    """Bytes that are free for each rank, on the device or the machine, whichever are fewer."""
    import torch

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


def keep_freed_memory() -> None:
    """Let this process keep the memory that it has freed, and use it again.

    glibc gives large blocks back to the system, which fills each of their pages with zeros when the
    next tensor takes it: a good part of a step on a CPU. Other C libraries are left as they are.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        for parameter, value in MALLOC_OPTIONS.items():
            libc.mallopt(parameter, value)


def is_visible(name: str) -> bool:
    """Whether a file or folder of this name is neither hidden nor one of the system's."""
    return not name.startswith(".") and name.lower() not in COMPANIONS


def files_under(folder: Path, enter: Callable[[str], object] = bool) -> Iterator[Path]:
    """The files at any depth, behind links to folders too.

    Each folder is entered once, by its own name if it lies here, whatever links lead to it.

    Args:
        enter: whether to enter a folder of this name; all are, if it is not given.
    """
    places, seen = [folder], set()
    for place in places:
        for here, folders, files in os.walk(place, followlinks=True):
            if (real := os.path.realpath(here)) in seen:
                folders.clear()
                continue
            seen.add(real)
            found = [Path(here, name) for name in sorted(folders) if enter(name)]
            links = [path for path in found if path.is_symlink()]
            places += links  # for later
            folders[:] = [path.name for path in found if path not in links]
            yield from (Path(here, name) for name in files)


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


def load_triton_before_tensorflow() -> None:
    """See to it that both work in one process, whichever is imported first.

    PyTorch loads Triton in the first step of an optimizer. Triton and TensorFlow each bring an
    LLVM. On Linux, if TensorFlow is loaded first, Triton is linked to the LLVM of TensorFlow, and
    the process dies of a segmentation fault. Triton is therefore loaded when TensorFlow is about to
    be imported; or now, if that has happened, with a flag of the linker that makes it use its own
    LLVM.
    """
    if "triton" in sys.modules:
        return
    if not sys.modules.get("tensorflow"):
        sys.meta_path.insert(0, _TritonFirst())
        return
    if not hasattr(os, "RTLD_DEEPBIND"):  # not Linux
        return _load_triton()
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
    try:
        _load_triton()
    finally:
        sys.setdlopenflags(flags)


class _TritonFirst(MetaPathFinder):
    """Finds no module, but sees when TensorFlow is looked for."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "tensorflow":
            sys.meta_path.remove(self)
            _load_triton()


def _load_triton() -> None:
    with suppress(ImportError):  # PyTorch does without Triton where it is not installed
        import_module("triton")
