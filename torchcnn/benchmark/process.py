"""Work in a process of its own, which shares no memory, threads or settings with this one."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any


@contextmanager
def own_process() -> Iterator[Callable[..., Any]]:
    """Start a process that lives as long as the context, and return a function that calls there.

    The function takes another function and its arguments, all picklable, and returns or raises
    what that returns or raises. It raises a ValueError if the process died.
    """
    # An interruption reaches that process too; it then ends without a traceback.
    initargs = (signal.SIGINT, signal.SIG_DFL)
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=signal.signal, initargs=initargs) as process:

        def call(work: Callable[..., Any], *arguments: Any) -> Any:
            try:
                return process.submit(work, *arguments).result()
            except BrokenProcessPool as error:
                raise ValueError(
                    "a process of the benchmark died, perhaps for want of memory; fewer --images "
                    "and a smaller --input-size take less"
                ) from error

        yield call
