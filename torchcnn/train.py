"""Train a network on images: `python -m torchcnn.train --arch densenet --device cuda`."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from torchcnn import cli
from torchcnn.batches import Batches, hold_out, mix_seed
from torchcnn.checkpoint import build_model, load_checkpoint, restore
from torchcnn.cli import option
from torchcnn.data import DATA_NAMES, ImageData, load_data
from torchcnn.loop import accuracy, epoch_line, predict_logits, train_epoch
from torchcnn.models import find_model
from torchcnn.run import Run, check_out, new_run_path

PROG = "python -m torchcnn.train"
OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
MAY_CHANGE = {"resume", "epochs", "device", "root"}  # when a run is resumed


@dataclass(kw_only=True)
class Config:
    """Train a network on images. What is not given comes from the network's own recipe."""

    arch: str = option("network, such as lenet, resnet18, densenet", default="lenet")
    data: str = option("images to train on", default="auto", choices=DATA_NAMES)
    root: str = option("folder of the data sets", default="data")
    device: str = option("auto, cpu, cuda, cuda:1, mps", default="auto")
    epochs: int = option("passes over the training images", type=cli.at_least_one)
    batch_size: int = option("images a step", type=cli.at_least_one)
    lr: float = option("learning rate", type=cli.positive)
    optimizer: str = option("the optimizer", choices=tuple(OPTIMIZERS))
    input_size: int = option("pixels a side, images are resized to it", type=cli.at_least_one)
    norm: str = option("batch norm: torch's, or the one from scratch", default="torch",
                       choices=("torch", "scratch"))  # fmt: skip
    val_fraction: float = option(
        "share of the training images held out to select on; 0 is the tutorials' protocol: all "
        "of them train, and the test accuracy is shown after every epoch",
        default=0.1, type=cli.fraction,
    )  # fmt: skip
    seed: int = option("seed of the weights, the order and the split", default=0, type=cli.seed)
    out: str = option("run folder (default: runs/<arch>-<data>-<time>)", default="")
    resume: str = option("run folder to go on with, from its last.pt", default="")


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        given = cli.parse(Config, PROG, argv)
        if "resume" in given:
            path = Path(given["resume"])
            checkpoint = load_checkpoint(path / "last.pt")
            train(resumed_config(path, checkpoint, given), given, checkpoint)
        else:
            recipe = find_model(given.get("arch", Config.arch)).recipe
            train(Config(**(asdict(recipe) | given)), given)


def resumed_config(path: Path, checkpoint: dict[str, Any], given: dict[str, Any]) -> Config:
    """The configuration of a run that goes on: its own, but for what may change."""
    stored = checkpoint["config"]
    if set(stored) != {f.name for f in fields(Config)}:
        raise ValueError(f"{path / 'last.pt'} holds no configuration that this version can read")
    for name in given.keys() - MAY_CHANGE:
        if given[name] != stored[name]:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{path} was run with {flag} {stored[name]}, got {given[name]}; "
                             "a resumed run may change --epochs, --device and --root")  # fmt: skip
    config = Config(**(stored | given | {"out": str(path)}))
    if (path / "result.json").exists() and len(checkpoint["history"]) >= config.epochs:
        raise ValueError(f"{path} has finished its {config.epochs} epochs; --epochs asks for more")
    return config


def train(config: Config, given: dict[str, Any], checkpoint: dict[str, Any] | None = None) -> None:
    """Images, batches, loop, run. All that can fail beforehand fails before the folder is made."""
    if config.out and not checkpoint:
        check_out(Path(config.out))
    device = cli.pick_device(config.device)
    data = load_data(config.data, config.root)
    config.device, config.data = str(device), data.name
    config.out = config.out or str(new_run_path(f"{config.arch}-{data.name}"))
    model: dict[str, Any] = {"arch": config.arch, "in_channels": data.train_images.shape[1],
             "num_classes": len(data.classes), "input_size": config.input_size,
             "norm": config.norm}  # fmt: skip
    check_steps(config, model, data)
    print_config(config, given, data)

    train_iter, held_out_iter = make_batches(config, data, device)
    torch.manual_seed(config.seed)
    net = build_model(**model).to(device)
    optimizer = OPTIMIZERS[config.optimizer](net.parameters(), lr=config.lr)
    if checkpoint:
        restore(checkpoint, net, optimizer)
    run = Run(Path(config.out), asdict(config), model, list(data.classes),
              checkpoint["history"] if checkpoint else [])  # fmt: skip
    run.save(net, optimizer)
    run.log_inputs(net, next(iter(train_iter))[0])
    try:
        for epoch in range(len(run.history) + 1, config.epochs + 1):
            torch.manual_seed(mix_seed(config.seed, epoch, 1))  # what is random inside the network
            train_iter.epoch = epoch
            began = time.perf_counter()
            result = train_epoch(net, train_iter, optimizer)
            logits, labels = predict_logits(net, held_out_iter)
            loss, acc = float(F.cross_entropy(logits, labels)), accuracy(logits, labels)
            run.add_epoch(result, loss, acc, optimizer.param_groups[0]["lr"])
            run.save(net, optimizer)
            print(epoch_line(epoch, result, run.held_out, acc, time.perf_counter() - began))
        test(config, data, run, net)
    except FloatingPointError as error:
        raise FloatingPointError(
            f"epoch {len(run.history) + 1}: {error}; {run.path / 'last.pt'} holds the weights "
            f"of epoch {len(run.history)}; try a smaller --lr than {config.lr}"
        ) from error
    finally:
        run.close()


def test(config: Config, data: ImageData, run: Run, net: torch.nn.Module) -> None:
    """Read the test set, once, with the weights that were selected; without selection, the last."""
    name, epoch = "last.pt", len(run.history)
    if best := run.best_epoch():
        name, epoch = "best.pt", best
        restore(load_checkpoint(run.path / name), net)
    test_iter = Batches(data.test_images, data.test_labels, config.batch_size,
                        size=config.input_size, device=config.device)  # fmt: skip
    logits, labels = predict_logits(net, test_iter)
    acc, loss = accuracy(logits, labels), float(F.cross_entropy(logits, labels))
    k = len(data.classes)
    confusion = torch.bincount((labels * k + logits.argmax(1)).cpu(), minlength=k * k).view(k, k)
    run.finish(confusion, {"checkpoint": name, "epoch": epoch, "test_loss": loss, "test_acc": acc})
    print(f"test acc {acc:.4f}, loss {loss:.4f} ({name}, epoch {epoch}); the run is in {run.path}")


def make_batches(config: Config, data: ImageData, device: torch.device) -> tuple[Batches, Batches]:
    """Training batches, and those watched beside them: validation, or test if none is held out."""
    x, y, x_held_out, y_held_out = (
        data.train_images, data.train_labels, data.test_images, data.test_labels,
    )  # fmt: skip
    if config.val_fraction:
        kept, held_out = hold_out(len(y), config.val_fraction, config.seed)
        x, y, x_held_out, y_held_out = x[kept], y[kept], x[held_out], y[held_out]
    size = config.input_size
    return (
        Batches(x, y, config.batch_size, shuffle=True, seed=config.seed, size=size, device=device),
        Batches(x_held_out, y_held_out, config.batch_size, size=size, device=device),
    )


def check_steps(config: Config, model: dict[str, Any], data: ImageData) -> None:
    """Go through one step on the meta device, which computes nothing, to fail before the first."""
    count = len(data.train_labels)
    held_out = round(count * config.val_fraction)
    if config.val_fraction and not 0 < held_out < count:
        raise ValueError(
            f"--val-fraction {config.val_fraction} holds out {held_out} of {count} images"
        )
    with torch.device("meta"):
        net = build_model(**model).train()
        for n in {config.batch_size, (count - held_out) % config.batch_size} - {0}:
            try:
                net(torch.empty(n, model["in_channels"], config.input_size, config.input_size))
            except ValueError as error:  # batch norm cannot train on a single value
                raise ValueError(
                    f"{config.arch} cannot train on a batch of {n}, which --batch-size "
                    f"{config.batch_size} gives with {count - held_out} images ({error})"
                ) from error


def print_config(config: Config, given: dict[str, Any], data: ImageData) -> None:
    recipe = asdict(find_model(config.arch).recipe)
    for name, value in asdict(config).items():
        source = f"({config.arch}'s recipe)" if name in recipe and name not in given else ""
        if name == "data":
            source = f"({data.note})"
        if value != "":
            print(f"{name:<13} {value} {source}".rstrip())


if __name__ == "__main__":
    main()
