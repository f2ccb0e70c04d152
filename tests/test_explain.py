"""`python -m torchcnn.explain`: which files it draws, what is in them, and what is refused."""

import itertools
import shutil
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import describe, write_checkpoint

from torchcnn import explain
from torchcnn.explain import figure_names, main
from torchcnn.figures.inside import plot_attention, plot_features, plot_filters

CLASSES = ["cat", "dog", "$x^2$"]


def write_run(folder, arch="lenet", channels=1, size=28):
    """A run folder whose network has new weights; its images are normalized by 0.5 and 0.25."""
    torch.manual_seed(3)
    mean, std = (0.5,) * channels, (0.25,) * channels
    spec = describe(arch, CLASSES, in_channels=channels, input_size=size, mean=mean, std=std)
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
    assert printed.out.count("is drawn") == 3 and printed.err.endswith("best.pt, epoch 0\n")
    for path in out.iterdir():
        with Image.open(path) as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 20


@pytest.mark.parametrize(
    ("arch", "size", "said", "stages"),
    [
        ("lenet", 28, "Grad-CAM: ", ["stage1: 6×12×12, channels ", "stage2: 16×4×4, channels "]),
        ("resnet20", 16, "class activation map: ", ["stem: 16×16×16, channels ",
         "stage1: 16×16×16, channels ", "stage2: 32×8×8, channels ", "stage3: 64×4×4, channels ",
         "pool: 64×1×1, channels "]),
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
    first, second = figures["a-attention.png"].get_suptitle().split("\n")
    assert first == f"a.png: {CLASSES[best]} {float(probabilities[best]):.1%}"
    assert second.startswith(said) and (arch == "lenet" or "everywhere" not in second)
    assert "filters.png" in figures
    if stages is None:
        assert "a-features.png" not in figures
        assert "no stage returns feature maps" in capsys.readouterr().err
    else:
        found = titles(figures["a-features.png"])
        assert all(t.startswith(s) for t, s in zip(found, stages, strict=True))


def test_another_class_may_be_asked_for(tmp_path, figures):
    write_run(tmp_path)
    picture = write_picture(tmp_path / "a.png")
    shown = {}
    for name in CLASSES:
        main(["--checkpoint", str(tmp_path), str(picture), "--out", str(tmp_path), "--target",
              name])  # fmt: skip
        shown[name] = figures["a-attention.png"].get_suptitle().split("\n")[0].split(": ")[1]
    assert [text.rsplit(" ", 1)[0] for text in shown.values()] == CLASSES
    shares = [float(text.rsplit(" ", 1)[1].rstrip("%")) for text in shown.values()]
    assert abs(sum(shares) - 100) < 0.2


def test_a_map_that_is_0_everywhere_says_so(tmp_path, figures):
    """A network that answers with its biases alone looks nowhere."""
    write_run(tmp_path)
    content = torch.load(tmp_path / "best.pt", weights_only=True)
    content["weights"]["head.7.weight"].zero_()
    torch.save(content, tmp_path / "best.pt")
    picture = write_picture(tmp_path / "a.png")
    main(["--checkpoint", str(tmp_path), str(picture), "--out", str(tmp_path)])
    assert figures["a-attention.png"].get_suptitle().endswith("for the class (0 everywhere)")


def test_pictures_of_one_name_keep_their_own_figures(tmp_path, figures):
    write_run(tmp_path / "run")
    paths = [write_picture(tmp_path / place, seed=i) for i, place in
             enumerate(("x/a.png", "y/a.png", "y/A.bmp", "a-2.png"))]  # fmt: skip
    argv = ["--checkpoint", str(tmp_path / "run"), *map(str, paths), str(paths[0])]
    main([*argv, "--out", str(tmp_path / "out")])
    attention = [name for name in figures if name.endswith("-attention.png")]
    assert attention == [f"{name}-attention.png" for name in ("a", "a-2", "A-3", "a-2-2")]
    assert [figures[name].get_suptitle().split(":")[0] for name in attention] == [
        "a.png", "a.png", "A.bmp", "a-2.png"]  # fmt: skip


def test_no_two_figures_have_one_name():
    for files in itertools.product(["a", "A", "a-2", "a-2-2", "a-3"], repeat=4):
        found = [name.casefold() for name in figure_names([f"{f}.png" for f in files])]
        assert len(set(found)) == 4


def test_tensorboard_has_the_same_figures_once(tmp_path, figures):
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
    assert image.get_clim() == (-2.0, 2.0) and titles(figure) == ["w: 3 × 2×2\none channel"]
    grid = image.get_array()  # 2 columns and 2 rows, a pixel between them; one tile is missing
    assert grid.shape == (5, 5) and (grid[3:, :2] == weights[0, 0].numpy()).all()
    assert np.ma.getmaskarray(grid)[2].all() and np.ma.getmaskarray(grid)[3:, 3:].all()
    colour = torch.tensor([4.0, 0.0, -4.0]).view(1, 3, 1, 1)
    (image,) = plot_filters(colour, "w").axes[0].images
    assert image.get_array()[0, 0].tolist() == [1.0, 0.5, 0.0]


def test_the_picture_of_the_features_has_the_strongest_first():
    maps = torch.arange(10.0).view(1, 10, 1, 1).expand(1, 10, 2, 2)
    figure = plot_features({"stage1": maps, "few": maps[:, :1]}, "a.png")
    assert titles(figure) == ["stage1: 10×2×2, channels 9, 8, 7, 6, 5, 4, 3, 2",
                              "few: 1×2×2, channels 0"]  # fmt: skip
    grid = figure.axes[0].images[0].get_array()
    assert grid[0, ::3].tolist() == [9, 8, 7, 6, 5, 4, 3, 2]


def test_the_picture_of_the_attention():
    heat = torch.tensor([[0.0, 4.0], [0.0, 4.0]])
    figure = plot_attention(torch.zeros(1, 4, 4, dtype=torch.uint8), heat, "t")
    assert figure.get_suptitle() == "t" and len(figure.axes[0].images) == 1
    overlay = figure.axes[1].images[1]
    assert overlay.get_array()[0].tolist() == [0, 1, 3, 4] and overlay.get_clim() == (-4, 4)
    nothing = plot_attention(torch.zeros(1, 4, 4, dtype=torch.uint8), heat * 0, "t")
    rgba = nothing.axes[1].images[1].to_rgba(np.zeros((1, 1)))
    assert rgba[0, 0, 3] < 0.01  # where nothing counts, the picture is seen as it is


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
    drawn = [f"{name}-{kind}.png" for name in "ac" for kind in ("attention", "features")]
    assert names(out) == [*drawn, "filters.png"]


def test_a_figure_does_not_overwrite_a_picture(tmp_path, capsys):
    write_run(tmp_path / "run")
    write_picture(tmp_path / "p" / "a.png")
    shutil.copy(tmp_path / "p" / "a.png", tmp_path / "p" / "a-features.png")
    message = "a-features.png is one of the pictures, and would be overwritten"
    call = ["--checkpoint", tmp_path / "run", tmp_path / "p", "--out", tmp_path / "p"]
    refused(capsys, message, *call)
    assert names(tmp_path / "p") == ["a-features.png", "a.png"]


def test_a_network_that_computes_nan_is_refused(tmp_path, capsys):
    write_run(tmp_path / "run")
    content = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    content["weights"]["head.7.bias"][0] = float("nan")
    torch.save(content, tmp_path / "run" / "best.pt")
    picture, out = write_picture(tmp_path / "a.png"), tmp_path / "out"
    refused(capsys, "computes NaN", "--checkpoint", tmp_path / "run", picture, "--out", out)
    assert not out.exists()
