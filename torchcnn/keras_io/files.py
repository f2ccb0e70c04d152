"""Keras's files, read with h5py alone: what they hold is data, and nothing of it is executed."""

import io
import json
import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

Config = dict[str, Any]
SMALL = 2**26  # bytes that are read without a question
KINDS = {"conv": "convolution", "dense": "dense layer", "norm": "batch norm", "add": "sum",
         "concat": "concatenation", "pad": "padding", "input": "input",
         "channels": "padding of channels", "after": "layer behind a padding",
         "swapped": "permutation"}  # fmt: skip


OTHERS = {  # whose weights could be taken for a convolution's, by their ranks
    "conv2d_transpose", "depthwise_conv2d", "separable_conv2d", "embedding", "normalization",
}  # fmt: skip


class KerasLayer(NamedTuple):
    """A layer of a file that has weights."""

    path: str  # where it is in the file; what `layer_paths` says of a configuration
    name: str  # what Keras calls it; empty in the files of Keras before 3.7
    weights: list[Any]  # h5py datasets, in Keras's order

    @property
    def kind(self) -> str:
        """What Keras's own layers look like: conv, dense, norm; anything else is empty."""
        base = re.sub(r"_\d+$", "", self.name or self.path.split("/")[-1])
        if base in OTHERS:
            return ""
        ranks = [len(w.shape) for w in self.weights]
        kinds = {(4,): "conv", (4, 1): "conv", (2,): "dense", (2, 1): "dense", (1,) * 4: "norm"}
        return kinds.get(tuple(ranks), "")


@dataclass
class KerasFile:
    """What a file says: layers with weights in the file's order, and the model's graph, if any."""

    layers: list[KerasLayer]
    config: Config | None  # of a functional or sequential model; others are code
    legacy: bool  # the format of Keras 2


class Refused(ValueError):
    """What is wrong with a file, or with a network, in words for its user."""


@contextmanager
def open_keras(source: Any, parameters: int) -> Iterator[KerasFile]:
    """Open a `.keras`, `.weights.h5` or legacy `.h5` file, or a Keras model, for as long as needed.

    Args:
        source: a path, or a Keras model, which is written to a temporary file first.
        parameters: numbers in the network that asks; an archive of vastly more is refused.

    Raises:
        FileNotFoundError: there is no such file.
        Refused: it is not a file of Keras. A damaged one can provoke anything in its readers.
    """
    try:
        import h5py
    except ImportError as error:
        raise Refused("Keras's weights need the package h5py: pip install h5py") from error
    if not isinstance(source, str | Path):
        with _written(source) as (path, config), h5py.File(path) as file:
            yield _read(file, config)
        return
    if not Path(source).is_file():
        raise FileNotFoundError(f"there is no file {source}")
    with open(source, "rb") as stream:
        config, weights = None, cast(IO[bytes], stream)
        if stream.read(4) == b"PK\x03\x04":
            config, weights = _unzip(stream, SMALL + 64 * parameters)
        with h5py.File(weights, "r") as file:
            yield _read(file, config)


@contextmanager
def _written(model: Any) -> Iterator[tuple[Path, Config | None]]:
    """A live model as a file of weights, and its configuration, if it has a graph."""
    if not hasattr(model, "save_weights") or not hasattr(model, "to_json"):
        raise Refused("neither a Keras model nor the path of a .keras, .weights.h5 or .h5 file")
    try:
        config = json.loads(model.to_json())
    except (NotImplementedError, TypeError):  # a subclass that does not say how it was made
        config = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.weights.h5"
        model.save_weights(path)
        yield path, config


def _unzip(stream: Any, most: int) -> tuple[Config, io.BytesIO]:
    """The two parts of a `.keras` file. Nothing is unpacked onto the disk."""
    with zipfile.ZipFile(stream) as archive:
        for name in archive.namelist():
            if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or ":" in name:
                raise Refused(f"holds {name!r}, a path that leads out of the archive")
        size = {info.filename: info.file_size for info in archive.infolist()}
        for name, limit in (("config.json", SMALL), ("model.weights.h5", most)):
            if name not in size:
                raise Refused(f"has no {name}: it is not a .keras file")
            if size[name] > limit:
                raise Refused(f"its {name} has {size[name]:,} bytes, at most {limit:,} fit")
        config = json.loads(archive.read("config.json"))
        if not isinstance(config, dict):
            raise Refused("its config.json describes no model")
        return config, io.BytesIO(archive.read("model.weights.h5"))


# --- HDF5 ---------------------------------------------------------------------------------------


def _read(file: Any, config: Config | None) -> KerasFile:
    root = _member(file, "model_weights") if "model_weights" in file else file
    if "layer_names" not in root.attrs:
        layers = list(_layers(file, "", set()))
        layers.sort(key=lambda layer: _natural(layer.path))
        return KerasFile(layers, config, legacy=False)
    if "model_config" in file.attrs:
        config = json.loads(file.attrs["model_config"])
    groups = [_text(name) for name in root.attrs["layer_names"]]
    layers = [layer for group in groups for layer in _legacy_layers(_member(root, group), group)]
    return KerasFile(layers, config, legacy=True)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _natural(path: str) -> list[Any]:
    """conv2d, conv2d_1, conv2d_2, conv2d_10: numbers count as numbers."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)|/", path)
            if part]  # fmt: skip


def _member(group: Any, path: str) -> Any:
    """What lies under a group, step by step; no link leads anywhere else."""
    import h5py

    for name in path.split("/"):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise Refused(f"{group.name}/{name} is missing, or a link to another place")
        group = group[name]
    if isinstance(group, h5py.Dataset) and (group.external or group.is_virtual):
        raise Refused(f"{group.name} takes its numbers from another file")
    return group


def _layers(group: Any, path: str, seen: set[Any]) -> Iterator[KerasLayer]:
    """Keras 3: every layer has a group, and in it a group "vars" of arrays 0, 1, and so on."""
    import h5py

    if group in seen or len(seen) > 100_000:
        raise Refused(f"{group.name} stands in it twice")
    seen.add(group)
    for key in group:
        child = _member(group, key)
        if not isinstance(child, h5py.Group) or key in ("optimizer", "seed_generator"):
            continue  # the state of training, and of a dropout
        if key != "vars":
            key = key.replace("_layer_checkpoint_dependencies", "layers")  # Keras 2.12
            yield from _layers(child, f"{path}/{key}".lstrip("/"), seen)
        elif len(child):
            arrays = [_member(child, str(i)) for i in range(len(child))]
            yield KerasLayer(path, _text(child.attrs.get("name", "")), arrays)


def _legacy_layers(group: Any, path: str) -> Iterator[KerasLayer]:
    """Keras 2: every layer has a group, whose arrays are listed by name: conv2d/kernel:0."""
    by_layer: dict[str, dict[str, Any]] = {}
    for name in map(_text, group.attrs["weight_names"]):
        layer, _, weight = name.rpartition("/")
        weights, key = by_layer.setdefault(layer or path, {}), weight.partition(":")[0]
        if key in weights:
            raise Refused(f"it names two arrays {name} in {path}, and no layers for them")
        weights[key] = _member(group, name)
    order = ["kernel", "gamma", "bias", "beta", "moving_mean", "moving_variance"]
    for layer, weights in by_layer.items():
        if not weights.keys() <= set(order):
            raise Refused(f"layer {layer} has weights {', '.join(weights)}, which no "
                                 "convolution, dense layer or batch norm has")  # fmt: skip
        inside = "" if layer == path else f"/{layer.removeprefix(f'{path}/')}"
        arrays = [weights[key] for key in order if key in weights]
        yield KerasLayer(path + inside, layer.split("/")[-1], arrays)


def layer_paths(layers: list[Config], legacy: bool) -> list[str]:
    """Where a configuration's layers are in the file, within their model."""
    paths, count = [], dict.fromkeys(SNAKE.values(), 0)
    for layer in layers:
        kind = SNAKE.get(layer["class_name"], "")
        if legacy or not kind:
            paths.append(_name(layer))
        else:
            paths.append(f"layers/{kind}_{count[kind]}".removesuffix("_0"))
            count[kind] += 1
    return paths


def _name(layer: Config) -> str:
    return str(layer.get("name") or layer["config"]["name"])


SNAKE = {"Conv2D": "conv2d", "Dense": "dense", "BatchNormalization": "batch_normalization",
         "Sequential": "sequential", "Functional": "functional"}  # fmt: skip
