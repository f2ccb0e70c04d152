"""A trained network for others: `python -m torchcnn.export --checkpoint F --to onnx --out G`."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.formats import FORMATS
from torchcnn.formats.description import Normalized, check, describe
from torchcnn.run.checkpoint import normalization, open_checkpoint

PROG = "python -m torchcnn.export"


@dataclass(kw_only=True, frozen=True)
class Config:
    """Write the network of a run in a format that others load, and check it by loading it."""

    checkpoint: str = option("a run's best.pt or last.pt", required=True, type=cli.path)
    to: str = option("the format", choices=tuple(FORMATS), required=True)
    out: str = option(
        "the new file: " + ", ".join(f"*{f.suffix}" for f in FORMATS.values()),
        required=True,
        type=cli.path,
    )


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        config = Config(**cli.parse(Config, PROG, argv))
        export(config.checkpoint, config.to, Path(config.out).expanduser())


def export(checkpoint: str, to: str, out: Path) -> None:
    """Load, write, load again and compare; only then does the file `out` appear."""
    form = FORMATS[to]
    if out.suffix != form.suffix:
        raise ValueError(f"--to {to} writes a file *{form.suffix}, got --out {out}")
    if out.exists():
        raise ValueError(f"--out {out} exists already")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise ValueError(f"--out {out} cannot be written: {out.parent} is no writable folder")
    net, content = open_checkpoint(checkpoint)
    spec, normalized = content["model"], normalization(content)
    if form.computes and normalized:
        net, normalized = Normalized(net, normalized).eval(), None
    about = describe(content, "nhwc" if to == "keras" else "nchw", normalized)
    shape = (5, spec["in_channels"], spec["input_size"], spec["input_size"])
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    temporary = out.with_name(f".{out.stem}.{os.getpid()}{out.suffix}")
    try:
        with needs(form.needs, to), quiet():
            form.write(net, images[:2], about, temporary)
            difference = check(net, images, about, *form.load(temporary, spec))
        os.umask(mask := os.umask(0))
        temporary.chmod(0o666 & ~mask)  # safetensors makes it unreadable to others
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    print(
        f"{out}: {spec['arch']} for {to}; loaded again, its logits for batches of 1, 2 and 5 "
        f"images differ by at most {difference:.1e}"
    )


@contextmanager
def needs(package: str, to: str) -> Iterator[None]:
    """Say what to install if an import fails."""
    try:
        yield
    except ImportError as error:
        raise ValueError(f"--to {to} needs more: pip install '{package}' ({error})") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters' warnings of their internals; the result is checked afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    main()
