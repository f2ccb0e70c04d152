"""Read Keras's file formats with h5py alone; files are treated as data and never executed."""

import io
import json
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

Config = dict[str, Any]
SMALL = 2**26  # bytes that may always be read, whatever the size of the network

# Layers that are not supported, but whose weights have the same number of axes as a supported one.
OTHERS = ("conv2d_transpose", "depthwise_conv2d", "separable_conv2d", "embedding", "normalization")


class KerasLayer(NamedTuple):
    """A layer with weights, as stored in a file."""

    path: str  # its path in the file, in the form that `layer_paths` returns
    name: str  # its name in Keras; empty in files written before Keras 3.7
    weights: list[Any]  # h5py datasets, in Keras's order

    @property
    def kind(self) -> str:
        """What error messages call the layer, by its name and weights; empty if it is unknown."""
        base = re.sub(r"_\d+$", "", self.name or self.path.split("/")[-1])
        match [len(array.shape) for array in self.weights]:
            case [4] | [4, 1] if base not in OTHERS:
                return "convolution"
            case [2] | [2, 1] if base not in OTHERS:
                return "dense layer"
            case [1, 1, 1, 1]:
                return "batch norm"
        return ""

    @property
    def facts(self) -> dict[str, Any]:
        """What the weights show of the layer."""
        shape = self.weights[0].shape
        if len(shape) == 1:
            return {"features": shape[0]}
        return {"kernel": shape, "use_bias": len(self.weights) == 2}


@dataclass
class KerasFile:
    """The contents of a file: its layers with weights, in file order, and its config."""

    layers: list[KerasLayer]
    config: Config | None  # only functional and sequential models have a graph in their config
    legacy: bool  # whether the file has the format of Keras 2


class Refused(ValueError):
    """A file or a network cannot be used; the message explains to the user why."""


@contextmanager
def open_keras(source: Any, parameters: int) -> Iterator[KerasFile]:
    """Open a `.keras`, `.weights.h5` or legacy `.h5` file, or a Keras model, as a context manager.

    An archive that holds vastly more data than a network of so many parameters is refused.

    Raises:
        FileNotFoundError: if the file does not exist.
        Refused: if it is not a Keras file. Reading a damaged file can raise any other exception.
    """
    try:
        import h5py
    except ImportError as error:
        raise Refused("reading Keras weights requires h5py: pip install h5py") from error
    config, weights = None, source
    if not isinstance(source, str | Path):
        config, weights = _written(source)
    elif not Path(source).is_file():
        raise FileNotFoundError(f"there is no file {source}")
    else:
        with open(source, "rb") as stream:
            if stream.read(4) == b"PK\x03\x04":
                config, weights = _unzip(stream, SMALL + 64 * parameters)
    with h5py.File(weights, "r") as file:
        yield _read(file, config)


def _written(model: Any) -> tuple[Config | None, io.BytesIO]:
    """Return a Keras model's config, and a file of its weights."""
    if not hasattr(model, "save_weights") or not hasattr(model, "to_json"):
        raise Refused("it is neither a Keras model nor the path of a .keras or .h5 file")
    try:
        config = json.loads(model.to_json())
    except (NotImplementedError, TypeError):  # a subclassed model without `get_config`
        config = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.weights.h5"
        model.save_weights(path)
        return config, io.BytesIO(path.read_bytes())


def _unzip(stream: Any, most: int) -> tuple[Config, io.BytesIO]:
    """Read the config and the weights of a `.keras` archive without unpacking it to disk."""
    with zipfile.ZipFile(stream) as archive:
        for name in archive.namelist():
            if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or ":" in name:
                raise Refused(f"it holds {name!r}, a path that leads out of the archive")
        size = {info.filename: info.file_size for info in archive.infolist()}
        for name, limit in (("config.json", SMALL), ("model.weights.h5", most)):
            if name not in size:
                raise Refused(f"it has no {name}: it is not a .keras file")
            if size[name] > limit:
                raise Refused(f"its {name} has {size[name]:,} bytes, at most {limit:,} are allowed")
        config = json.loads(archive.read("config.json"))
        if not isinstance(config, dict):
            raise Refused("its config.json describes no model")
        return config, io.BytesIO(archive.read("model.weights.h5"))


def _read(file: Any, config: Config | None) -> KerasFile:
    """Read an open HDF5 file, in the format of Keras 3 or of Keras 2."""
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
    """Return an HDF5 attribute, which may be stored as bytes, as a string."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _natural(path: str) -> list[Any]:
    """Return a sort key that compares digits as numbers: conv2d, conv2d_1, conv2d_2, conv2d_10."""
    parts = re.split(r"(\d+)|/", path)
    return [(int(part) if part.isdigit() else -1, part) for part in parts if part]


def _member(group: Any, path: str) -> Any:
    """Return the object at a path in a group, and refuse links and external data."""
    import h5py

    for name in path.split("/"):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise Refused(f"{group.name}/{name} is missing, or is a link to another place")
        group = group[name]
    if isinstance(group, h5py.Dataset) and (group.external or group.is_virtual):
        raise Refused(f"{group.name} takes its values from another file")
    return group


def _layers(group: Any, path: str, seen: set[Any]) -> Iterator[KerasLayer]:
    """Yield the layers of a Keras 3 file: groups with a subgroup "vars" of arrays 0, 1, ..."""
    import h5py

    if group in seen or len(seen) > 100_000:
        raise Refused(f"{group.name} stands in it twice")
    seen.add(group)
    for key in group:
        child = _member(group, key)
        if not isinstance(child, h5py.Group) or key in ("optimizer", "seed_generator"):
            continue  # the state of an optimiser or of a dropout layer
        if key != "vars":
            key = key.replace("_layer_checkpoint_dependencies", "layers")  # Keras 2.12
            yield from _layers(child, f"{path}/{key}".lstrip("/"), seen)
        elif len(child):
            arrays = [_member(child, str(i)) for i in range(len(child))]
            yield KerasLayer(path, _text(child.attrs.get("name", "")), arrays)


def _legacy_layers(group: Any, path: str) -> Iterator[KerasLayer]:
    """Yield the layers in a group of a Keras 2 file, several of a nested model.

    The group lists its arrays by names such as `conv2d/kernel:0`.
    """
    by_layer: dict[str, dict[str, Any]] = {}
    for name in map(_text, group.attrs["weight_names"]):
        layer, _, weight = name.rpartition("/")
        weights, key = by_layer.setdefault(layer or path, {}), weight.partition(":")[0]
        if key in weights:
            raise Refused(f"{path} has two arrays named {name} and does not name their layers")
        weights[key] = _member(group, name)
    order = ["kernel", "gamma", "bias", "beta", "moving_mean", "moving_variance"]
    for layer, weights in by_layer.items():
        if not weights.keys() <= set(order):
            raise Refused(f"layer {layer} has weights {', '.join(weights)}, which are unknown")
        inside = "" if layer == path else f"/{layer.removeprefix(f'{path}/')}"
        arrays = [weights[key] for key in order if key in weights]
        yield KerasLayer(path + inside, layer.split("/")[-1], arrays)


def layer_paths(layers: list[Config], legacy: bool) -> list[tuple[str, str]]:
    """Return the name of each layer of a model's config, and its path in the file inside it."""
    paths, count = [], Counter[str]()
    for layer in layers:  # BatchNormalization -> batch_normalization, batch_normalization_1, ...
        name = str(layer.get("name") or layer["config"]["name"])
        kind = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", layer["class_name"])
        kind = re.sub("([a-z])([A-Z])", r"\1_\2", kind).lower()
        path = f"layers/{kind}_{count[kind]}".removesuffix("_0")
        count[kind] += 1
        paths.append((name, name if legacy else path))
    return paths
