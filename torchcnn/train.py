"""Train a network on images: `python -m torchcnn.train --arch densenet --device cuda`."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from torchcnn import cli
from torchcnn.batches import Batches, hold_out, mix_seed
from torchcnn.checkpoint import build_model, load_checkpoint, restore
from torchcnn.cli import option
from torchcnn.data import DATA_NAMES, ImageData, load_data
from torchcnn.loop import accuracy, confusion_matrix, epoch_line, predict_logits, train_epoch
from torchcnn.models import find_model
from torchcnn.run import RUNS, Run, check_out, check_resumable, claim_folder
from torchcnn.scratch import from_scratch

PROG = "python -m torchcnn.train"
OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
MAY_CHANGE = {"resume", "epochs", "device", "root"}  # when a run is resumed


@dataclass(kw_only=True)
class Config:
    """Train a network on images. What is not given comes from the network's own recipe."""

    arch: str = option("network; python -m torchcnn.summary shows all", default="lenet")
    data: str = option("images to train on", default="auto", choices=DATA_NAMES)
    root: str = option("folder of the data sets", default="data")
    device: str = option("auto, cpu, cuda, cuda:1, mps", default="auto")
    epochs: int = option(
        "passes over the training images, all in all (default: the recipe's)", type=cli.at_least_one
    )
    batch_size: int = option("images a step (default: the recipe's)", type=cli.at_least_one)
    lr: float = option("learning rate (default: the recipe's)", type=cli.positive)
    optimizer: str = option("the optimizer (default: the recipe's)", choices=tuple(OPTIMIZERS))
    input_size: int = option(
        "pixels a side that images are resized to (default: the recipe's)", type=cli.pixels
    )
    small_input: bool = option("a stem for images of about 30 pixels, where the network has one",
                               default=False, action="store_true")  # fmt: skip
    norm: str = option("batch norm: torch's, or the one from scratch", default="torch",
                       choices=("torch", "scratch"))  # fmt: skip
    layers: str = option("every layer: torch's, or the one from scratch, several times slower",
                         default="torch", choices=("torch", "scratch"))  # fmt: skip
    val_fraction: float = option(
        "share of the training images held out to select on; 0 is the tutorials' protocol: all "
        "of them train, and the test accuracy is shown after every epoch",
        default=0.1, type=cli.fraction,
    )  # fmt: skip
    seed: int = option("seed of the weights, the order and the split", default=0, type=cli.seed)
    out: str = option("run folder (default: runs/<arch>-<data>-<time>)", default="")
    resume: str = option(
        "run folder to go on with, from its last.pt; --epochs, --device and --root may change",
        default="",
    )


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        given = cli.parse(Config, PROG, argv)
        if "resume" in given:
            path = Path(given["resume"]).expanduser()
            path = path.parent if path.name == "last.pt" else path
            checkpoint = load_checkpoint(path / "last.pt")
            train(resumed_config(path, checkpoint, given), given, checkpoint)
        else:
            recipe = find_model(given.get("arch", Config.arch)).recipe
            config = Config(**(asdict(recipe) | given))
            config.out = str(Path(config.out).expanduser()) if config.out else ""
            train(config, given)


def resumed_config(path: Path, checkpoint: dict[str, Any], given: dict[str, Any]) -> Config:
    """The configuration of a run that goes on: its own, but for what may change."""
    stored = checkpoint["config"]
    cli.check(Config, stored, path / "last.pt")
    check_resumable(path, checkpoint)
    same = {"out": str(path), "data": "auto"}  # what may be given again in these words
    for name in given.keys() - MAY_CHANGE:
        if given[name] not in (stored[name], same.get(name)):
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{path} was run with {flag} {stored[name]}, got {given[name]}; "
                             "a resumed run may change --epochs, --device and --root")  # fmt: skip
    changed = {name: given[name] for name in given.keys() & MAY_CHANGE - {"resume"}}
    config = Config(**(stored | changed | {"out": str(path)}))
    done = len(checkpoint["history"])
    if done > config.epochs or (done == config.epochs and (path / "result.json").exists()):
        raise ValueError(f"{path} has finished {done} epochs; --epochs asks for more")
    return config


def train(config: Config, given: dict[str, Any], checkpoint: dict[str, Any] | None = None) -> None:
    """Images, batches, loop, run. All that can fail beforehand fails before the folder is made."""
    if not checkpoint:
        check_out(Path(config.out or RUNS / "new"))
    device = cli.pick_device(config.device)
    check_steps(config, find_model(config.arch).input[0], 10)  # before a set is read, or downloaded
    data = load_data(config.data, config.root)
    config.device, config.data = str(device), data.name
    channels, classes = data.train_images.shape[1], len(data.classes)
    check_steps(config, channels, classes, len(data.train_labels))

    train_iter, held_out_iter = make_batches(config, data, device)
    torch.manual_seed(config.seed)
    model = describe(config, channels, classes)
    net = build_model(**model).to(device)
    if config.layers == "scratch":
        net = from_scratch(net)
    optimizer = OPTIMIZERS[config.optimizer](net.parameters(), lr=config.lr)
    if checkpoint:
        restore(checkpoint, net, optimizer)
    else:
        config.out = str(claim_folder(config.out, f"{config.arch}-{data.name}"))
    print_config(config, given, data.note)
    if checkpoint:
        print(f"going on after epoch {len(checkpoint['history'])}", flush=True)
    run = Run(Path(config.out), asdict(config), model, list(data.classes),
              checkpoint["history"] if checkpoint else [])  # fmt: skip
    try:
        run.save(net, optimizer)
        run.log_inputs(net, next(iter(train_iter))[0])
        for epoch in range(len(run.history) + 1, config.epochs + 1):
            torch.manual_seed(mix_seed(config.seed, epoch, 1))  # what is random inside the network
            train_iter.epoch = epoch - 1  # they count from 0, so that this is train_ch5's order
            began = time.perf_counter()
            result = train_epoch(net, train_iter, optimizer)
            logits, labels = predict_logits(net, held_out_iter)
            loss, acc = float(F.cross_entropy(logits, labels)), accuracy(logits, labels)
            run.add_epoch(result, loss, acc, optimizer.param_groups[0]["lr"])
            run.save(net, optimizer)
            line = epoch_line(epoch, result, run.held_out, acc, time.perf_counter() - began)
            print(line, flush=True)
        test(config, data, run, net)
    except KeyboardInterrupt:
        print(f"stopped after epoch {len(run.history)}; --resume {run.path} goes on", flush=True)
        raise
    except FloatingPointError as error:
        raise FloatingPointError(
            f"epoch {len(run.history) + 1}: {error}; {run.path / 'last.pt'} holds the weights "
            f"of epoch {len(run.history)}; start anew with a smaller --lr than {config.lr}"
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
    run.finish(
        confusion_matrix(logits, labels),
        {"checkpoint": name, "epoch": epoch, "test_loss": loss, "test_acc": acc},
    )
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


def describe(config: Config, channels: int, classes: int) -> dict[str, Any]:
    """What `build_model` needs to build the network again."""
    return {
        "arch": config.arch, "in_channels": channels, "num_classes": classes,
        "input_size": config.input_size, "norm": config.norm, "small_input": config.small_input,
    }  # fmt: skip


def check_steps(config: Config, channels: int, classes: int, count: int | None = None) -> None:
    """Go through a step on the meta device, which computes nothing, to fail before the first.

    With the `count` of training images also through the last, which may have fewer of them.
    """
    sizes = {min(config.batch_size, 2)}
    if count is not None:
        held_out = round(count * config.val_fraction)
        if config.val_fraction and not 0 < held_out < count:
            raise ValueError(
                f"--val-fraction {config.val_fraction} holds out {held_out} of {count} images"
            )
        count -= held_out
        sizes = {min(config.batch_size, count), count % config.batch_size} - {0}
    with torch.device("meta"):
        net = build_model(**describe(config, channels, classes)).train()
        for n in sizes:
            try:
                net(torch.empty(n, channels, config.input_size, config.input_size))
            except ValueError as error:  # batch norm cannot train on a single value
                raise ValueError(
                    f"{config.arch} cannot train on a batch of {n}, which --batch-size "
                    f"{config.batch_size} gives ({error})"
                ) from error


def print_config(config: Config, given: dict[str, Any], note: str) -> None:
    recipe = asdict(find_model(config.arch).recipe)
    for name, value in asdict(config).items():
        from_recipe = name not in given and recipe.get(name) == value
        source = f"({config.arch}'s recipe)" if from_recipe else ""
        if name == "data":
            source = f"({note})"
        if value != "":
            print(f"{name:<13} {value} {source}".rstrip(), flush=True)


if __name__ == "__main__":
    main()
