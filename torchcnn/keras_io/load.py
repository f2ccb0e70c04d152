"""Load weights from a Keras model or from a file that Keras wrote."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchcnn.keras_io.configs import has_graph, input_shape
from torchcnn.keras_io.files import Refused, open_keras
from torchcnn.keras_io.match import match
from torchcnn.keras_io.networks import keras_views, torch_ops
from torchcnn.models.analysis import layer_graph


def load_keras_weights(net: nn.Module, source: Any) -> None:
    """Load the weights of a Keras model into a network, in place.

    If the source has a graph (functional and sequential models), it must equal that of the network,
    with all options of the layers; what is not known to be equal is refused. Dropout is not
    compared, and the terms of a sum may stand in either order. A softmax or sigmoid at the end of
    the Keras model is left out, because networks here return logits, and so is a `Rescaling` of its
    input by 1/255, because images here go in as [0, 1].

    Sources without a graph (subclassed models, files of weights) are matched by the order in which
    their layers were created and are listed, and refused if that is ambiguous; a warning says that
    activations and poolings were not compared. The input of a dense layer that follows the image
    directly is taken for a square image of 1 or 3 channels, unless the file gives its shape. No
    code in a file is executed. Weights of another floating-point dtype are converted.

    Args:
        source: a Keras model, or the path of a `.keras`, `.weights.h5` or legacy `.h5` file.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is damaged or holds another network; the message names the first
            layer that differs and how. The network is then left unchanged.
    """
    graph = layer_graph(net)
    name = str(source) if isinstance(source, str | Path) else f"the {type(source).__name__}"
    try:
        with open_keras(source, sum(p.numel() for p in net.parameters())) as file:
            output = torch_ops(net, graph)
            pairs, compared = match(net, output, file), has_graph(file)
            shape = input_shape(file)
            views = keras_views(net, output, shape[3] if len(shape) == 4 else None)
            new = [
                (view, _values(array, key, view, layer.path))
                for torch_name, layer in pairs.items()
                for (key, view), array in zip(views[torch_name].items(), layer.weights, strict=True)
            ]
    except FileNotFoundError:
        raise
    except Refused as error:
        raise ValueError(f"{name} cannot be loaded: {str(error)[:1000]}") from error
    except Exception as error:  # a damaged or hostile file can make h5py and json raise anything
        cause = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        known = isinstance(source, str | Path)
        problem = "is damaged, or not a file of Keras" if known else "cannot be read: is it built?"
        raise ValueError(f"{name} {problem} ({cause})") from error
    if not compared:
        warnings.warn(
            f"activations and poolings were not compared: {name} has no graph", stacklevel=2
        )
    for view, values in new:
        view.copy_(values)


def _values(array: Any, key: str, view: Tensor, path: str) -> Tensor:
    """Read an array from a file after checking its shape and dtype."""
    shape = (math.prod(view.shape[:2]), view.shape[2]) if view.dim() == 3 else tuple(view.shape)
    if array.shape != shape:
        raise Refused(f"its {path} has a {key} of the shape {array.shape}, allowed is {shape}")
    if array.dtype == np.dtype("V2"):  # two bytes of no type: bfloat16, which HDF5 does not have
        return torch.from_numpy(array[()].view(np.int16)).view(torch.bfloat16).view(view.shape)
    if array.dtype.kind != "f":
        raise Refused(f"its {path} has a {key} of {array.dtype}, not of a floating-point dtype")
    return torch.from_numpy(array[()]).view(view.shape)
