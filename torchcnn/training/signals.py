"""SIGINT, SIGTERM and SIGHUP: a step is finished and saved before the process ends."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Stopped(KeyboardInterrupt):
    """A signal asked for the end, and the work is saved; `exit_code` is 128 + the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum


def handle(handler: Callable[[int, Any], None]) -> dict[int, Any]:
    """Set a handler for these signals; return those that were set before.

    SIGHUP stays ignored where it is, as `nohup` asks for, and a handler that is not Python's stays
    too, for Python cannot set it back.
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows it only there
        return {}
    before = {s: signal.getsignal(s) for s in SIGNALS}
    hangup = getattr(signal, "SIGHUP", None)
    kept = {s for s, old in before.items() if old is None or (s, old) == (hangup, signal.SIG_IGN)}
    return {s: signal.signal(s, handler) for s in SIGNALS if s not in kept}


@contextmanager
def stops_at_once() -> Iterator[None]:
    """Within this context these signals raise `Stopped`, as SIGINT raises KeyboardInterrupt."""

    def stop(signum: int, _: object) -> None:
        raise Stopped(signum)

    before = handle(stop)
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


class StopRequest:
    """Within this context the first of these signals is only noted, in `signum`.

    A second one acts at once, but not with `patience`: processes that torchrun started may get a
    signal twice, from outside and from torchrun, which itself kills what takes too long.
    """

    def __init__(self, patience: bool) -> None:
        self.signum, self.patience = 0, patience

    def __enter__(self) -> "StopRequest":
        self.before = handle(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self.before.items():
            signal.signal(s, signal.SIG_IGN if self.patience and self.signum else handler)

    def _note(self, signum: int, _: object) -> None:
        self.signum = signum
        if not self.patience:
            self.__exit__()
