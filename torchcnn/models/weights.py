"""Weights that a network starts from, with another head if need be, and parts that are frozen.

There is one reader of all files that hold weights. Those in the package were trained on
Fashion-MNIST; `fashion_mnist/README.md` has the commands that trained them, and what they reach.
"""

import copy
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchcnn.files import check_format, checkpoint_file, read_archive
from torchcnn.models.imagenet import check_names, from_torchvision, read_imagenet
from torchcnn.models.registry import FOLDER, MODELS, list_pretrained
from torchcnn.models.spec import ModelSpec

Normalization = tuple[Sequence[float], Sequence[float]]  # mean and std of each channel
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of its training images
WRAPPERS = ("module.", "model.", "net.")  # of data parallelism, and of other programs
FROZEN = "_frozen_by_torchcnn"  # an attribute of the modules that `freeze` was given


@dataclass(frozen=True)
class Weights:
    """Weights by name, and what is known of the network that they are of."""

    tensors: dict[str, Tensor]
    classes: tuple[str, ...] | None = None  # their names, which a mere state dict does not have
    normalization: Normalization | None = None  # with which they were trained
    spec: ModelSpec | None = None  # of their network

    @classmethod
    def of(cls, spec: ModelSpec, tensors: dict[str, Tensor]) -> "Weights":
        """Return weights of a network that `spec` describes."""
        normalization = (spec.mean, spec.std) if spec.is_normalized else None
        return cls(tensors, spec.classes, normalization, spec)

    @torch.no_grad()
    def load_into(self, net: nn.Module, spec: ModelSpec) -> str:
        """Copy them into a network that `spec` describes.

        The rows of its head are found by the names of the classes, those of others are new.

        Returns:
            a sentence on the head, unless it is taken as it is for the same classes.

        Raises:
            ValueError: they do not fit; nothing is copied then.
        """
        classes, theirs = spec.classes, self.classes
        now = len(classes)
        if theirs == classes:
            start_from(net, self.tensors, (now, now))
            return ""
        rows, own = find_rows(net, spec.shape, now), net.state_dict()
        before = len(theirs) if theirs else self._count_classes(rows)
        fresh = {name: own[name].clone() for name in rows}
        new = start_from(net, self.tensors, (before, now))
        # Rows of the head mean nothing without what is below them, as in the last block of NiN.
        if theirs and rows and rows.keys() >= set(new):
            both = [name for name in classes if name in theirs]
            others = [name for name in classes if name not in theirs]
            source, place = ([names.index(c) for c in both] for names in (theirs, classes))
            for name, axis in rows.items():
                head, given = own[name].movedim(axis, 0), self.tensors[name].movedim(axis, 0)
                head.copy_(fresh[name].movedim(axis, 0))
                head[place] = given[source].to(head)
            if not both:
                return f"the head is new, for {shortened(others)}: {', '.join(rows)}"
            said = f"the head keeps the rows of {len(both)} of {now} classes, known by name"
            return f"{said}{f', new are {shortened(others)}' * bool(others)}: {', '.join(rows)}"
        if new:
            return f"new for {now} classes in place of {before}: {', '.join(new)}"
        whose = shortened(theirs) if theirs else "of which the weights have no names"
        return f"the head is taken as it is, for {now} classes, {whose}"

    def _count_classes(self, rows: dict[str, int]) -> int:
        """For how many classes the weights are: as many as the head has rows, if it was found."""
        for name, axis in rows.items():
            if name in self.tensors and self.tensors[name].dim() > axis:
                return self.tensors[name].shape[axis]
        return len([tensor for tensor in self.tensors.values() if tensor.dim() >= 2][-1])


def shortened(names: Sequence[str]) -> str:
    """The first five names, and how many there are if there are more."""
    return ", ".join(names[:5]) + f", … ({len(names)})" * (len(names) > 5)


def start_from(
    net: nn.Module, weights: dict[str, Tensor], num_classes: tuple[int, int]
) -> list[str]:
    """Copy weights into a network; what depends on the number of classes stays new if it changed.

    Args:
        num_classes: of the weights, and of the network.

    Returns:
        the names of what stayed new.

    Raises:
        ValueError: they do not fit; nothing is copied then.
    """
    own = net.state_dict()
    check_names(weights, list(own), "this network")
    weights = fit_channels(weights, own)
    before, now = num_classes
    new = []
    for name, tensor in own.items():
        given = weights[name]
        if given.shape == tensor.shape:
            continue
        theirs, ours = tuple(given.shape), tuple(tensor.shape)
        others = {pair for pair in zip(theirs, ours, strict=False) if pair[0] != pair[1]}
        if len(theirs) != len(ours) or others != {(before, now)}:
            raise ValueError(f"{name} of the weights is {theirs}, the network's {ours}")
        new.append(name)
    if before != now and not new:
        raise ValueError(f"weights for {before} classes have no layer that depends on their number")
    net.load_state_dict(weights | {name: own[name] for name in new})
    return new


def fit_channels(weights: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Let the first convolution read gray images where it read colour, or the reverse.

    A gray network has the sum of its kernels over the three channels, and one for colour a third of
    the kernel in each, so that images with three equal channels give the same outputs.
    """
    for name, tensor in own.items():
        given = weights[name]
        if tensor.dim() == 4 == given.dim():
            channels = given.shape[1], tensor.shape[1]
            if channels == (3, 1):
                return weights | {name: given.sum(1, keepdim=True)}
            if channels == (1, 3):
                return weights | {name: given.expand(-1, 3, -1, -1) / 3}
            break
    return weights


def for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Return a number for each channel: their mean for gray images, the same for each of colour."""
    if len(values) == channels:
        return tuple(values)
    return (sum(values) / len(values),) * channels


@torch.no_grad()
def find_rows(net: nn.Module, shape: Sequence[int], num_classes: int) -> dict[str, int]:
    """Find the weights that have a row for each class, by name, and along which axis they lie.

    These are the head's, wherever it is. It is tried: with NaN in the rows of every second class,
    the logits of these classes alone are NaN, because NaN spreads to all that is computed of it.
    Of a network that ends in a softmax, for example, this is true of no weights.

    Args:
        shape: of an image to try it with, (c, h, w).
    """
    net = copy.deepcopy(net).cpu().eval()
    x = torch.linspace(0, 1, math.prod(shape)).view(1, *shape)
    some = torch.arange(num_classes) % 2 == 0

    def is_by_class(tensor: Tensor, axis: int) -> bool:
        before = tensor.clone()
        tensor.movedim(axis, 0)[some] = math.nan
        spread = net(x)[0].isnan()
        tensor.copy_(before)
        return torch.equal(spread, some)

    return {
        name: axis
        for name, tensor in net.state_dict().items()
        for axis, side in enumerate(tensor.shape)
        if side == num_classes and tensor.is_floating_point() and is_by_class(tensor, axis)
    }


# --- reading ------------------------------------------------------------------------------------


def read_weights(source: str, arch: str, net: nn.Module | None = None) -> Weights:
    """Read weights of a run, a checkpoint, a .safetensors file, a state dict, or of this package.

    A state dict, saved by `torch.save`, has the names of this network, or those of torchvision,
    perhaps with what wrappers put before them, and may be one entry of what was saved. Nothing in a
    file is executed.

    Args:
        net: a module of your own, in place of the network `arch`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or is not of the network.
    """
    path = Path(source).expanduser()
    if source in ("imagenet", *list_pretrained()):
        if path.exists():
            print(
                f"note: --init {source} takes the weights of this name, not the file or run "
                f"{source}, which is --init ./{source}"
            )
        return Weights.of(
            *(read_imagenet(arch) if source == "imagenet" else read_pretrained(source))
        )
    path = checkpoint_file(path)
    if not path.is_file():
        names = ", ".join(list_pretrained())
        raise FileNotFoundError(
            f"--init {source}: there is no such run or file; in the package are {names}; "
            "imagenet takes torchvision's weights"
        )
    if path.suffix == ".safetensors":
        return Weights.of(*read_safetensors(path))
    content = read_archive(path, f"--init {source} is damaged, or holds no weights")
    if isinstance(content, dict) and "torchcnn" in content:
        return of_checkpoint(path, content)
    found = find_state_dicts(content)
    if len(found) != 1:
        keys = shortened([*map(str, content)]) if isinstance(content, dict) else "none"
        got = f"holds several state dicts, {', '.join(found)}" if found else "is no state dict"
        raise ValueError(
            f"--init {source} {got} (its keys are {keys}); allowed is a dict of tensors by their "
            "names, or a dict that holds one such dict"
        )
    (tensors,) = found.values()
    tensors = unwrapped(tensors, net)
    # A module of your own may have torchvision's names too.
    is_theirs = arch in MODELS and any(n.startswith(("features.", "layer1.")) for n in tensors)
    if is_theirs:
        tensors = from_torchvision(arch, tensors)
    return Weights(tensors, None, IMAGENET if is_theirs else None)


def of_checkpoint(path: Path, content: dict[str, Any]) -> Weights:
    """Take the weights that were evaluated from a checkpoint, see `torchcnn.run.checkpoint`."""
    check_format(path, content)
    try:
        tensors = (content["average"] or content)["weights"]
        return Weights.of(ModelSpec.from_json(content["spec"]), tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is a damaged checkpoint: {error}") from error


def find_state_dicts(content: Any, key: str = "") -> dict[str, dict[str, Tensor]]:
    """Find the dicts of a network's weights in what was saved, by the keys under which they lie."""
    # The state of an optimizer has numbers as keys.
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        return {}
    dims = [value.dim() if isinstance(value, Tensor) else -1 for value in content.values()]
    if dims and min(dims) >= 0 and max(dims) >= 2:
        return {key: dict(content)}
    inner = (find_state_dicts(v, f"{key}.{name}".lstrip(".")) for name, v in content.items())
    return {name: found for part in inner for name, found in part.items()}


def unwrapped(tensors: dict[str, Tensor], net: nn.Module | None) -> dict[str, Tensor]:
    """Take away what wrappers put before names, unless a module of your own has such names."""
    own = net.state_dict().keys() if net is not None else set[str]()
    if not tensors.keys() <= own:  # parts of a network may be compiled, too; averages have a count
        tensors = {n.replace("_orig_mod.", ""): t for n, t in tensors.items() if n != "n_averaged"}
    while not tensors.keys() <= own and (
        wrapper := next((w for w in WRAPPERS if all(n.startswith(w) for n in tensors)), "")
    ):
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def read_safetensors(path: Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Read what `torchcnn.export --to safetensors` wrote, as float32.

    Raises:
        ValueError: it is damaged, or of another program.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            spec = ModelSpec.from_json(file.metadata()["torchcnn"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(f"{path} is damaged, or not one of torchcnn ({kind})") from error
    return spec, {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def read_pretrained(name: str) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Read the weights of a network in this package, and what it is.

    Raises:
        ValueError: If there are no weights of this name, or the file is damaged.
    """
    path = FOLDER / f"{name}.safetensors"
    if name not in list_pretrained():
        raise ValueError(f"{name} has no pretrained weights; there are {list_pretrained()}")
    index = json.loads((FOLDER / "md5.json").read_text())
    if hashlib.md5(path.read_bytes()).hexdigest() != index[path.name]:
        raise ValueError(f"{path} is damaged: its md5 is not that of {FOLDER / 'md5.json'}")
    return read_safetensors(path)


# --- freezing -----------------------------------------------------------------------------------


def freeze(net: nn.Module, names: Sequence[str]) -> None:
    """Freeze parts of a network by their names, such as "stem" or "stage1".

    Their parameters get no gradients; their moving statistics stay, see `train_mode`.

    Raises:
        ValueError: there is no such part, or nothing is left to train.
    """
    parts = dict(net.named_modules(remove_duplicate=False))  # one may have several names
    for name in names:
        if not name or name not in parts:
            allowed = ", ".join(name for name, child in net._modules.items() if child)
            raise ValueError(f"there is no part {name!r} to freeze; there are {allowed}")
        parts[name].requires_grad_(False)
        setattr(parts[name], FROZEN, True)  # it may have statistics without parameters
    if not any(p.requires_grad for p in net.parameters()):
        raise ValueError(f"nothing is left to train if {', '.join(names)} are frozen")


def head_of(net: nn.Module) -> nn.Module:
    """Return the last part of a network that has parameters, as its parts are registered."""
    parts = [part for part in net.children() if any(True for _ in part.parameters())]
    if not parts:
        return net
    return head_of(parts[0]) if len(parts) == 1 else parts[-1]


def train_mode(net: nn.Module) -> None:
    """Put a network into training mode, but for the moving statistics of what is frozen.

    That is what `freeze` was given, and each module all of whose parameters are frozen. Modules in
    it that have buffers, or that hold such modules, stay in eval mode; dropout does not.
    """
    net.train()
    for module in net.modules():
        trains = [p.requires_grad for p in module.parameters()]
        if FROZEN in vars(module) or (trains and not any(trains)):
            for inner in module.modules():
                if any(True for _ in inner.buffers()):
                    inner.training = False
