"""A signal ends a run cleanly wherever it comes."""

import os
import signal

import pytest

from torchcnn import train
from torchcnn.training.signals import SIGNALS, Stopped, StopRequest, stops_at_once
from torchcnn.training.trainer import Trainer

FLAGS = ["--arch", "softmax_regression", "--data", "sample", "--device", "cpu", "--epochs", "1"]


@pytest.fixture
def not_ignored():
    """The signals act as they do by default, also where this process was started by `nohup`."""
    before = {s: signal.signal(s, signal.SIG_DFL) for s in SIGNALS}
    yield
    for s, handler in before.items():
        signal.signal(s, handler)


def test_what_nohup_ignores_stays_ignored(not_ignored):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stops_at_once(), StopRequest(patience=False) as request:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not request.signum
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_signal_in_the_final_test_says_how_to_resume(not_ignored, tmp_path, monkeypatch, capsys):
    """For SIGINT and SIGTERM in training see `test_exactness`."""
    test = Trainer.test

    def interrupted(self):
        os.kill(os.getpid(), signal.SIGHUP)
        return test(self)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(Trainer, "test", interrupted)
        train.main([*FLAGS, "--out", str(tmp_path / "r")])
    assert stop.value.code == 128 + signal.SIGHUP
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"stopped in epoch 1; resume with --resume {tmp_path / 'r'}"
    assert not (tmp_path / "r" / "result.json").exists()
    train.main(["--resume", str(tmp_path / "r")])
    assert (tmp_path / "r" / "result.json").exists()


def test_the_first_signal_is_noted_and_the_second_acts():
    before = [signal.getsignal(s) for s in SIGNALS]
    with stops_at_once():
        with StopRequest(patience=False) as request, pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
            assert request.signum == signal.SIGTERM
            os.kill(os.getpid(), signal.SIGTERM)
        with StopRequest(patience=True) as request:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGTERM)
        assert request.signum == signal.SIGTERM
    assert [signal.getsignal(s) for s in SIGNALS] == before


def test_an_error_while_closing_does_not_mask_the_first(tmp_path, monkeypatch, capsys):
    from torch.utils.tensorboard import SummaryWriter

    def broken(*_):
        raise OSError("the disk is full")

    def fails(self):
        monkeypatch.setattr(SummaryWriter, "close", broken)
        raise ValueError("the first error")

    monkeypatch.setattr(Trainer, "test", fails)
    with pytest.raises(SystemExit) as stop:
        train.main([*FLAGS, "--out", str(tmp_path / "r")])
    first, last = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and "TensorBoard's events could not be" in first
    assert last == "python -m torchcnn.train: the first error"
