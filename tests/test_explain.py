"""`python -m torchcnn.explain`: which files it draws, what is in them, and what is refused."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import describe, write_checkpoint
from torch import nn

from torchcnn import explain
from torchcnn.explain import main
from torchcnn.figures.inside import (
    NOISE,
    heat_map,
    is_structured,
    plot_attention,
    plot_features,
    plot_filters,
)
from torchcnn.looks import SAID
from torchcnn.models.attention import CAM, GRAD_CAM

CLASSES = ["cat", "dog", "$x^2$"]


def write_run(folder, arch="lenet", channels=1, size=28, change=lambda net: None, **options):
    """A run folder whose network has new weights; its images are normalized by 0.5 and 0.25."""
    torch.manual_seed(3)
    options |= {"mean": (0.5,) * channels, "std": (0.25,) * channels}
    net = describe(arch, CLASSES, in_channels=channels, input_size=size, **options).build()
    change(net)
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(folder / "best.pt", net)
    return net.eval()


def write_picture(path, size=28, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def look(run, *argv, out):
    main(["--checkpoint", str(run), *map(str, argv), "--out", str(out)])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def heading(figure):
    """The lines above a figure: of its own, or of a sheet, which is one pair of axes."""
    return [text.get_text() for text in figure.texts or figure.axes[0].texts][:2]


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, by the names of their files, in place of the files."""
    drawn = {}
    monkeypatch.setattr(explain, "save_figure", lambda figure, path: drawn.update(
        {path.name: figure}))  # fmt: skip
    return drawn


def test_it_draws_three_kinds_of_figures_which_tensorboard_has_too(tmp_path, capsys):
    """The events of an earlier look are replaced, and no others."""
    write_run(tmp_path / "run")
    picture, out = write_picture(tmp_path / "a.png"), tmp_path / "out"
    out.mkdir()
    (out / "events.out.tfevents.1.of.a.run").write_bytes(b"")
    (out / "events.out.tfevents.2.explain").write_bytes(b"")
    look(tmp_path / "run", picture, "--tensorboard", out=out)
    printed = capsys.readouterr()
    assert printed.out == f"{out} has filters.png and a-features.png and a-attention.png\n"
    assert printed.err.endswith("best.pt, epoch 0\n")
    drawn = ["a-attention.png", "a-features.png", "filters.png"]
    for name in drawn:
        with Image.open(out / name) as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 20
    (events,) = out.glob("*.explain")
    assert names(out) == [*drawn[:2], "events.out.tfevents.1.of.a.run", events.name, drawn[2]]
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(events)).Reload().Tags()["images"]
    assert sorted(found) == [name.removesuffix(".png") for name in drawn]


@pytest.mark.parametrize(
    ("arch", "size", "said", "stages"),
    [
        ("lenet", 28, f"{SAID[GRAD_CAM]} (stage2.2, 8×8)",
         ["stage1: 6×12×12, channels ", "stage2: 16×4×4, channels "]),
        ("resnet20", 16, f"{SAID[CAM]} (stage3.2, 4×4)",
         ["stem: 16×16×16, channels ", "stage1: 16×16×16, channels ",
          "stage2: 32×8×8, channels ", "stage3: 64×4×4, channels "]),
        ("mlp", 16, "gradient × input, since the network has no convolutions", None),
    ],
)  # fmt: skip
def test_what_the_titles_say(arch, size, said, stages, tmp_path, figures, capsys):
    """The class and its probability are those of the network itself."""
    net = write_run(tmp_path, arch, 3, size)
    picture = write_picture(tmp_path / "pictures" / "a.png", size)
    look(tmp_path, picture.parent, out=tmp_path)
    pixels = torch.from_numpy(np.array(Image.open(picture))).permute(2, 0, 1)[None]
    with torch.no_grad():
        probabilities = net((pixels / 255 - 0.5) / 0.25).softmax(1)[0]
    best = int(probabilities.argmax())
    first, second = heading(figures["a-attention.png"])
    assert first == f"a.png: {CLASSES[best]} {float(probabilities[best]):.1%}"
    assert second.removesuffix(": 0 everywhere") == said
    assert "filters.png" in figures
    if stages is None:
        assert "a-features.png" not in figures
        assert "no stage returns feature maps" in capsys.readouterr().err
    else:
        shown, *found = titles(figures["a-features.png"])
        assert shown == f"input: 3×{size}×{size}"
        assert all(t.startswith(s) for t, s in zip(found, stages, strict=True))


def test_another_class_may_be_asked_for_or_all(tmp_path, figures):
    """The classes have the same probabilities one by one as side by side, the highest first."""
    write_run(tmp_path)
    picture, alone = write_picture(tmp_path / "a.png"), []
    for name in CLASSES:
        look(tmp_path, picture, "--target", name, out=tmp_path)
        alone += titles(figures["a-attention.png"])[1:]
    shares = [float(text.rsplit(" ", 1)[1].rstrip("%")) for text in alone]
    assert [text.rsplit(" ", 1)[0] for text in alone] == [f"evidence for {c}" for c in CLASSES]
    assert abs(sum(shares) - 100) < 0.2
    look(tmp_path, picture, "--classes", 9, out=tmp_path)
    order = sorted(range(3), key=lambda i: -shares[i])
    assert titles(figures["a-attention.png"]) == ["the picture", *(alone[i] for i in order)]


def test_a_stage_may_be_asked_for(tmp_path, figures):
    write_run(tmp_path, "resnet20", 3, 16)
    look(tmp_path, write_picture(tmp_path / "a.png"), "--layer", "stage2", out=tmp_path)
    assert heading(figures["a-attention.png"])[1] == f"{SAID[GRAD_CAM]} (stage2, 8×8)"


def test_a_map_that_is_0_everywhere_says_so(tmp_path, figures):
    """A network that answers with its biases alone looks nowhere."""
    write_run(tmp_path, change=lambda net: nn.init.zeros_(net.head[7].weight))
    look(tmp_path, write_picture(tmp_path / "a.png"), out=tmp_path)
    assert heading(figures["a-attention.png"])[1].endswith("(stage2.2, 8×8): 0 everywhere")


def test_several_pictures_share_a_sheet_that_says_which_answers_are_wrong(
    tmp_path, figures, capsys
):
    """A network that says `cat` of all: one of two is right, and nobody knows of the third."""
    run, out = tmp_path / "run", tmp_path / "o"
    write_run(run, change=lambda net: net.head[7].bias.data.copy_(torch.tensor([99.0, 0, 0])))
    paths = [write_picture(tmp_path / name) for name in ("cat/1.png", "dog/1.png", "new/1.png")]
    look(run, *paths, out=out)
    assert capsys.readouterr().out == f"{out} has filters.png and attention.png\n"
    assert list(figures) == ["filters.png", "attention.png"]
    axes = figures["attention.png"].axes[0]
    first, _, *lines = [text.get_text() for text in axes.texts]
    assert first == "3 pictures, 1 of 2 right"
    del lines[-1], lines[6], lines[2]  # the ranges of the maps
    assert lines == ["✓ cat 100.0%", "1.png", "✗ cat 100.0%", "true: dog", "1.png", "cat 100.0%",
                     "1.png"]  # fmt: skip
    assert len(axes.images) == 3 and len(axes.patches) == 1  # the frame of what is wrong
    look(run, *paths, "--classes", 3, out=out)
    assert len(figures["attention.png"].axes[0].images) == 9
    look(run, paths[0], out=out)
    assert heading(figures["1-attention.png"])[0] == "1.png: ✓ cat 100.0%"


def test_the_pictures_of_the_weights():
    """An image of tiles: its pixels are the weights, on a scale that is symmetric about 0."""
    weights = torch.tensor([[[[1.0, -2.0], [0.5, 0.0]]]])
    figure = plot_filters(weights.expand(3, 1, 2, 2), "w")
    (image,) = figure.axes[0].images
    assert image.get_clim() == (-2.0, 2.0)
    assert titles(figure)[0].startswith("w: 3 × 2×2\none channel")
    grid = image.get_array()  # 2 columns and 2 rows, a pixel between them; one tile is missing
    assert grid.shape == (5, 5) and (grid[3:, :2] == weights[0, 0].numpy()).all()
    assert np.ma.getmaskarray(grid)[2].all() and np.ma.getmaskarray(grid)[3:, 3:].all()
    colour = torch.tensor([4.0, 0.0, -4.0]).view(1, 3, 1, 1)
    (image,) = plot_filters(colour, "w").axes[0].images
    assert image.get_array()[0, 0].tolist() == [1.0, 0.5, 0.0]


def test_weights_without_structure_are_said_to_have_none():
    """A new network's, and the same ones blurred: the mean of two neighbours correlates by 1/2."""
    new = torch.randn(16, 1, 8, 9)
    blurred = (new[..., 1:] + new[..., :-1]) / 2
    assert titles(plot_filters(new, "w"))[0].endswith(NOISE)
    assert is_structured(blurred) and is_structured(new[..., :1, :1])  # of one pixel nobody knows


def test_the_picture_of_the_features_has_the_strongest_first():
    maps = torch.arange(10.0).view(1, 10, 1, 1).expand(1, 10, 2, 2)
    outputs = {"stage1": maps, "few": maps[:, :1], "pool": maps[..., :1, :1]}
    figure = plot_features(torch.zeros(1, 4, 4, dtype=torch.uint8), outputs, "a.png")
    assert titles(figure) == ["input: 1×4×4", "stage1: 10×2×2, channels 9, 8, 7, 6, 5, 4, 3, 2",
                              "few: 1×2×2, channels 0"]  # fmt: skip
    grid = figure.axes[1].images[0].get_array()
    assert grid[0, ::3].tolist() == [9, 8, 7, 6, 5, 4, 3, 2]


def test_the_picture_of_the_attention_has_the_numbers():
    photo, heat = torch.zeros(1, 4, 4, dtype=torch.uint8), torch.tensor([[-1.5, 4.0], [0.0, 4.0]])
    figure = plot_attention(photo, {"t": heat, "nothing": heat * 0}, "a\nb")
    assert heading(figure) == ["a", "b"] and titles(figure) == ["the picture", "t", "nothing"]
    ticks = [[label.get_text() for label in axes.get_xticklabels()] for axes in figure.axes]
    assert ["−1.5", "0", "4"] in ticks


def test_a_heat_map_is_transparent_where_nothing_counts():
    """On a gray of 100, from left to right: against the class, nothing, a little for it, most."""
    photo = torch.full((3, 8, 40), 100, dtype=torch.uint8)
    heat = torch.tensor([[-4.0, -4, 0, 0, 0, 0, 1, 1, 4, 4]])
    shown = heat_map(photo, heat)
    assert shown.shape == (3, 64, 320)  # a small photo is enlarged
    against, nothing, little, most = (shown[:, 32, 8 * i].tolist() for i in (1, 14, 27, 38))
    assert nothing == [100, 100, 100]
    assert against[2] > against[0] and min(most[:2]) > most[2] + 50  # blue, and yellow
    assert 0 < max(abs(x - 100) for x in little) < 50 < max(abs(x - 100) for x in most)
    assert torch.equal(heat_map(photo, heat * 1e-6), heat_map(photo, heat))  # by its own range
    high = heat_map(photo, heat + 9)  # from 5 to 13: 5 is transparent
    assert [high[:, 32, 8 * i].tolist() for i in (1, 38)] == [nothing, most]


@pytest.mark.parametrize(
    ("size", "resize", "shape", "columns", "rows"),
    [
        # Of 28 pixels that are cropped from 32 the network sees 7/8 of the height, 140 pixels.
        ((320, 160), "crop-256", (160, 320), [90, 229], [10, 149]),
        ((4000, 2), "crop", (1, 1000), [500, 500], [0, 0]),  # a large photo is drawn smaller
        ((1, 3000), "crop", (1000, 1), [0, 0], [500, 500]),
    ],
)
def test_the_map_lies_where_the_network_saw(size, resize, shape, columns, rows, tmp_path, figures):
    """The rest of the photo is dim."""
    write_run(tmp_path, resize=resize)
    Image.new("L", size, 200).save(tmp_path / "a.png")
    look(tmp_path, tmp_path / "a.png", out=tmp_path)
    shown = figures["a-attention.png"].axes[1].images[0].get_array()
    assert shown.shape == (*shape, 3)
    seen = (np.asarray(shown) != 60).any(2)  # 0.3 · 200
    assert np.flatnonzero(seen.any(0))[[0, -1]].tolist() == columns
    assert np.flatnonzero(seen.any(1))[[0, -1]].tolist() == rows


def test_what_is_refused_leaves_nothing(tmp_path, refused):
    """Those of both networks and of missing pictures are shared with `torchcnn.predict`."""
    run, picture = tmp_path / "run", write_picture(tmp_path / "a.png")
    write_run(run)
    for message, *flags in (
        ("required: FILE",),
        ("either --checkpoint or --arch", "--arch", "lenet", picture),
        ("there are no pictures in", run),
        ("got cow, allowed are cat, dog, $x^2$", picture, "--target", "cow"),
        ("--target or --classes", picture, "--target", "cat", "--classes", 2),
        ("allowed are stage1, stage2", picture, picture, "--layer", "stage3"),
    ):
        assert message in refused(main, "--checkpoint", run, "--out", tmp_path / "new", *flags)
    line = refused(main, "--checkpoint", run, picture, "--out", picture / "below")
    assert "a.png is no writable folder" in line


def test_what_cannot_be_read_is_listed_after_the_others_are_drawn(tmp_path, capsys):
    write_run(tmp_path / "run")
    pictures = [write_picture(tmp_path / name) for name in ("a.png", "c.png")]
    with pytest.raises(SystemExit) as stop:
        look(tmp_path / "run", tmp_path / "gone.png", *pictures, out=tmp_path / "out")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert f"there is no picture {tmp_path / 'gone.png'}" in error
    assert names(tmp_path / "out") == ["attention.png", "filters.png"]


def test_a_figure_does_not_overwrite_a_picture(tmp_path, refused):
    write_run(tmp_path / "run")
    write_picture(tmp_path / "p" / "a.png")
    before = write_picture(tmp_path / "p" / "attention.png").read_bytes()
    line = refused(main, "--checkpoint", tmp_path / "run", tmp_path / "p", "--out", tmp_path / "p")
    assert "attention.png is one of the pictures, and would be overwritten" in line
    assert (tmp_path / "p" / "attention.png").read_bytes() == before


def test_a_network_that_computes_nan_is_refused(tmp_path, refused):
    run, picture = tmp_path / "run", write_picture(tmp_path / "a.png")
    write_run(run, change=lambda net: net.head[7].bias.data.fill_(float("nan")))
    line = refused(main, "--checkpoint", run, picture, "--out", tmp_path / "out")
    assert "computes NaN" in line
