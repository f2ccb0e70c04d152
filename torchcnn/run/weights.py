"""Weights to start from: of a run, a checkpoint, a safetensors file, or a file of torchvision."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchcnn.models import MODELS
from torchcnn.models.from_torchvision import from_torchvision
from torchcnn.models.pretrained import list_pretrained, read_pretrained
from torchcnn.models.weights import find_rows, start_from
from torchcnn.run.checkpoint import Normalization, checkpoint_file, load_checkpoint, normalization

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # mean and std of its training images
WRAPPERS = ("module.", "model.", "net.")  # of data parallelism, and of other programs


@dataclass(frozen=True)
class Weights:
    """Weights by name, and what they were trained on."""

    tensors: dict[str, Tensor]
    classes: list[str] | None  # their names, which a mere state dict does not have
    normalization: Normalization | None

    @torch.no_grad()
    def load_into(self, net: nn.Module, classes: Sequence[str], shape: Sequence[int]) -> str:
        """Copy them into a network for these classes, whose rows in the head are found by name.

        Args:
            shape: of images that the network takes, (n, c, h, w).

        Returns:
            a sentence on the head, unless it is taken as it is for the same classes.

        Raises:
            ValueError: they do not fit; nothing is copied then.
        """
        now, theirs = len(classes), self.classes
        if theirs == list(classes):
            start_from(net, self.tensors, (now, now))
            return ""
        rows, own = find_rows(net, shape, now), net.state_dict()
        before = len(theirs) if theirs else self._count_classes(rows)
        fresh = {name: own[name].clone() for name in rows}
        new = start_from(net, self.tensors, (before, now))
        # Rows of the head mean nothing without what is below them, as in the last block of NiN.
        if theirs and rows and rows.keys() >= set(new):
            others = [name for name in classes if name not in theirs]
            both = [name for name in classes if name in theirs]
            source = torch.tensor([theirs.index(name) for name in both], dtype=torch.long)
            place = torch.tensor([classes.index(name) for name in both], dtype=torch.long)
            for name, axis in rows.items():
                given = self.tensors[name].index_select(axis, source).to(own[name])
                place = place.to(given.device)
                own[name].copy_(fresh[name].index_copy_(axis, place, given))
            said = f"the rows of {len(both)} of {now} classes are found by name"
            return f"{said}{f', new are {shortened(others)}' * bool(others)}: {', '.join(rows)}"
        if new:
            return f"new for {now} classes in place of {before}: {', '.join(new)}"
        whose = f"{shortened(theirs)}" if theirs else "of which the weights have no names"
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
    if source in list_pretrained() and not path.exists():
        tensors, about = read_pretrained(source)
        return Weights(tensors, about["classes"], normalization(about))
    if path.is_dir():
        path = checkpoint_file(path)
    if not path.is_file():
        names = ", ".join(list_pretrained())
        raise FileNotFoundError(
            f"--init {source}: there is no such run or file; in the package are {names}"
        )
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file provokes many kinds in torch's reader
        kind = type(error).__name__
        raise ValueError(f"--init {source} is damaged, or holds no weights ({kind})") from error
    if isinstance(content, dict) and "torchcnn" in content:
        checkpoint = load_checkpoint(path)
        tensors = (checkpoint["average"] or checkpoint)["weights"]
        return Weights(tensors, checkpoint["classes"], normalization(checkpoint))
    found = find_state_dicts(content)
    if len(found) != 1:
        keys = shortened([*map(str, content)]) if isinstance(content, dict) else "none"
        got = f"holds several state dicts, {', '.join(found)}" if found else "is no state dict"
        raise ValueError(
            f"--init {source} {got} (its keys are {keys}); allowed is a dict of tensors by their "
            "names, or a dict that holds one such dict"
        )
    (tensors,) = found.values()
    return of_state_dict(unwrapped(tensors, net), arch)


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
    if not tensors.keys() <= own:  # parts of a network may be compiled, too
        tensors = {name.replace("_orig_mod.", ""): tensor for name, tensor in tensors.items()}
    while not tensors.keys() <= own and (
        wrapper := next((w for w in WRAPPERS if all(n.startswith(w) for n in tensors)), "")
    ):
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def of_state_dict(tensors: dict[str, Tensor], arch: str) -> Weights:
    """Take a state dict in the names of this package, or in torchvision's."""
    # A module of your own may have such names too.
    is_theirs = arch in MODELS and any(n.startswith(("features.", "layer1.")) for n in tensors)
    if is_theirs:
        tensors = from_torchvision(arch, tensors)
    return Weights(tensors, None, IMAGENET if is_theirs else None)


def read_safetensors(path: Path) -> Weights:
    """Read what `torchcnn.export --to safetensors` wrote.

    Raises:
        ValueError: it is damaged, or of another program.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads(file.metadata()["torchcnn"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Weights(tensors, list(about["classes"]), normalization(about))
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(f"{path} is damaged, or not one of torchcnn ({kind})") from error
