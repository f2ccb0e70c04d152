"""A trained network for others: `python -m torchcnn.export --checkpoint F --to onnx --out G`."""

import json
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.keras_io import to_keras
from torchcnn.models.registry import build_model
from torchcnn.run.checkpoint import open_checkpoint

PROG = "python -m torchcnn.export"
KEY = "torchcnn"  # under which every format keeps what is needed to use the network
TOLERANCE = 1e-5  # of what is loaded again, per unit of the largest logit
Run = Callable[[Tensor], Tensor]  # images (n, c, h, w) -> logits (n, num_classes)


class Format(NamedTuple):
    suffix: str
    needs: str  # what to install
    write: Callable[[nn.Module, Tensor, dict[str, Any], Path], None]
    load: Callable[[Path, dict[str, Any]], tuple[Run, dict[str, Any]]]  # with what the file says


# --- the formats: how each is written, and how its users load it ---------------------------------


def write_keras(net: nn.Module, example: Tensor, about: dict[str, Any], path: Path) -> None:
    _, c, h, w = example.shape
    to_keras(net, (c, h, w)).save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{KEY}.json", json.dumps(about))


def load_keras(path: Path, model: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    import keras

    net = keras.models.load_model(path)

    def run(x: Tensor) -> Tensor:
        y = net(x.permute(0, 2, 3, 1).numpy(), training=False)
        return torch.tensor(keras.ops.convert_to_numpy(y))

    with zipfile.ZipFile(path) as archive:
        return run, json.loads(archive.read(f"{KEY}.json"))


def write_onnx(net: nn.Module, example: Tensor, about: dict[str, Any], path: Path) -> None:
    import onnx  # noqa: F401  what torch's exporter needs
    import onnxscript  # noqa: F401

    program = torch.onnx.export(
        net, (example,), dynamo=True, dynamic_shapes=BATCH, verbose=False,
        input_names=["images"], output_names=["logits"],
    )  # fmt: skip
    assert program is not None
    program.model.metadata_props[KEY] = json.dumps(about)
    program.save(path)


def load_onnx(path: Path, model: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
    return lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), about


def write_torch_export(net: nn.Module, example: Tensor, about: dict[str, Any], path: Path) -> None:
    program = torch.export.export(net, (example,), dynamic_shapes=BATCH)
    torch.export.save(program, path, extra_files={f"{KEY}.json": json.dumps(about)})


def load_torch_export(path: Path, model: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    files = {f"{KEY}.json": ""}
    return torch.export.load(path, extra_files=files).module(), json.loads(files[f"{KEY}.json"])


def write_safetensors(net: nn.Module, example: Tensor, about: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(net.state_dict(), path, {KEY: json.dumps(about)})


def load_safetensors(path: Path, model: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    from safetensors import safe_open
    from safetensors.torch import load_file

    net = build_model(**model).eval()
    net.load_state_dict(load_file(path))
    with safe_open(path, framework="pt") as file:
        return net, json.loads(file.metadata()[KEY])


BATCH = ({0: torch.export.Dim("batch")},)
FORMATS = {
    "keras": Format(".keras", "torchcnn[keras]", write_keras, load_keras),
    "onnx": Format(".onnx", "torchcnn[onnx]", write_onnx, load_onnx),
    "torch-export": Format(".pt2", "", write_torch_export, load_torch_export),
    "safetensors": Format(".safetensors", "safetensors", write_safetensors, load_safetensors),
}


# --- the command --------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Config:
    """Write the network of a run in a format that others load, and check it by loading it."""

    checkpoint: str = option("a run's best.pt or last.pt", required=True)
    to: str = option("the format", choices=tuple(FORMATS), required=True)
    out: str = option("the new file: " + ", ".join(f"*{f.suffix}" for f in FORMATS.values()),
                      required=True)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        config = Config(**cli.parse(Config, PROG, argv))
        export(config.checkpoint, config.to, Path(config.out).expanduser())


def export(checkpoint: str, to: str, out: Path) -> None:
    """Load, write, load again, compare; only then does `out` appear."""
    form = FORMATS[to]
    if out.suffix != form.suffix:
        raise ValueError(f"--to {to} writes a file *{form.suffix}, got --out {out}")
    if out.exists():
        raise ValueError(f"--out {out} exists already")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise ValueError(f"--out {out} cannot be written: {out.parent} is no writable folder")
    net, content = open_checkpoint(checkpoint)
    model = content["model"]
    about = describe(content, "nhwc" if to == "keras" else "nchw")
    torch.manual_seed(0)
    images = torch.rand(5, model["in_channels"], model["input_size"], model["input_size"])
    temporary = out.with_name(f".{out.stem}.{os.getpid()}{out.suffix}")
    try:
        with needs(form.needs, to), quiet():
            form.write(net, images[:2], about, temporary)
            difference = check(net, images, about, *form.load(temporary, model))
        os.umask(mask := os.umask(0))
        temporary.chmod(0o666 & ~mask)  # safetensors makes it unreadable to others
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"{out}: {model['arch']} for {to}; loaded again, its logits for batches of 1, 2 and 5 "
          f"images differ by at most {difference:.1e}")  # fmt: skip


def describe(content: dict[str, Any], layout: str) -> dict[str, Any]:
    """What is needed to use a network: the images it takes, and what its outputs are called."""
    model = content["model"]
    channels, size = model["in_channels"], model["input_size"]
    return {
        "arch": model["arch"], "classes": content["classes"], "outputs": "logits",
        "input": {"layout": layout, "channels": channels, "height": size, "width": size,
                  "range": [0.0, 1.0]},
        # Runs train on [0, 1] as it is: (x - mean) / std with these changes nothing.
        "mean": [0.0] * channels, "std": [1.0] * channels,
        "model": model,
    }  # fmt: skip


@torch.no_grad()
def check(
    net: nn.Module, images: Tensor, about: dict[str, Any], run: Run, read: dict[str, Any]
) -> float:
    """The largest difference between a network and what was loaded of it.

    Raises:
        RuntimeError: it is too large, or what describes the network did not arrive.
    """
    if read != json.loads(json.dumps(about)):
        raise RuntimeError("what the file says of the network is not what was written")
    largest = 0.0
    for n in (1, 2, 5):
        y, theirs = net(images[:n]), run(images[:n])
        difference = float((y - theirs).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(y.abs().max())):
            raise RuntimeError(f"the file's logits for {n} images differ by {difference:.1e}")
        largest = max(largest, difference)
    return largest


@contextmanager
def needs(package: str, to: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ValueError(f"--to {to} needs more: pip install '{package}' ({error})") from error


@contextmanager
def quiet() -> Iterator[None]:
    """The exporters warn of their own insides; what matters is checked afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    main()
