"""Training by Keras's `model.fit`.

Keras trains in a process of its own, which stays alive and trains an epoch when it is asked to. So
it takes no memory, threads or settings from this one, and start-up is not timed. An epoch is timed
in that process, by callbacks at its beginning and its end: what `fit` does before the first epoch
and after the last is not counted, and tracing and compilation fall into the warm-up round.
"""

import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import torch

from torchcnn.benchmark.process import own_process
from torchcnn.benchmark.ways import Task, Trained, Way, prepare
from torchcnn.data.loader import Batches
from torchcnn.keras_io import to_keras
from torchcnn.training.recipes import source

PACKAGES = ("keras", "tensorflow")


def versions() -> dict[str, str]:
    """Return the versions of Keras and TensorFlow.

    Raises:
        ValueError: If one of them is not installed.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        needed = " and ".join(missing)
        raise ValueError(f'--versus keras needs {needed}: pip install -e ".[keras]"')
    # A module may come from a package of another name, as tensorflow does from tensorflow-cpu.
    packages = metadata.packages_distributions()
    return {name: metadata.version(packages[name][0]) for name in PACKAGES}


@contextmanager
def open_keras(task: Task) -> Iterator[Way]:
    """Start Keras in a process of its own, which lives as long as the context.

    Raises:
        ValueError: If Keras cannot train so, or its process died.
    """
    with own_process() as call:
        threads = torch.get_num_threads()
        yield Way(lambda: call(_train_epoch, task, threads))


def _train_epoch(task: Task, threads: int) -> Trained:
    return keras_fit(task, threads)()


@contextmanager
def _silent() -> Iterator[None]:
    """Drop what is written on stderr, by C++ code too, which Python cannot redirect."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


@functools.cache  # each epoch goes on with the same model
def keras_fit(task: Task, threads: int) -> Callable[[], Trained]:
    """Return a function that trains for an epoch by `model.fit`, on images that NumPy holds.

    Torch builds the network, whose weights Keras takes over, and does nothing afterwards.
    """
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if task.device.type == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    with _silent():
        tf: Any = import_module("tensorflow")
        keras: Any = import_module("keras")
        _choose_device(tf, task.device)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    net, images, labels = prepare(task)
    x, y = next(iter(Batches(images, labels, len(labels), size=task.input_size)))
    model = to_keras(net, (x.shape[1], x.shape[2], x.shape[3]))
    model.compile(
        optimizer=keras.optimizers.Adam(source(task.arch)["lr"], epsilon=1e-8),  # torch's epsilon
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    pixels, classes = x.permute(0, 2, 3, 1).contiguous().numpy(), y.numpy()
    epochs = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.began = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            float(logs["loss"])  # waits for a GPU
            epochs.append(time.perf_counter() - self.began)

    def train_epoch() -> Trained:
        settings = {"batch_size": task.batch_size, "shuffle": True, "verbose": 0}
        model.fit(pixels, classes, epochs=1, callbacks=[Clock()], **settings)
        return len(classes), epochs[-1]

    return train_epoch


def _choose_device(tf: Any, device: torch.device) -> None:
    """Let TensorFlow use this device alone, and only as much of its memory as it needs.

    Raises:
        ValueError: If TensorFlow does not see such a device.
    """
    if device.type == "cpu":
        return
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) <= (index := device.index or 0):
        raise ValueError(
            f"TensorFlow has no device {device}: pip install 'tensorflow[and-cuda]' brings what it "
            "needs on Linux; --device cpu compares on the CPU"
        )
    tf.config.set_visible_devices(gpus[index], "GPU")
    tf.config.experimental.set_memory_growth(gpus[index], True)
