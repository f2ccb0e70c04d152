"""`python -m torchcnn.explain`: which files it draws, what is in them, and what is refused."""

import shutil
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import describe, write_checkpoint

from torchcnn import explain
from torchcnn.explain import main
from torchcnn.figures.inside import heat_map, plot_attention, plot_features, plot_filters
from torchcnn.looks import SAID
from torchcnn.models.attention import CAM, GRAD_CAM

CLASSES = ["cat", "dog", "$x^2$"]


def write_run(folder, arch="lenet", channels=1, size=28, **options):
    """A run folder whose network has new weights; its images are normalized by 0.5 and 0.25."""
    torch.manual_seed(3)
    options |= {"mean": (0.5,) * channels, "std": (0.25,) * channels}
    spec = describe(arch, CLASSES, in_channels=channels, input_size=size, **options)
    net = spec.build()
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(folder / "best.pt", net)
    return net.eval()


def write_picture(path, size=28, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


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


def test_it_draws_three_kinds_of_figures(tmp_path, capsys):
    write_run(tmp_path / "run")
    picture, out = write_picture(tmp_path / "a.png"), tmp_path / "new" / "out"
    main(["--checkpoint", str(tmp_path / "run"), str(picture), "--out", str(out)])
    assert names(out) == ["a-attention.png", "a-features.png", "filters.png"]
    printed = capsys.readouterr()
    assert printed.out == f"{out} has filters.png and a-features.png and a-attention.png\n"
    assert printed.err.endswith("best.pt, epoch 0\n")
    for path in out.iterdir():
        with Image.open(path) as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 20


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
    main(["--checkpoint", str(tmp_path), str(picture.parent), "--out", str(tmp_path)])
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
    call = ["--checkpoint", str(tmp_path), str(write_picture(tmp_path / "a.png")), "--out",
            str(tmp_path)]  # fmt: skip
    alone = []
    for name in CLASSES:
        main([*call, "--target", name])
        alone += titles(figures["a-attention.png"])[1:]
    shares = [float(text.rsplit(" ", 1)[1].rstrip("%")) for text in alone]
    assert [text.rsplit(" ", 1)[0] for text in alone] == [f"evidence for {c}" for c in CLASSES]
    assert abs(sum(shares) - 100) < 0.2
    main([*call, "--classes", "9"])
    order = sorted(range(3), key=lambda i: -shares[i])
    assert titles(figures["a-attention.png"]) == ["the picture", *(alone[i] for i in order)]


def test_a_stage_may_be_asked_for(tmp_path, figures):
    write_run(tmp_path, "resnet20", 3, 16)
    picture = str(write_picture(tmp_path / "a.png"))
    main(["--checkpoint", str(tmp_path), picture, "--out", str(tmp_path), "--layer", "stage2"])
    assert heading(figures["a-attention.png"])[1].startswith("Grad-CAM, ")
    assert "(stage2, 8×8)" in heading(figures["a-attention.png"])[1]


def test_a_map_that_is_0_everywhere_says_so(tmp_path, figures):
    """A network that answers with its biases alone looks nowhere."""
    write_run(tmp_path)
    content = torch.load(tmp_path / "best.pt", weights_only=True)
    content["weights"]["head.7.weight"].zero_()
    torch.save(content, tmp_path / "best.pt")
    picture = write_picture(tmp_path / "a.png")
    main(["--checkpoint", str(tmp_path), str(picture), "--out", str(tmp_path)])
    assert heading(figures["a-attention.png"])[1].endswith("(stage2.2, 8×8): 0 everywhere")


def test_several_pictures_share_a_sheet_that_says_which_answers_are_wrong(
    tmp_path, figures, capsys
):
    """A network that says `cat` of all: one of two is right, and nobody knows of the third."""
    write_run(tmp_path / "run")
    content = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    content["weights"]["head.7.bias"].copy_(torch.tensor([99.0, 0.0, 0.0]))
    torch.save(content, tmp_path / "run" / "best.pt")
    paths = [write_picture(tmp_path / name) for name in ("cat/1.png", "dog/1.png", "new/1.png")]
    call = ["--checkpoint", str(tmp_path / "run"), *map(str, paths), "--out", str(tmp_path / "o")]
    main(call)
    assert capsys.readouterr().out == f"{tmp_path / 'o'} has filters.png and attention.png\n"
    assert list(figures) == ["filters.png", "attention.png"]
    axes = figures["attention.png"].axes[0]
    first, _, *lines = [text.get_text() for text in axes.texts]
    assert first == "3 pictures, 1 of 2 right"
    tiles = [lines[:3], lines[3:7], lines[7:]]
    said = (
        ["✓ cat 100.0%", "1.png"],
        ["✗ cat 100.0%", "true: dog", "1.png"],
        ["cat 100.0%", "1.png"],
    )
    assert [tile[:-1] for tile in tiles] == [*said]  # and the range of the map
    assert len(axes.images) == 3 and len(axes.patches) == 1  # the frame of what is wrong
    main([*call, "--classes", "3"])
    assert len(figures["attention.png"].axes[0].images) == 9
    main([*call[:3], "--out", str(tmp_path / "o")])
    assert heading(figures["1-attention.png"])[0] == "1.png: ✓ cat 100.0%"


def test_tensorboard_has_the_same_figures_once(tmp_path):
    write_run(tmp_path / "run", size=16)
    picture, out = write_picture(tmp_path / "a.png"), tmp_path / "out"
    out.mkdir()
    (out / "events.out.tfevents.1.of.a.run").write_bytes(b"")
    argv = ["--checkpoint", str(tmp_path / "run"), str(picture), "--out", str(out)]
    for _ in range(2):
        main([*argv, "--tensorboard"])
    events = [name for name in names(out) if "tfevents" in name]
    assert len(events) == 2 and "events.out.tfevents.1.of.a.run" in events
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (path,) = out.glob("*.explain")
    found = EventAccumulator(str(path)).Reload()
    assert sorted(found.Tags()["images"]) == ["a-attention", "a-features", "filters"]


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
    assert "no structure" in titles(plot_filters(new, "w"))[0]
    assert "no structure" not in titles(plot_filters(blurred, "w"))[0]
    assert "no structure" not in titles(plot_filters(new[..., :1, :1], "w"))[0]  # nobody knows


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
    assert (
        high[:, 32, 8].tolist() == [100, 100, 100] and (high[:, 32, 304] == shown[:, 32, 304]).all()
    )


def test_the_map_lies_where_the_network_saw(tmp_path, figures):
    """Of 28 pixels that are cropped from 32 the network sees 7/8 of the height of a photo, which is
    wide: 140 of 160 rows, and as many columns of 320. The rest is dim.
    """
    write_run(tmp_path, resize="crop-256")
    path = tmp_path / "a.png"
    Image.new("L", (320, 160), 200).save(path)
    main(["--checkpoint", str(tmp_path), str(path), "--out", str(tmp_path)])
    shown = figures["a-attention.png"].axes[1].images[0].get_array()
    assert shown.shape == (160, 320, 3)
    seen = (np.asarray(shown) != 60).any(2)  # 0.3 · 200
    assert np.flatnonzero(seen.any(0))[[0, -1]].tolist() == [90, 229]
    assert np.flatnonzero(seen.any(1))[[0, -1]].tolist() == [10, 149]


@pytest.mark.parametrize("size", [(4000, 2), (1, 3000)])
def test_of_a_thin_photo_that_is_cropped_a_pixel_is_seen(size, tmp_path, figures):
    """Of 1,000 pixels that are drawn, the middle."""
    write_run(tmp_path, resize="crop")
    Image.new("L", size, 200).save(tmp_path / "a.png")
    main(["--checkpoint", str(tmp_path), str(tmp_path / "a.png"), "--out", str(tmp_path)])
    shown = np.asarray(figures["a-attention.png"].axes[1].images[0].get_array())
    seen = (shown != 60).any(2).squeeze()  # 0.3 · 200
    assert seen.shape == (1000,) and np.flatnonzero(seen).tolist() == [500]


def test_large_photos_are_drawn_at_a_thousand_pixels(tmp_path, figures):
    write_run(tmp_path)
    Image.new("L", (3000, 1500), 200).save(tmp_path / "a.jpg")
    main(["--checkpoint", str(tmp_path), str(tmp_path / "a.jpg"), "--out", str(tmp_path)])
    assert figures["a-attention.png"].axes[1].images[0].get_array().shape == (500, 1000, 3)


def refused(capsys, message, *argv):
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in argv])
    out, error = capsys.readouterr()
    assert stop.value.code == 2 and out == "" and message in error
    assert error.count("\n") == 1 and error.startswith("python -m torchcnn.explain: ")


def test_what_is_refused_leaves_nothing(tmp_path, capsys):
    write_run(tmp_path / "run")
    run, out = ["--checkpoint", tmp_path / "run"], tmp_path / "out"
    picture = write_picture(tmp_path / "a.png")
    (tmp_path / "bad.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    to = ["--out", out]
    refused(capsys, "required: --out", *run, picture)
    refused(capsys, "required: FILE", *run, *to)
    refused(capsys, "either --checkpoint or --arch", picture, *to)
    refused(capsys, "either --checkpoint or --arch", *run, "--arch", "lenet", picture, *to)
    refused(
        capsys, "--arch: got vgg16, allowed are densenet, lenet, ", "--arch", "vgg16", picture, *to
    )
    refused(capsys, "--arch: got x, allowed are densenet, lenet, ", "--arch", "x", picture, *to)
    refused(capsys, "there is no checkpoint", "--checkpoint", tmp_path / "b", picture, *to)
    refused(capsys, "there is no picture", *run, tmp_path / "b.png", *to)
    refused(capsys, "cannot be decoded as a picture", *run, tmp_path / "bad.png", *to)
    refused(capsys, "there are no pictures in", *run, tmp_path / "empty", *to)
    refused(capsys, "got cow, allowed are cat, dog, $x^2$", *run, picture, *to, "--target", "cow")
    several = ["--classes", "2"]
    refused(capsys, "--target or --classes", *run, picture, *to, "--target", "cat", *several)
    refused(capsys, "allowed are stage1, stage2", *run, picture, picture, *to, "--layer", "stage3")
    refused(capsys, "a.png is no writable folder", *run, picture, "--out", picture)
    refused(capsys, "a.png is no writable folder", *run, picture, "--out", picture / "below")
    assert not out.exists()


def test_what_cannot_be_read_is_listed_after_the_others_are_drawn(tmp_path, capsys):
    write_run(tmp_path / "run")
    for name in ("a.png", "c.png"):
        write_picture(tmp_path / "p" / name)
    (tmp_path / "p" / "b.png").write_text("no picture")
    gone, out = tmp_path / "gone.png", tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main(["--checkpoint", str(tmp_path / "run"), str(gone), str(tmp_path / "p"),
              "--out", str(out)])  # fmt: skip
    first, second = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and f"there is no picture {gone}" in first
    assert "b.png cannot be decoded as a picture" in second
    assert names(out) == ["attention.png", "filters.png"]


def test_a_figure_does_not_overwrite_a_picture(tmp_path, capsys):
    write_run(tmp_path / "run")
    write_picture(tmp_path / "p" / "a.png")
    shutil.copy(tmp_path / "p" / "a.png", tmp_path / "p" / "attention.png")
    message = "attention.png is one of the pictures, and would be overwritten"
    call = ["--checkpoint", tmp_path / "run", tmp_path / "p", "--out", tmp_path / "p"]
    refused(capsys, message, *call)
    assert names(tmp_path / "p") == ["a.png", "attention.png"]


def test_a_network_that_computes_nan_is_refused(tmp_path, capsys):
    write_run(tmp_path / "run")
    content = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    content["weights"]["head.7.bias"][0] = float("nan")
    torch.save(content, tmp_path / "run" / "best.pt")
    picture, out = write_picture(tmp_path / "a.png"), tmp_path / "out"
    refused(capsys, "computes NaN", "--checkpoint", tmp_path / "run", picture, "--out", out)
    assert not out.exists()
