"""The plan of a run: all that it will do, decided once. Whatever can fail, fails while it is made.

Flags that were given win over the recipe, and the recipe over the defaults. What is left open then,
as sizes that a recipe wants for many images and what is "auto", is decided by the images and the
device. A resumed run has the plan with which it was begun, except for what may change.
"""

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from torchcnn import cli
from torchcnn.data.datasets import DATASETS, ImageData
from torchcnn.data.folder import USE, FolderOptions, load_images
from torchcnn.data.identity import copies_text
from torchcnn.files import checkpoint_file, plural, read_dataclass
from torchcnn.models.registry import MODELS, find_model
from torchcnn.models.spec import ModelSpec
from torchcnn.models.weights import Normalization, read_weights
from torchcnn.run.checkpoint import Checkpoint, EpochRecord, best_epoch, check_best, load_checkpoint
from torchcnn.run.run import RUNS, check_out
from torchcnn.system import is_elastic
from torchcnn.training.config import Config
from torchcnn.training.device import device_settings
from torchcnn.training.distributed import World, device_of_rank
from torchcnn.training.loaders import (
    Loaders,
    Parts,
    describe_parts,
    make_loaders,
    pick_normalization,
    split,
)
from torchcnn.training.recipes import TABLE, complete
from torchcnn.training.schedule import SCHEDULES
from torchcnn.training.speed import choose_precision
from torchcnn.training.state import TrainState, left_as_it_was

# When a run is resumed.
MAY_CHANGE = {"resume", "epochs", "patience", "device", "root", "checkpoint_every", "verbose"}
AGAIN = {"data": "auto", "schedule": "stay", "amp": "auto", "channels_last": "auto"}  # no change
Datasets = dict[Any, ImageData]  # those that were read, by their name and the size of the images
FEW = 2_000  # pictures of your own to train and to validate on; with fewer, recipes are fitted
STEPS = 300  # at least, of a run on few images
ALWAYS = ("arch", "data", "recipe", "device")  # are printed, whatever was given
SHOWN_OF_RECIPE = ("optimizer", "lr", "batch_size", "epochs", "input_size")
OF_REGISTERED = {"arch", "recipe", "small_input", "norm", "model_kwargs"}


class Settings(NamedTuple):
    """Every flag with its value, and where the value comes from."""

    config: Config
    sources: dict[str, str]  # "given", "fast recipe", "default", "fitted: ...", "decided: ..."

    def change(self, source: str, values: dict[str, Any]) -> "Settings":
        """Give flags other values, from another source."""
        sources = self.sources | dict.fromkeys(values, source)
        return Settings(replace(self.config, **values), sources)

    def fit(self, why: str, **values: Any) -> "Settings":
        """Give flags other values than the recipe's, but for those that were given."""
        changed = {
            name: value
            for name, value in values.items()
            if self.sources[name] != "given" and value != getattr(self.config, name)
        }
        return self.change(f"fitted: {why}", changed)


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    config: Config  # every flag with its value; nothing is "auto"
    sources: dict[str, str]  # where the values come from, as `Settings` has them
    spec: ModelSpec
    state: TrainState  # the network with its weights, the optimizer, what else training changes
    loaders: Loaders
    device: torch.device
    dataset: ImageData
    parts: Parts
    resumed: Checkpoint | None  # of the run that is resumed, whose state is in `state`

    @property
    def decided(self) -> dict[str, str]:
        """The flags of which the images or the device decided the value: "fitted" or "decided"."""
        kinds = {name: source.partition(":")[0] for name, source in self.sources.items()}
        return {name: kind for name, kind in kinds.items() if kind in ("fitted", "decided")}

    @property
    def split(self) -> str:
        """What is evaluated after an epoch: "val", or "test" if no images are held out."""
        return "val" if self.config.val_fraction else "test"


@contextmanager
def planned(
    flags: dict[str, Any], net: nn.Module | None, world: World, datasets: Datasets | None = None
) -> Iterator[Plan]:
    """Plan a run, new or resumed, and set up its device; afterwards all is as it was.

    Nothing is written. A run that is resumed is read by the main rank, which may be on another
    machine.

    Args:
        net: a module to train in place of a registered network.
        datasets: those that were read before, so that none is read twice.

    Raises:
        ValueError, OSError: the run cannot be, in one line.
    """
    begun = world.from_main(lambda: resume(flags, net))
    settings, resumed = begun or (begin(flags, net), None)
    device = cli.pick_device(device_of_rank(settings.config.device))
    datasets = {} if datasets is None else datasets
    with (
        device_settings(device, settings.config.deterministic),
        torch.random.fork_rng([device] * (device.type != "cpu"), device_type=device.type),
        left_as_it_was(net),
    ):
        yield make_plan(settings, net, resumed, device, world, datasets)


def make_plan(
    settings: Settings,
    net: nn.Module | None,
    resumed: Checkpoint | None,
    device: torch.device,
    world: World,
    datasets: Datasets,
) -> Plan:
    """Decide what is open until the images are read."""
    config = settings.config
    if not resumed:
        check_out(Path(config.out or RUNS / "new"))
    if net is None:  # what can be known before a data set is read, and perhaps downloaded
        usual = make_spec(config, find_model(config.arch).input[0], tuple("0123456789"))
        check_batches(config, usual, world.world_size)
    weights = None
    if config.init and not resumed:
        weights = world.from_main(lambda: read_weights(config.init, config.arch, net))
        if weights.spec and config.recipe == "finetune":
            settings = fit_to_weights(settings, weights.spec)
    channels = resumed.spec.in_channels if resumed else None  # else the pictures decide
    dataset = read_once(settings.config, channels, device, world, datasets)
    check_dataset(settings.config, dataset, resumed, device, world)
    few = bool(dataset.ids) and len(dataset.train_labels) < FEW
    if few and dataset.val_images is None and not resumed:
        settings = settings.fit("for so few images, in place of 0.1", val_fraction=0.2)
    parts = split(settings.config, dataset)
    n = len(parts.train[1])
    if resumed:
        spec = resumed.spec
    else:
        settings = fit(settings, dataset.train_images.shape[-1], n, world.world_size)
        if few or config.recipe != "source":
            settings = fit_to_few(settings, n, vary=few or config.recipe == "finetune")
        settings = decide_precision(settings, device)
        images = parts.train[0]
        found = pick_normalization(config.normalize, weights, images)
        spec = make_spec(settings.config, images.shape[1], dataset.classes, net, found)
    check_batches(settings.config, spec, world.world_size, n, net)
    loaders = make_loaders(settings.config, spec, parts, device, world)
    shown = str(device) if world.world_size == 1 else device.type
    config = replace(settings.config, device=shown, data=dataset.name)
    state = TrainState.create(config, spec, device, world.world_size, net, weights)
    if resumed:
        state.load(resumed)
    return Plan(config, settings.sources, spec, state, loaders, device, dataset, parts, resumed)


def read_once(
    config: Config, channels: int | None, device: torch.device, world: World, datasets: Datasets
) -> ImageData:
    """Read the data set of a run, or take it if it was read before."""
    known = config.data in DATASETS
    # Pictures of a folder are read in the size that the network takes.
    size = None if known else (config.input_size, config.resize)
    key = config.data, size, channels
    if key not in datasets:
        options = FolderOptions(config.input_size, config.resize, channels)
        if known and not world.is_main:
            world.barrier()  # the main rank goes first: the others find what it downloads
        dataset = load_images(config.data, config.root, device, options)
        if known and world.is_main:
            world.barrier()
        datasets[key] = datasets[dataset.name, size, channels] = dataset
    return datasets[key]


# --- a new run ----------------------------------------------------------------------------------


def begin(flags: dict[str, Any], net: nn.Module | None = None) -> Settings:
    """Return the settings of a new run; a ValueError says which flags contradict each other."""
    if net is not None:
        if not isinstance(net, nn.Module):
            raise ValueError(f"net is a torch.nn.Module, got {net!r}")
        if registered := flags.keys() & OF_REGISTERED:
            raise ValueError(f"{', '.join(sorted(registered))} cannot be given with a module")
        flags = flags | {"arch": type(net).__name__}
    arch = flags.get("arch", Config.arch)
    recipe = flags.get("recipe", "finetune" if "init" in flags else Config.recipe)
    values = complete(arch if net is None else None, recipe, flags)
    config = Config(**{"recipe": recipe} | values)
    if config.patience and not config.val_fraction:
        raise ValueError("--patience waits for validation images; --val-fraction 0 has none")
    if config.schedule == "stay":
        raise ValueError(f"--schedule stay is for --resume; allowed are {', '.join(SCHEDULES)}")
    sources = {f.name: "default" for f in fields(Config)}
    sources |= dict.fromkeys(values, f"{recipe} recipe") | dict.fromkeys(flags, "given")
    out = str(Path(config.out).expanduser()) if config.out else ""
    return Settings(replace(config, out=out), sources)


def fit(settings: Settings, pixels: int, n: int, world_size: int) -> Settings:
    """Fit a recipe to the images.

    Args:
        pixels: the size of the images.
        n: how many there are to train on.
    """
    size, batch = settings.config.input_size, settings.config.batch_size
    return settings.fit(
        f"for images of 28 pixels, in place of the recipe's {size}",
        input_size=fit_input_size(settings.config, pixels),
    ).fit(
        f"for so few images, in place of the recipe's {batch}",
        batch_size=fit_batch_size(batch, n, world_size),
    )


def fit_to_weights(settings: Settings, spec: ModelSpec) -> Settings:
    """Take images as the network of the weights did."""
    own = {name: getattr(spec, name) for name in ("input_size", "resize", "small_input")}
    if spec.arch == settings.config.arch:
        own["model_kwargs"] = spec.options
    return settings.fit("as the weights were trained", **own)


def fit_to_few(settings: Settings, n: int, vary: bool) -> Settings:
    """Pass over few images until `STEPS` are made.

    Args:
        vary: crop and flip them at random, if nothing else varies them.
    """
    config, why = settings.config, "for so few images"
    epochs = max(config.epochs, -(-STEPS * config.batch_size // n))
    settings = settings.fit(f"{why}, in place of the recipe's {config.epochs}", epochs=epochs)
    if vary and not config.augment:
        settings = settings.fit(why, augment=("random-resized-crop", "flip"))
    return settings


def decide_precision(settings: Settings, device: torch.device) -> Settings:
    """Let the device decide what is "auto"."""
    config = settings.config
    amp, channels_last = choose_precision(config.amp, config.channels_last, config.arch, device)
    chosen = {"amp": amp, "channels_last": channels_last}
    autos = {name: value for name, value in chosen.items() if getattr(config, name) == "auto"}
    return settings.change("decided: by the device", autos)


def fit_input_size(config: Config, pixels: int) -> int:
    """Take images of 28 pixels at their own size where `fast` or `best` would enlarge them to 32.

    A quarter of the work is saved; by some networks `fast` takes them smaller still. A network
    whose dense layers depend on the size keeps its own.
    """
    is_enlarged = (pixels, config.input_size) == (28, 32) and config.recipe != "source"
    if not is_enlarged or config.arch not in MODELS:
        return config.input_size
    if "input_size" in inspect.signature(MODELS[config.arch].builder).parameters:
        return config.input_size
    return TABLE[config.arch].shrunk if config.recipe == "fast" else pixels


def fit_batch_size(batch_size: int, n: int, world_size: int) -> int:
    """Cut a recipe's batch to at most a tenth of the `n` training images, to a power of two.

    With fewer steps in an epoch hardly anything is learned, and moving statistics lag behind.
    """
    if batch_size <= n // 10:
        return batch_size
    power = 2 ** int(math.log2(max(n // 10, 2)))
    size = max(power // world_size, 2) * world_size
    while n % size == 1 and n > 1 and world_size == 1:  # batch norm cannot train on a single image
        size += 1
    return min(size, batch_size)


def make_spec(
    config: Config,
    channels: int,
    classes: tuple[str, ...],
    net: nn.Module | None = None,
    normalization: Normalization | None = None,
) -> ModelSpec:
    """Describe the network, registered or `net`, for images of so many channels."""
    mean, std = normalization or ((0.0,) * channels, (1.0,) * channels)
    return ModelSpec(
        arch=config.arch,
        own=net is not None,
        in_channels=channels,
        classes=classes,
        input_size=config.input_size,
        mean=tuple(mean),
        std=tuple(std),
        resize=config.resize,
        norm=config.norm,
        small_input=config.small_input,
        options=config.model_kwargs,
    )


# --- a run that is resumed ----------------------------------------------------------------------


def run_to_resume(flags: dict[str, Any]) -> Path | None:
    """Return the folder of the run that is to be resumed, if one is.

    Ranks that died are restarted by torchrun with the flags of the first start.
    """
    out = Path(flags.get("out", "")).expanduser()
    if is_elastic() and "resume" not in flags and "out" in flags and (out / "last.pt").exists():
        return out
    path = Path(flags["resume"]).expanduser() if "resume" in flags else None
    return path.parent if path and path.name == "last.pt" else path


def resume(flags: dict[str, Any], net: nn.Module | None) -> tuple[Settings, Checkpoint] | None:
    """Read the run that is to be resumed, if one is: its settings, except for what may change.

    Raises:
        FileNotFoundError, ValueError: the run is finished, or a flag may not change.
    """
    path = run_to_resume(flags)
    if not path:
        return None
    checkpoint = load_checkpoint(checkpoint_file(path, ["last.pt"]))
    if checkpoint.spec.own != (net is not None):
        raise ValueError(
            f"{path} is a run of {checkpoint.spec.arch}; a run of a module of your own, and only "
            "that, is resumed by torchcnn.train.train(resume=..., net=...)"
        )
    stored = read_config(path, checkpoint)
    check_best(path, checkpoint)
    changed = changes(path, stored, flags)
    if flags.get("schedule") == "stay":
        rate = checkpoint.state.optimizer["param_groups"][0]["lr"]
        changed |= {"schedule": "constant", "lr": float(rate), "warmup": 0}
    settings = Settings(replace(stored, out=str(path)), checkpoint.sources).change("given", changed)
    done, epochs = len(checkpoint.history), settings.config.epochs
    if checkpoint.progress and done >= epochs:
        raise ValueError(f"{path} has begun epoch {done + 1}, got --epochs {epochs}")
    if done > epochs or has_result(path, checkpoint, settings.config):
        more = "--epochs" if done >= epochs else "--patience"
        raise ValueError(f"{path} has finished {plural(done, 'epoch')}; {more} asks for more")
    return settings, checkpoint


def has_result(path: Path, checkpoint: Checkpoint, config: Config) -> bool:
    """Whether a run is finished: it has made its epochs, and the network was tested."""
    return is_over(checkpoint.history, config) and (path / "result.json").exists()


def is_over(history: Sequence[EpochRecord], config: Config) -> bool:
    """Whether a run has made all its epochs, or as many as its patience allows."""
    best = best_epoch(history)
    waited = len(history) - best if best else 0
    return len(history) >= config.epochs or bool(config.patience and waited >= config.patience)


def read_config(path: Path, checkpoint: Checkpoint) -> Config:
    """Return the configuration of a run; a ValueError says which flag does not take its value."""
    what = f"the configuration in {path / 'last.pt'}"
    config = read_dataclass(Config, checkpoint.config, what)
    if checkpoint.sources.keys() != checkpoint.config.keys():
        raise ValueError(f"{what} is damaged: its sources")
    for f in fields(Config):
        value = getattr(config, f.name)
        try:
            good = cli.read_value(f, value) == value
        except ValueError:
            good = False
        if not good:
            raise ValueError(f"{what} is damaged: its {f.name} is {value!r}")
    return config


def changes(path: Path, stored: Config, flags: dict[str, Any]) -> dict[str, Any]:
    """Return which flags change when a run is resumed; a ValueError says which may not."""
    is_folder = Path(stored.data).is_absolute()
    for name in (name for name in flags if name not in MAY_CHANGE):
        before = getattr(stored, name)
        again = AGAIN.get(name, str(path) if name == "out" else None)
        moved = name == "data" and is_folder and Path(flags[name]).is_absolute()
        if flags[name] not in (before, again) and not moved:
            raise ValueError(
                f"{path} was run with {cli.flag(name)} {before}, got {flags[name]}; a resumed run "
                "may change --epochs, --patience, --device, --root and --checkpoint-every, take a "
                "folder that was moved as --data, and keep its learning rate by --schedule stay"
            )
    changed = {name: flags[name] for name in flags.keys() & MAY_CHANGE - {"resume"}}
    if is_folder and flags.get("data", "auto") != "auto":
        changed["data"] = flags["data"]
    return changed


# --- what must fit ------------------------------------------------------------------------------


def check_dataset(
    config: Config,
    dataset: ImageData,
    resumed: Checkpoint | None,
    device: torch.device,
    world: World,
) -> None:
    """Raise a ValueError if a run began with another data set, or other ranks have another one."""
    n = len(dataset.train_labels)
    shared = asdict(config) | {"root": "", "out": "", "resume": ""}
    shared |= {"device": device.type, "data": dataset.name}
    steps = len(resumed.progress.images) if resumed and resumed.progress else 0
    done = resumed and (len(resumed.history), steps)
    world.check_same(dataset.classes, n, len(dataset.test_labels), done, shared, dataset.digests)
    if not resumed:
        return
    for what, then, now in (
        ("classes", [*resumed.spec.classes], [*dataset.classes]),
        ("images", resumed.images, n),
    ):
        if then != now:
            raise ValueError(f"the run was begun with the {what} {then}; {dataset.name} has {now}")
    digest = resumed.digests.get("train")
    if digest != dataset.digests.get("train", digest):
        raise ValueError(
            f"the run was begun with other pictures than {dataset.name} has now; --data takes the "
            "place where the same pictures are now"
        )
    for part, use in USE.items():
        if dataset.digests.get(part) != resumed.digests.get(part):
            print(f"note: the pictures to {use} on are others than when the run was begun, or none")


def check_batches(
    config: Config,
    spec: ModelSpec,
    world_size: int,
    n: int | None = None,
    net: nn.Module | None = None,
) -> None:
    """Check that the network takes the images, and can train on each size of batch.

    Only a batch of a single image can fail: in batch norm, where each channel has one pixel then.

    Args:
        n: the number of images to train on, if it is known; the last batch may have fewer.
        net: a module of your own; it runs on the CPU, on the smallest batch alone.

    Raises:
        ValueError: the images cannot be shared out, or the network cannot train on such a batch.
    """
    batch_size = config.batch_size
    if batch_size % world_size:
        raise ValueError(f"--batch-size {batch_size} cannot be shared by {world_size} ranks")
    if n is None:
        spec.build()
        n = min(batch_size, 2 * world_size * config.accumulate)
    n = n // world_size * world_size
    if not n:
        raise ValueError(f"{world_size} ranks cannot share fewer images")
    last = f"the last batch of {plural(n, 'image')}"
    batches = {n % batch_size: last, min(batch_size, n): "a batch"}
    sizes: dict[int, str] = {}
    for batch, name in batches.items():
        share = batch // world_size
        part = -(-share // config.accumulate)  # as torch.chunk cuts
        sizes |= {size: name for size in (part, share % part if part else 0) if size}
    if net is not None:
        return check_own_module(net, (min(sizes), *spec.shape), spec.num_classes)
    if 1 in sizes:
        with torch.device("meta"):
            net = spec.build().train()
            try:
                net(torch.empty(1, *spec.shape))
            except ValueError as error:
                raise ValueError(
                    f"{config.arch} cannot train on a batch of 1, which is what "
                    f"--batch-size {batch_size} makes of {sizes[1]} ({error})"
                ) from error


def check_own_module(net: nn.Module, shape: tuple[int, ...], num_classes: int) -> None:
    """Make a step with a copy of a module of your own, without the optimizer, on the CPU.

    Raises:
        ValueError: it cannot train on such images, or does not return logits.
    """
    name = type(net).__name__
    if not any(p.requires_grad for p in net.parameters()):
        raise ValueError(f"{name} has no parameters to train")
    try:
        y = deepcopy(net).to("cpu").train()(torch.zeros(shape))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{name} cannot train on images {shape} ({error})") from error
    expected = (shape[0], num_classes)
    got = tuple(y.shape) if isinstance(y, torch.Tensor) else f"a {type(y).__name__}"
    if got != expected:
        raise ValueError(f"{name} must return logits {expected} for images {shape}, got {got}")
    try:
        y.sum().backward()
    except RuntimeError as error:
        raise ValueError(f"{name} has no gradients ({error})") from error


def print_plan(plan: Plan, world_size: int) -> None:
    """Print what was given, decided or changed, and where it comes from; if verbose, every flag."""
    config, sources = plan.config, plan.sources
    for name, value in asdict(config).items():
        kind, _, note = sources[name].partition(": ")
        if name == "data":
            note = plan.dataset.note
        elif name == "recipe":
            rest = (n for n in SHOWN_OF_RECIPE if sources[n] == f"{value} recipe")
            note = ", ".join(f"{n} {getattr(config, n)}" for n in rest)
        elif name == "normalize" and plan.spec.is_normalized:
            mean, std = (" ".join(f"{x:.3g}" for x in v) for v in (plan.spec.mean, plan.spec.std))
            note = f"mean {mean}, std {std}"
        elif config.verbose and kind not in ("given", "default", "fitted", "decided"):
            note = kind
        if isinstance(value, tuple):
            value = ",".join(value)
        elif isinstance(value, dict):
            value = " ".join(f"{key}={v}" for key, v in value.items())
        told = note or name in ALWAYS or kind in ("given", "fitted", "decided")
        if value != "" and (told or config.verbose):
            print(f"{name:<16} {value} {f'({note})' if note else ''}".rstrip(), flush=True)
    if plan.dataset.ids:  # pictures of your own
        print(describe_parts(plan.parts, plan.spec.classes), flush=True)
    for part, count in plan.parts.copies().items():
        if count:
            images = {"test": "test images", "val": "validation images"}[part]
            print(copies_text(count, len(plan.parts.ids[part]), images), flush=True)
    if world_size > 1:
        share = plan.config.batch_size // world_size
        print(f"{'world size':<16} {world_size}, each rank with {share} images of a batch")
