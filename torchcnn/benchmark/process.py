"""Work in a process of its own, which shares no memory, threads or settings with this one."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any


@contextmanager
def own_process() -> Iterator[Callable[..., Any]]:
    """Start a process that lives as long as the context, and return a function that calls there.

    The function takes another function and its arguments, all picklable, and returns or raises
    what that returns or raises. It raises a ValueError if the process died.
    """
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_end_with_parent) as process:

        def call(work: Callable[..., Any], *arguments: Any) -> Any:
            try:
                return process.submit(work, *arguments).result()
            except BrokenProcessPool as error:
                raise ValueError(
                    "a process of the benchmark died, perhaps for want of memory; fewer --images "
                    "and a smaller --input-size take less"
                ) from error

        yield call


def _end_with_parent() -> None:
    """Let this process end when it is interrupted, without a traceback, or its parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def watch() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
