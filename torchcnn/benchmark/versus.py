"""Ways to train by other frameworks: Keras's `model.fit`, Lightning's `Trainer`.

Each framework trains in a process of its own, which stays alive and trains an epoch when it is
asked to. So no framework takes memory, threads or settings from another, and start-up is not timed.
An epoch is timed in that process, by the framework's own callbacks at its beginning and its end:
what `fit` does before the first epoch and after the last is not counted, and tracing, compilation
and the like fall into the warm-up round.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F

from torchcnn.benchmark.process import own_process
from torchcnn.benchmark.ways import (
    Task,
    Trained,
    TutorialImages,
    Way,
    learning_rate,
    prepare,
    tutorial_loader,
)
from torchcnn.data.loader import Batches
from torchcnn.keras_io import to_keras

PACKAGES = {"keras": ("keras", "tensorflow"), "lightning": ("lightning",)}  # by framework

TrainEpoch = Callable[[], Trained]


def versions(framework: str) -> dict[str, str]:
    """Return the versions of the packages that a framework needs, by their name.

    Raises:
        ValueError: If one of them is not installed.
    """
    names = PACKAGES.get(framework, ())
    if missing := [name for name in names if find_spec(name) is None]:
        needed = " and ".join(missing)
        raise ValueError(f'--versus {framework} needs {needed}: pip install -e ".[{framework}]"')
    # A module may come from a package of another name, as tensorflow does from tensorflow-cpu.
    packages = metadata.packages_distributions() if names else {}
    return {name: metadata.version(packages[name][0]) for name in names}


@contextmanager
def open_way(framework: str, task: Task) -> Iterator[Way]:
    """Start a framework in a process of its own, which lives as long as the context.

    Raises:
        ValueError: If the framework cannot train so, or its process died.
    """
    with own_process() as call:
        call(_start, framework, task, torch.get_num_threads())
        yield Way(lambda: call(_train_epoch))


_started: TrainEpoch  # in the framework's process


def _start(framework: str, task: Task, threads: int) -> None:
    global _started
    _started = FRAMEWORKS[framework](task, threads)


def _train_epoch() -> Trained:
    return _started()


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


def keras_fit(task: Task, threads: int) -> TrainEpoch:
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
        optimizer=keras.optimizers.Adam(learning_rate(task), epsilon=1e-8),  # torch's epsilon
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
        return Trained(len(classes), epochs[-1])

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


def lightning_trainer(task: Task, threads: int) -> TrainEpoch:
    """Return a function that trains for an epoch by Lightning's `Trainer`.

    The images come from the tutorial's `DataLoader`, and loss and accuracy are averaged over the
    epoch, as the tutorial's loop does.
    """
    warnings.simplefilter("ignore")  # about few workers, and of Lightning's own dependencies
    torch.set_num_threads(threads)
    lightning: Any = import_module("lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # the import sets another level
    network, images, labels = prepare(task)
    loader = tutorial_loader(TutorialImages(images, labels, task.input_size), task.batch_size)
    epochs = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            x, y = batch
            y_hat = self.net(x)
            loss = F.cross_entropy(y_hat, y)
            accuracy = (y_hat.argmax(dim=1) == y).float().mean()
            self.log_dict({"loss": loss, "accuracy": accuracy}, on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=learning_rate(task))

    class Clock(lightning.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            self.began = time.perf_counter()

        def on_train_epoch_end(self, *_: Any) -> None:
            if task.device.type != "cpu":
                torch.accelerator.synchronize(task.device)
            epochs.append(time.perf_counter() - self.began)

    trainer = lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(task.device.type, task.device.type),
        devices=[task.device.index or 0] if task.device.type == "cuda" else 1,
        max_epochs=0,
        callbacks=[Clock()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Module()

    def train_epoch() -> Trained:
        trainer.fit_loop.max_epochs += 1
        trainer.fit(module, loader)
        return Trained(len(images), epochs[-1])

    return train_epoch


FRAMEWORKS: dict[str, Callable[[Task, int], TrainEpoch]] = {
    "keras": keras_fit,
    "lightning": lightning_trainer,
}
