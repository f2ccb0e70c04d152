"""Other frameworks: the same network, images and steps, in a process of their own."""

import json
import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from torchcnn.benchmark import __main__ as benchmark
from torchcnn.benchmark import versus, ways
from torchcnn.data.loader import Batches

TASK = benchmark.Config(data="sample", device="cpu", images=100).task("tf_lenet5")


def test_a_missing_keras_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setattr(versus, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as caught:
        benchmark.main(["--versus", "keras", "--data", "sample"])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1
    assert 'pip install -e ".[keras]"' in error


@pytest.mark.extra
def test_versions_are_those_of_the_packages():
    keras, tensorflow = (pytest.importorskip(name) for name in ("keras", "tensorflow"))
    assert versus.versions() == {"keras": keras.__version__, "tensorflow": tensorflow.__version__}


@pytest.fixture
def keras(monkeypatch):
    """Keras in this process, whose environment and threads are put back or left alone."""
    keras, tf = (pytest.importorskip(name) for name in ("keras", "tensorflow"))
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras runs on another backend here")
    for name in ("KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    threads = {}
    for name in ("inter", "intra"):
        setter = f"set_{name}_op_parallelism_threads"
        monkeypatch.setattr(tf.config.threading, setter, partial(threads.__setitem__, name))
    return SimpleNamespace(Model=keras.Model, threads=threads)


@pytest.mark.extra
def test_keras_fits_the_same_network_on_the_same_images(keras, monkeypatch):
    """The weights and images of `prepare`, 3 full batches; each epoch is timed within `fit`."""
    fits, fit = [], keras.Model.fit

    def spy(model, x, y, **settings):
        before = model.predict(x, verbose=0)
        result = fit(model, x, y, **settings)
        fits.append((model, x, y, settings, before, result.history))
        return result

    monkeypatch.setattr(keras.Model, "fit", spy)
    train_epoch = versus.keras_fit(TASK, threads=1)
    assert keras.threads == {"inter": 1, "intra": 1}
    trained = train_epoch(), train_epoch()
    assert all(images == 96 and seconds > 0 for images, seconds in trained)
    model, x, y, settings, before, history = fits[0]
    net, images, labels = ways.prepare(TASK)
    expected, classes = next(iter(Batches(images, labels, 96, size=32)))
    assert x.dtype == np.float32 and x.flags.c_contiguous
    assert np.array_equal(x, expected.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(y, classes.numpy())
    with torch.no_grad():
        logits = net.eval()(expected).numpy()
    assert np.allclose(before, logits, atol=1e-5)  # without a softmax: the loss is of logits
    assert settings["batch_size"] == 32 and settings["shuffle"] and settings["epochs"] == 1
    assert float(model.optimizer.learning_rate) == pytest.approx(0.001)
    assert set(history) == {"accuracy", "loss"}
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(before), classes)
    assert history["loss"][0] == pytest.approx(float(loss), abs=0.2)  # of the steps' mean
    assert fits[1][5]["loss"] < history["loss"]  # it goes on with the same weights
    assert fits[1][0].optimizer.iterations == 6


def test_keras_takes_the_gpu_that_is_asked_for():
    chosen = []

    def tensorflow(*gpus):
        memory = SimpleNamespace(set_memory_growth=lambda gpu, grow: chosen.append((gpu, grow)))
        config = SimpleNamespace(
            list_physical_devices=lambda kind: list(gpus),
            set_visible_devices=lambda gpu, kind: chosen.append((gpu, kind)),
            experimental=memory,
        )
        return SimpleNamespace(config=config)

    versus._choose_device(tensorflow(), torch.device("cpu"))
    versus._choose_device(tensorflow("a", "b"), torch.device("cuda:1"))
    versus._choose_device(tensorflow("a", "b"), torch.device("cuda"))
    assert chosen == [("b", "GPU"), ("b", True), ("a", "GPU"), ("a", True)]
    with pytest.raises(ValueError, match=r"TensorFlow has no device cuda.*--device cpu"):
        versus._choose_device(tensorflow(), torch.device("cuda"))


def test_what_cpp_writes_on_stderr_is_dropped(capfd):
    with versus._silent():
        os.write(2, b"chatter")
    os.write(2, b"news")
    assert capfd.readouterr().err == "news"


@pytest.mark.slow
def test_the_command_runs_keras_in_its_own_process():
    for name in versus.PACKAGES:
        pytest.importorskip(name)
    flags = "--arch tf_lenet5 --images 64 --data sample --rounds 1 --device cpu --json"
    command = [sys.executable, "-m", "torchcnn.benchmark", "--versus", "keras", *flags.split()]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(out.stdout)
    speeds = result["networks"]["tf_lenet5"]["images_per_second"]
    assert list(speeds) == list(ways.WAYS["keras"])
    assert all(len(rounds) == 1 and rounds[0] > 0 for rounds in speeds.values())
    assert result["keras"] and out.stderr == ""  # it is silent, too
