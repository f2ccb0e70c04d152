"""A process of its own: what is called there returns, raises, or ends, and is known of here."""

import os
import signal
import subprocess
import sys
import time

import pytest

from torchcnn.benchmark.process import own_process


def test_calls_go_to_one_other_process():
    """Which tells its number, raises what it must, and dies: one start, because that takes long."""
    with own_process() as call:
        number = call(os.getpid)
        assert number != os.getpid() and call(os.getpid) == number
        with pytest.raises(ZeroDivisionError):
            call(divmod, 1, 0)
        with pytest.raises(ValueError, match="a process of the benchmark died"):
            call(os._exit, 1)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows kills in another way")
@pytest.mark.slow
def test_it_ends_with_a_parent_that_is_killed(tmp_path):
    code = """
import os, time
from torchcnn.benchmark.process import own_process
if __name__ == "__main__":
    with own_process() as call:
        print(call(os.getpid), flush=True)
        call(time.sleep, 1000)
"""
    (tmp_path / "parent.py").write_text(code)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    for _ in range(600):
        if not alive(child):
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child is still there")


def alive(process):
    """Whether a process exists, and is not only waiting for its parent to read how it ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True)
    return not done.stdout.strip().startswith("Z") and bool(done.stdout.strip())
