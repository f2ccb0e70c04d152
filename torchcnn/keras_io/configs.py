"""Read a Keras model's configuration as a graph, without building the model."""

import math
from collections.abc import Iterator
from typing import Any

from torchcnn.keras_io.files import Config, KerasFile, KerasLayer, Refused, layer_paths
from torchcnn.keras_io.graphs import Op, flatten, layer
from torchcnn.keras_io.table import ACTIVATIONS, JOINS, KERAS, WITH_WEIGHTS, check_options

# What changes no value in inference.
PASSING = {"Dropout", "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom"}
MODELS = {"Sequential", "Functional", "Model"}
PACKAGES = {"keras", "tf_keras", "keras_core", "tensorflow"}  # Keras's own, under all its names


class KerasGraph:
    """Reads the configuration of a functional or sequential model as a graph."""

    def __init__(self, file: KerasFile) -> None:
        self.legacy = file.legacy
        self.layers = {layer.path: layer for layer in file.layers}

    def model(self, model: Config, source: Op, path: str) -> Op:
        """Return the output node of a model with the input `source`, stored under `path`."""
        config = model["config"]
        layers = config if isinstance(config, list) else config["layers"]  # a list: early Keras 2
        functional = isinstance(config, dict) and "output_layers" in config
        input_count = sum(layer["class_name"] == "InputLayer" for layer in layers)
        if functional and input_count != 1:
            raise Refused(f"it has not one input but {input_count}")
        ops: dict[str, Op] = {}
        last = source
        for given, (name, inside) in zip(layers, layer_paths(layers, self.legacy), strict=True):
            nodes = given.get("inbound_nodes")
            if nodes and len(nodes) > 1:
                raise Refused(f"its layer {name} is used twice")
            if nodes and any(_changes(nodes[0])):
                raise Refused(f"its layer {name} is called with training=True, or with a mask")
            inputs = [ops[n] for n in _parents(nodes[0])] if nodes else [last]
            if functional and not nodes and given["class_name"] != "InputLayer":
                raise Refused(f"its layer {name} has no input")
            last = ops[name] = self.op(given, name, f"{path}/{inside}".lstrip("/"), inputs)
        if functional:
            names = list(_parents(config["output_layers"]))
            if len(names) != 1:
                raise Refused(f"it has {len(names)} outputs")
            last = ops[names[0]]
        return last

    def op(self, given: Config, name: str, path: str, inputs: list[Op]) -> Op:
        """Return the node of a layer, or of a nested model, with the given inputs."""
        kind, config = given["class_name"], given["config"]
        if kind == "InputLayer":
            return inputs[0]
        if not is_kerass(given):
            raise Refused(f"its layer {name} is a {kind} of {given['module']}, not of Keras")
        if kind in MODELS:
            return self.model(given, inputs[0], path)
        if kind in KERAS and KERAS[kind].kind in JOINS:
            _check_axes(config, name, inputs[0])
            return Op(KERAS[kind].kind, name, inputs=inputs)
        if len(inputs) != 1:
            raise Refused(f"its layer {name} is a {kind}, which is not supported")
        (source,) = inputs
        op = _layer(kind, config, name, source, self.weights(path))
        inside = config.get("activation") if op.weights else None  # of a layer with weights
        return _activation(inside, f"activation of {name}", op)

    def weights(self, path: str) -> KerasLayer | None:
        """Return the layer stored under a path, if there is one."""
        if path in self.layers or not self.legacy:
            return self.layers.get(path)
        # Legacy files leave out the names of models between the outermost model and the layer.
        first, last = path.split("/")[0], path.split("/")[-1]
        similar = [p for p in self.layers if (p.split("/")[0], p.split("/")[-1]) == (first, last)]
        return self.layers[similar[0]] if len(similar) == 1 else None


def _layer(kind: str, config: Config, name: str, source: Op, weights: Any = None) -> Op:
    """Return the node of a layer; layers that change no value have none."""
    _check_axes(config, name, source)
    if kind in PASSING:
        return source
    if row := KERAS.get(kind):
        facts = row.of_keras(config)
        if row.kind in WITH_WEIGHTS:
            if weights is None or weights.kind != row.kind:
                raise Refused(f"it has no weights of a {row.kind} for its layer {name}")
            facts = weights.facts | facts
        check_options(row, f"its layer {name}", config)
        op = layer(row.kind, name, facts, source, weights=weights)
        vector = row.kind == "global average pooling" and not config.get("keepdims")
        return flatten(name, op) if vector else op
    if kind == "Activation":
        return _activation(config["activation"], name, source)
    if kind == "Reshape" and all(n == 1 for n in config["target_shape"][:-1]):
        return flatten(name, source)  # to a vector, or to one pixel
    if kind == "Permute":
        return _permute(config["dims"], name, source)
    if kind == "Rescaling":
        return _rescaling(config["scale"], config.get("offset", 0), name, source)
    raise Refused(f"its layer {name} is a {kind}, which is not supported")


def _permute(dims: list[int], name: str, source: Op) -> Op:
    """Return the node of a permutation, which may only serve to add channels of zeros."""
    if list(dims) == [1, 3, 2]:  # `to_keras` swaps width and channels, pads the width, swaps again
        if source.kind != "padding":
            return Op("permutation", name, inputs=[source])
        (swapped,), (*others, before, after) = source.inputs, source.facts["zeros"]
        if swapped.kind == "permutation" and not any(others):
            zeros = {"zeros": (before, after)}
            return layer("padding of channels", name, zeros, swapped.inputs[0])
    raise Refused(f"its layer {name} permutes the axes of an image")


def _rescaling(scale: Any, offset: Any, name: str, source: Op) -> Op:
    """Return the node of a rescaling of bytes to numbers from 0 to 1, which networks here take."""
    known = isinstance(scale, float | int) and math.isclose(scale, 1 / 255, rel_tol=1e-6)
    if known and offset == 0 and source.kind == "input" and not source.facts:
        return Op("input", name, {"scale": scale})
    raise Refused(
        f"its layer {name} is a Rescaling with scale {scale} and offset {offset}: images go in "
        "as [0, 1] here, so only the scale 1/255, right behind the input, can be left out"
    )


def _activation(given: Any, name: str, source: Op) -> Op:
    """Return the node of an activation, which is given by its name or by a layer's config."""
    if given is None or given == "linear":
        return source
    if isinstance(given, str):
        if given in ACTIVATIONS:
            return layer(given, name, {}, source)
        raise Refused(f"its {name} is a {given}, which is not supported")
    kind, config = given.get("class_name", "lambda"), given.get("config")
    if isinstance(config, str) or not is_kerass(given):
        raise Refused(f"its {name} is {config if isinstance(config, str) else kind}, not of Keras")
    return _layer(kind, config, name, source)


def _check_axes(config: Config, name: str, source: Op) -> None:
    """Check that a layer works along the channels, which are the last axis."""
    if config.get("data_format") == "channels_first":
        raise Refused(f"its layer {name} has its channels first")
    last = source.axes - 1
    if config.get("axis", -1) not in (-1, last, [-1], [last]):
        raise Refused(f"its layer {name} works along axis {config['axis']}, not the last")


def is_kerass(layer: Config) -> bool:
    """Whether a layer is Keras's own, not a class of the user's; Keras 2 does not write which."""
    return str(layer.get("module") or "keras").split(".")[0] in PACKAGES


def _parents(node: Any) -> Iterator[str]:
    """Yield the names of a layer's input layers, from the format of either Keras 2 or Keras 3."""
    if isinstance(node, dict):
        if node.get("class_name") == "__keras_tensor__":
            yield node["config"]["keras_history"][0]
        else:
            for value in node.values():
                yield from _parents(value)
    elif isinstance(node, list):
        if len(node) in (3, 4) and isinstance(node[0], str) and isinstance(node[1], int):
            yield node[0]
        else:
            for value in node:
                yield from _parents(value)


def _changes(node: Any) -> Iterator[Any]:
    """Yield the arguments of a layer's call that change what it computes."""
    rows = [node.get("kwargs")] if isinstance(node, dict) else [row[3:] and row[3] for row in node]
    for options in rows:
        yield from (options[key] for key in ("training", "mask") if options and key in options)


def has_graph(file: KerasFile) -> bool:
    """Return whether a file holds the graph of its layers, not their weights alone."""
    config = file.config
    return config is not None and config.get("class_name") in MODELS and is_kerass(config)


def input_shape(file: KerasFile) -> list[int | None]:
    """Return the shape of a model's input with the batch, or an empty list if it is not known."""
    config = file.config or {}
    shape = (config.get("build_config") or {}).get("input_shape")
    layers = config.get("config")
    layers = layers.get("layers") if isinstance(layers, dict) else layers  # a list: early Keras 2
    if layers:
        first = layers[0]["config"]
        shape = first.get("batch_shape") or first.get("batch_input_shape") or shape
    return shape if isinstance(shape, list) else []
