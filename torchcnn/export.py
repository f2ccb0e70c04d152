"""A trained network for others: `python -m torchcnn.export --checkpoint F --to onnx --out G`."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.files import check_writable, whole
from torchcnn.formats import FORMATS

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
    if not out.parent.is_dir():
        raise ValueError(f"--out {out} cannot be written: {out.parent} is no folder")
    check_writable(out.parent)
    import torch

    from torchcnn.formats.description import Normalized, check
    from torchcnn.models.spec import ModelSpec
    from torchcnn.run.checkpoint import open_checkpoint

    net, content = open_checkpoint(checkpoint)
    spec = content.spec
    if form.computes and spec.is_normalized:  # the file takes images in [0, 1]
        net = Normalized(net, spec).eval()
        zeros = (0.0,) * spec.in_channels
        spec = replace(spec, mean=zeros, std=tuple(x + 1 for x in zeros))
    images = torch.rand(5, *spec.shape, generator=torch.Generator().manual_seed(0))
    with whole(out) as temporary:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the exporters' of their internals
                form.module.write(net, images[:2], spec.to_json(), temporary)
                run, stored = form.module.load(temporary)
                difference = check(net, images, spec, run, ModelSpec.from_json(stored))
        except ImportError as error:
            raise ValueError(
                f"--to {to} needs more: pip install '{form.needs}' ({error})"
            ) from error
        os.umask(mask := os.umask(0))
        temporary.chmod(0o666 & ~mask)  # safetensors makes it unreadable to others
    print(
        f"{out}: {spec.arch} for {to}; loaded again, its logits for batches of 1, 2 and 5 "
        f"images differ by at most {difference:.1e}"
    )


if __name__ == "__main__":
    main()
