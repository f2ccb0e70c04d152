"""Read a Keras model's configuration as a reduced graph, without building the model."""

import math
from collections.abc import Iterator
from typing import Any

from torchcnn.keras_io.files import KINDS, Config, KerasFile, KerasLayer, Refused, layer_paths
from torchcnn.keras_io.graphs import (
    Facts,
    Op,
    activation,
    flatten,
    join,
    new_channels,
    padding_name,
    pool_facts,
    pooling,
    through,
    unpadded,
)

# Layers that change no value in inference.
THROUGH = {
    "Identity",
    "Dropout",
    "SpatialDropout2D",
    "GaussianNoise",
    "GaussianDropout",
    "RandomFlip",
    "RandomRotation",
    "RandomTranslation",
    "RandomZoom",
    "RandomContrast",
    "RandomBrightness",
}
# The activations, as layers and, with other capitals, as operations (`keras.ops.relu`).
ACTIVATIONS = {"LeakyReLU", "LeakyRelu", "ELU", "Elu", "Softmax", "Relu", "Sigmoid", "Tanh"}
POOLINGS = {"MaxPooling2D": "max_pool", "AveragePooling2D": "avg_pool"}
GLOBAL = {"GlobalAveragePooling2D": "global_avg", "GlobalMaxPooling2D": "global_max"}
JOINS = {"Add": "add", "Concatenate": "concat"}
MODELS = {"Sequential", "Functional", "Model"}
WITH_WEIGHTS = {"Conv2D": "conv", "Dense": "dense", "BatchNormalization": "norm"}
PACKAGES = {"keras", "tf_keras", "keras_core", "tensorflow"}  # Keras's own, under all its names


class KerasGraph:
    """Reads the configuration of a functional or sequential model as a reduced graph."""

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
        for layer, layer_path in zip(layers, layer_paths(layers, self.legacy), strict=True):
            name = str(layer.get("name") or layer["config"]["name"])
            nodes = layer.get("inbound_nodes")
            if nodes and len(nodes) > 1:
                raise Refused(f"its layer {name} is used twice")
            if nodes and any(_changes(nodes[0])):
                raise Refused(f"its layer {name} is called with training=True, or with a mask")
            inputs = [ops[n] for n in _parents(nodes[0])] if nodes else [last]
            if functional and not nodes and layer["class_name"] != "InputLayer":
                raise Refused(f"its layer {name} has no input")
            last = ops[name] = self.op(layer, name, f"{path}/{layer_path}".lstrip("/"), inputs)
        if functional:
            outputs = config["output_layers"]
            names = [outputs[0]] if isinstance(outputs[0], str) else [o[0] for o in outputs]
            if len(names) != 1:
                raise Refused(f"it has {len(names)} outputs")
            last = ops[names[0]]
        return last

    def op(self, layer: Config, name: str, path: str, inputs: list[Op]) -> Op:
        """Return the node of a layer, or of a nested model, with the given inputs."""
        kind, config = layer["class_name"], layer["config"]
        if kind == "InputLayer":
            return inputs[0]
        if not is_kerass(layer):
            raise Refused(f"its layer {name} is a {kind} of {layer['module']}, not of Keras")
        if kind in MODELS:
            return self.model(layer, inputs[0], path)
        _check_axes(config, name, inputs[0])
        if kind in JOINS and len(inputs) > 1:
            return join(JOINS[kind], name, inputs)
        (source,) = inputs
        if kind == "Permute":
            return self.permute(config["dims"], name, source)
        if kind == "ZeroPadding2D":
            (top, bottom), (left, right) = config["padding"]
            return Op("pad", name, {"zeros": (top, bottom, left, right)}, inputs)
        if kind not in WITH_WEIGHTS:
            return _weightless(kind, config, name, source)
        op = self.op_with_weights(layer, name, path, source)
        return _activation(config.get("activation"), f"activation of {name}", op)

    def op_with_weights(self, layer: Config, name: str, path: str, source: Op) -> Op:
        """Return the node of a convolution, dense layer or batch norm."""
        kind, config = layer["class_name"], layer["config"]
        weights = self.weights(path)
        if weights is None:
            raise Refused(f"it has no weights for its layer {name}")
        shape = weights.weights[0].shape
        if kind == "BatchNormalization":
            facts: Facts = {"features": int(shape[0]), "epsilon": float(config["epsilon"])}
        elif kind == "Dense":
            if source.axes != 2:
                raise Refused(f"its dense layer {name} takes images, not vectors")
            facts = {"kernel": shape, "bias": config["use_bias"]}
        else:
            source, zeros = unpadded(source)
            strides, dilation = _pair(config["strides"]), _pair(config["dilation_rate"])
            padding = padding_name(config["padding"].lower(), shape[:2], strides, dilation, zeros)
            facts = {
                "kernel": shape,
                "bias": config["use_bias"],
                "strides": strides,
                "groups": config.get("groups", 1),
                "dilation": dilation,
                "padding": padding,
            }
        wanted = WITH_WEIGHTS[kind]
        if weights.kind != wanted:
            raise Refused(f"its layer {name} does not have the weights of a {KINDS[wanted]}")
        return Op(wanted, name, facts, [source], weights=weights)

    def permute(self, dims: list[int], name: str, source: Op) -> Op:
        """Return the node of a permutation, which may only serve to add channels of zeros.

        `to_keras` adds them in three steps: swap width and channels, pad the width, swap again.
        """
        if list(dims) == [1, 3, 2] and source.kind != "pad":
            return Op("swapped", name, inputs=[source])
        if list(dims) == [1, 3, 2] and source.inputs[0].kind == "swapped":
            top, bottom, *zeros = source.facts["zeros"]
            if not top and not bottom:
                return new_channels(name, tuple(zeros), source.inputs[0].inputs[0])
        raise Refused(f"its layer {name} permutes the axes of an image")

    def weights(self, path: str) -> KerasLayer | None:
        """Return the layer stored under a path, if there is one.

        Legacy files leave out the names of models that lie between the outermost model and the
        layer, so there it is enough that one layer has the same first and last name.
        """
        if path in self.layers or not self.legacy:
            return self.layers.get(path)
        first, last = path.split("/")[0], path.split("/")[-1]
        similar = [p for p in self.layers if (p.split("/")[0], p.split("/")[-1]) == (first, last)]
        return self.layers[similar[0]] if len(similar) == 1 else None


def _weightless(kind: str, config: Config, name: str, source: Op) -> Op:
    """Return the node of an activation or a pooling; layers that change no value have none."""
    if kind in THROUGH:
        return through(name, source)
    if kind == "Flatten":
        return flatten(name, source)
    if kind == "Reshape" and all(n == 1 for n in config["target_shape"][:-1]):
        # To a vector, or to an image of one pixel.
        vector, axes = flatten(name, source), 1 + len(config["target_shape"])
        return vector if axes == 2 else Op("pixel", name, inputs=[vector], axes=axes)
    if kind in ACTIVATIONS:
        return activation(kind, config, name, source)
    if kind == "Activation":
        return _activation(config["activation"], name, source)
    if kind == "ReLU":
        return _relu(config, name, source)
    if kind in POOLINGS:
        window = _pair(config["pool_size"])
        strides = window if config.get("strides") is None else _pair(config["strides"])
        facts = pool_facts(window, strides, config["padding"].lower())
        return pooling(POOLINGS[kind], name, facts, source)
    if kind in GLOBAL:
        pixel = Op(GLOBAL[kind], name, inputs=[source])
        return pixel if config.get("keepdims") else flatten(name, pixel)
    if kind == "Rescaling":
        scale, offset = config["scale"], config.get("offset", 0)
        known = isinstance(scale, float | int) and math.isclose(scale, 1 / 255, rel_tol=1e-6)
        if known and offset == 0 and source.kind == "input" and not source.facts:
            # Bytes become numbers from 0 to 1, which networks here take.
            return Op("input", name, {"scale": scale}, axes=source.axes)
        raise Refused(
            f"its layer {name} is a Rescaling with scale {scale} and offset {offset}: images go in "
            "as [0, 1] here, so only the scale 1/255, right behind the input, can be left out"
        )
    raise Refused(f"its layer {name} is a {kind}, which is not supported")


def _activation(given: Any, name: str, source: Op) -> Op:
    """Return the node of an activation, which is given by its name or by a layer's config."""
    if given is None or given == "linear":
        return through(name, source)
    if isinstance(given, str):
        return activation(given, {}, name, source)
    kind, config = given.get("class_name", "lambda"), given.get("config")
    if isinstance(config, str) or not is_kerass(given):
        raise Refused(f"its {name} is {config if isinstance(config, str) else kind}, not of Keras")
    _check_axes(config, name, source)
    return _weightless(kind, config, name, source)


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


def _relu(config: Config, name: str, source: Op) -> Op:
    """Return the node of a layer `ReLU`, whose options make other activations of it."""
    most = config.get("max_value")
    slope, threshold = (config.get(key) or 0 for key in ("negative_slope", "threshold"))
    match most, slope, threshold:
        case None, 0, 0:
            return activation("relu", {}, name, source)
        case 6, 0, 0:
            return activation("relu6", {}, name, source)
        case None, _, 0:
            return activation("leaky_relu", {"negative_slope": slope}, name, source)
    raise Refused(
        f"its layer {name} is a ReLU with max_value {most}, negative_slope {slope} and threshold "
        f"{threshold}, which is not supported"
    )


def _pair(value: Any) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


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


def input_shape(file: KerasFile) -> list[int | None]:
    """Return the shape of a Keras model's input, or an empty list if the file does not contain it.

    It has the axis of the batch, too.
    """
    config = file.config or {}
    shape = (config.get("build_config") or {}).get("input_shape")
    layers = config.get("config")
    layers = layers.get("layers") if isinstance(layers, dict) else layers  # a list: early Keras 2
    if layers:
        first = layers[0]["config"]
        shape = first.get("batch_shape") or first.get("batch_input_shape") or shape
    return shape if isinstance(shape, list) else []


def input_channels(file: KerasFile) -> int | None:
    """Return the number of channels of a Keras model's input images, if the file contains it."""
    shape = input_shape(file)
    return int(shape[3]) if len(shape) == 4 and shape[3] else None
