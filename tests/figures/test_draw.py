"""A picture never costs a result, and names are text."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from torchcnn import evaluate, predict, train
from torchcnn.data.datasets import load_data
from torchcnn.figures import draw, tiles
from torchcnn.figures import results as plots
from torchcnn.figures.draw import drawing, fonts_for, save_figure, text_options
from torchcnn.figures.tiles import Tile, plot_tiles

pytestmark = pytest.mark.usefixtures("real_figures")
NAMES = ["$5_to_$10", "$^$", "bad\udc80byte", "卷积", "a\nb\x00", "x" * 300, "<b>", ""]


def test_any_name_of_a_class_is_drawn(tmp_path):
    confusion = torch.eye(len(NAMES), dtype=torch.int64)
    image = torch.zeros(1, 8, 8, dtype=torch.uint8)
    with drawing("names"):
        save_figure(plots.plot_confusion(confusion, NAMES), tmp_path / "c.png")
        sheet = [Tile(image, [name, name]) for name in NAMES]
        save_figure(plot_tiles(sheet, NAMES[2]), tmp_path / "i.png")
    assert {p.name for p in tmp_path.iterdir()} == {"c.png", "i.png"}
    figure = plots.plot_confusion(confusion, NAMES)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:4] == ["$5_to_$10", "$^$", "bad?byte", "卷积"] and len(labels[5]) == 24


def write_font(path, name, characters):
    """A font that has a square for each of the characters, and nothing else."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 500), (500, 500), (500, 0)):
        pen.lineTo(corner)
    pen.closePath()
    glyphs = [".notdef", *(f"u{ord(c):04X}" for c in characters)]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(glyphs)
    font.setupCharacterMap({ord(c): g for c, g in zip(characters, glyphs[1:], strict=True)})
    font.setupGlyf(dict.fromkeys(glyphs, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(glyphs, (600, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": name, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return str(path)


@pytest.fixture
def fonts(monkeypatch):
    """Fonts of the system that are not in Matplotlib's list, which has its own ones alone."""
    own = [font for font in font_manager.fontManager.ttflist if font.name == draw.FONT]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    found = []
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: found)
    fonts_for.cache_clear()
    yield found
    fonts_for.cache_clear()


def test_a_font_is_found_by_what_it_covers(tmp_path, fonts):
    """One font has a part, another one all, and a third claims to have what is no character."""
    (tmp_path / "no font.ttf").write_text("no font")
    fonts += [
        str(tmp_path / "no font.ttf"),
        write_font(tmp_path / "a.ttf", "Boxes", "卷积猫\uffff"),
        write_font(tmp_path / "b.ttf", "A Part", "卷"),
        write_font(tmp_path / "c.ttf", "All", "卷积"),
        write_font(tmp_path / "d.ttf", "Another", "猫"),
    ]
    for text, families in {
        "cat": [], "é✓": [], "卷积": ["All"], "猫": ["Another"], "卷积猫犬": ["All", "Another"],
        "犬": [],
    }.items():  # fmt: skip
        assert text_options("x", text)["family"] == [draw.FONT, *families], text
    confusion = torch.eye(2, dtype=torch.int64)
    # A character that no font has would be a warning, which is an error here.
    save_figure(plots.plot_confusion(confusion, ["卷积", "猫"]), tmp_path / "c.png")


def test_fonts_that_matplotlib_knows_are_not_looked_for(tmp_path, fonts, monkeypatch):
    path = write_font(tmp_path / "a.ttf", "Known", "卷积")
    gone = SimpleNamespace(name="Gone", fname=str(tmp_path / "gone.ttf"))
    known = SimpleNamespace(name="Known", fname=path)
    font_manager.fontManager.ttflist += [gone, known]
    monkeypatch.setattr(font_manager, "findSystemFonts", broken)
    assert text_options("卷积")["family"] == [draw.FONT, "Known"]


def rows(losses, accuracies):
    both = enumerate(zip(losses, accuracies, strict=True), 1)
    train = {"train_loss": 1.0, "train_acc": 0.9}
    return [{"epoch": i, "val_loss": loss, "val_acc": acc, **train} for i, (loss, acc) in both]


def test_one_outlier_does_not_set_the_limits_of_the_curves():
    history = rows([1.0] * 9 + [500.0], [0.9] * 10)
    figure = plots.plot_curves(history, "val", "lenet on x", best=3)
    loss, accuracy = figure.axes
    assert loss.get_ylim()[1] < 4  # three times what nine of ten are below, and a margin
    assert [text.get_text() for text in loss.texts] == ["500"] and not accuracy.texts
    assert figure.get_suptitle() == "lenet on x"
    labels = [text.get_text() for text in loss.get_legend().get_texts()]
    assert labels == ["train", "val", "best epoch: 3"]
    dip = plots.plot_curves(rows([1.0] * 9 + [math.nan], [0.9] * 9 + [0.0]), "val").axes[1]
    assert 0.6 < dip.get_ylim()[0] < 0.7 and [text.get_text() for text in dip.texts] == ["0"]
    calm = plots.plot_curves(rows([2.0, 1.5, 1.2], [0.2, 0.5, 0.6]), "val").axes[0]
    assert calm.get_ylim()[1] >= 2 and not calm.texts


def test_the_confusion_matrix_has_counts_and_shares_of_the_row():
    """Of 400 of the first class one is wrong: neither all are right nor none is wrong."""
    confusion = torch.tensor([[399, 1, 0], [1, 3, 0], [0, 0, 0]])
    axes = plots.plot_confusion(confusion, ["a", "b", "c"]).axes[0]
    assert axes.get_title() == f"accuracy {402 / 404:.4f}: 402 of 404"
    assert [text.get_text() for text in axes.texts] == [
        "399\n>99%", "1\n<1%", "0", "1\n25%", "3\n75%", "0", "0", "0", "0"]  # fmt: skip


def test_two_hundred_classes_are_a_small_picture_without_labels(tmp_path):
    confusion = torch.randint(0, 50, (200, 200))
    figure = plots.plot_confusion(confusion, [f"class {i}" for i in range(200)])
    save_figure(figure, tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as picture:
        assert max(picture.size) < 2100
    assert len(figure.axes[0].texts) == 0


def broken(*_):
    raise ValueError("no\nfont")


def test_the_result_comes_before_the_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plots, "plot_confusion", broken)
    monkeypatch.setattr(plots, "plot_curves", broken)
    run = tmp_path / "r"
    flags = ["--data", "sample", "--device", "cpu", "--batch-size", "1000", "--epochs", "1"]
    train.main([*flags, "--out", str(run)])
    out, error = capsys.readouterr()
    assert "test acc " in out and json.loads((run / "result.json").read_text())["epoch"] == 1
    assert error.splitlines() == [
        "warning: the confusion matrix could not be drawn (ValueError: no font)",
        "warning: curves.png could not be drawn (ValueError: no font)",
    ]
    train.main(["--resume", str(run), "--epochs", "2"])  # it is not locked
    capsys.readouterr()
    evaluate.main(["--checkpoint", str(run), "--out", str(tmp_path / "o")])
    out, error = capsys.readouterr()
    assert "test acc " in out and "confusion.png could not be drawn" in error
    assert [p.name for p in (tmp_path / "o").iterdir()] == ["mistakes.png"]
    monkeypatch.setattr(tiles, "plot_tiles", broken)
    picture = tmp_path / "a.png"
    Image.fromarray(load_data("sample").test_images[0, 0].numpy()).save(picture)
    predict.main(["--checkpoint", str(run), str(picture), "--out", str(tmp_path / "p.png")])
    out, error = capsys.readouterr()
    assert out.startswith(str(picture)) and error.startswith("warning: ")
    assert error.splitlines()[1:] == [f"by {run / 'best.pt'}, epoch 2"]
    assert not (tmp_path / "p.png").exists()


def test_a_picture_is_written_whole_or_not_at_all(tmp_path):
    class Half:
        def savefig(self, path, **_):
            path.write_bytes(b"half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        save_figure(Half(), tmp_path / "c.png")
    assert not list(tmp_path.iterdir())
