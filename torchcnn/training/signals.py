"""SIGINT and SIGTERM: the step is finished and saved before the process ends."""

import signal
import threading


class Stopped(KeyboardInterrupt):
    """A signal asked for the end, and the work is saved; `exit_code` is 128 + the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum


class StopRequest:
    """Within this context the first SIGINT or SIGTERM is only noted, in `signum`.

    A second one acts at once, but not with `patience`: processes that torchrun started may get a
    signal twice, from outside and from torchrun, which itself kills what takes too long.
    """

    def __init__(self, patience: bool) -> None:
        self.signum, self.patience = 0, patience

    def __enter__(self) -> "StopRequest":
        in_main = threading.current_thread() is threading.main_thread()  # only there it is allowed
        signals = (signal.SIGINT, signal.SIGTERM) if in_main else ()
        self.before = {s: signal.signal(s, self._note) for s in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self.before.items():
            signal.signal(s, signal.SIG_IGN if self.patience and self.signum else handler)

    def _note(self, signum: int, _: object) -> None:
        self.signum = signum
        if not self.patience:
            self.__exit__()
