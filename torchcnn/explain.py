"""A look inside a trained network: `python -m torchcnn.explain --checkpoint RUN FILES… --out D`."""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.figures.draw import save_figure
from torchcnn.files import check_writable
from torchcnn.names import LANGUAGES
from torchcnn.pictures import PicturesAndNetwork, try_each

PROG = "python -m torchcnn.explain"


@dataclass(kw_only=True, frozen=True)
class Config(PicturesAndNetwork):
    """Draw what a network looks at.

    The folder gets filters.png with the weights of the first layer. A picture has NAME-features.png
    with the feature maps of each stage, and NAME-attention.png with the part of the picture that
    speaks for its class; several pictures have one attention.png. That is the class activation map
    (arXiv:1512.04150) of networks that end in a global mean, and Grad-CAM (arXiv:1610.02391) of
    other ones. If the name of a picture's folder is a class, the answer is said to be right or not.
    """

    out: str = option("the folder to draw into; it is made if need be", default="", type=cli.path)
    html: str = option(
        "in place of figures: write a page with every number of the network for one picture, what "
        "it sees, and how it is computed; a browser opens this .html without a connection",
        default="",
        type=cli.path,
    )
    language: str = option("of the page", default="en", choices=LANGUAGES)
    target: str = option(
        "the class whose evidence is shown (the most probable one if not given)",
        default="",
        metavar="CLASS",
    )
    classes: int = option(
        "show the maps of so many of the most probable classes side by side",
        default=1,
        metavar="N",
        type=cli.at_least_one,
    )
    layer: str = option(
        "show Grad-CAM at this stage or layer of the summary (the network decides if not given)",
        default="",
        metavar="NAME",
    )
    tensorboard: bool = option(
        "write the figures as images of TensorBoard as well", default=False, action="store_true"
    )


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        explain(Config(**cli.parse(Config, PROG, argv)))


def explain(config: Config) -> None:
    """Look at all pictures that can be read; those that cannot are an error at the end."""
    if bool(config.out) == bool(config.html):
        raise ValueError("required: --out for a folder of figures, or --html for a page")
    if config.html:
        return write_page(config)
    import torch

    from torchcnn.data.decode import find_pictures
    from torchcnn.looks import find_class, look, plan
    from torchcnn.models.attention import attention, is_map, stage_outputs
    from torchcnn.run.tensorboard import writing_events

    out = Path(config.out).expanduser()
    check_writable(out)
    net, note = config.open_network()
    target = find_class(net.spec.classes, config.target, config.classes)
    outputs = stage_outputs(net, torch.zeros(1, *net.spec.shape))
    if config.layer:  # before any picture
        attention(net, torch.zeros(1, *net.spec.shape), 0, config.layer)
    files = find_pictures(config.files)
    looks, unread = try_each(
        files, lambda file: look(net, file, target, config.layer, config.classes)
    )
    if not looks:
        cli.refuse(PROG, unread)
    figures = plan(net, looks, has_maps=any(map(is_map, outputs.values())))
    pictures = {Path(file).expanduser().resolve() for file in files}
    if hit := [name for name in figures if (out / name).resolve() in pictures]:
        raise ValueError(f"--out {out}: {hit[0]} is one of the pictures, and would be overwritten")
    out.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), writing_events(out, config.tensorboard) as add_event:
        warnings.filterwarnings("ignore", r"Glyph \d+ ")  # of characters that no font has
        for name, draw in figures.items():
            save_figure(draw(), out / name)
            add_event(name.removesuffix(".png"), out / name)
    print(f"{out} has {' and '.join(figures)}")
    cli.refuse(PROG, unread)
    print(f"by {note}", file=sys.stderr)


def write_page(config: Config) -> None:
    """Write the page on which one walks through the network, for one picture."""
    from torchcnn.data.decode import find_pictures
    from torchcnn.figures.walk import walk
    from torchcnn.looks import read_square

    page, files = Path(config.html).expanduser(), find_pictures(config.files)
    if page.suffix != ".html" or len(files) != 1:
        raise ValueError(f"--html takes one .html and one picture, got {page} and {len(files)}")
    check_writable(page.parent, "--html")
    net, note = config.open_network()
    image = read_square(net.spec, files[0])
    walk(net, image, title=Path(files[0]).name, language=config.language).save(page)
    print(f"{page} is written: by {note}")


if __name__ == "__main__":
    main()
