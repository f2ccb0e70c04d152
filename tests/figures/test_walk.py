"""The page of a network, in a real browser: what it shows is what the network computes and sees."""

import copy
import json
import math
import random
import re
import shutil

import numpy as np
import pytest
import torch
import torch.fx
import torch.nn.functional as F
from PIL import Image
from small_networks import ONE_OF_EACH, describe, small, write_checkpoint
from torch import nn

import torchcnn
from torchcnn import create_model, explain
from torchcnn.figures import walk as module
from torchcnn.layers import SameAvgPool2d, SameConv2d, SameMaxPool2d
from torchcnn.models.analysis import layer_graph
from torchcnn.models.attention import attention

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
CLASSES = ["<script>alert(1)</script>", "b&amp;", "裙子", "</script>", "e"]


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("there is no Chromium; Debian's package chromium has it")
    api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(browser, tmp_path):
    """Open a page as a file. Whatever goes wrong in it, or is asked from elsewhere, is an error."""
    wrong = []
    opened = []

    def show(walked, **options):
        path = tmp_path / f"{len(opened)}.html"
        walked.save(path)
        page = browser.new_page(**{"viewport": {"width": 1400, "height": 1000},
                                   "reduced_motion": "reduce"} | options)  # fmt: skip
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message) or dialog.dismiss())
        page.on("request", lambda request: request.url == path.as_uri()
                or request.url == "data:," or wrong.append(request.url))  # fmt: skip
        page.goto(path.as_uri())
        opened.append(page)
        return page

    yield show
    for page in opened:
        page.close()
    assert wrong == []


def picture(channels, size):
    pixels = np.random.default_rng(0).integers(0, 256, (channels, size, size), dtype=np.uint8)
    return torch.from_numpy(pixels)


def data_of(walked):
    return json.loads(re.search(r'id="data">(.*?)</script>', walked.html, re.DOTALL)[1])


class Values(torch.fx.Interpreter):
    """The outputs of all layers and functions by their names."""

    def __init__(self, net):
        super().__init__(torch.fx.GraphModule(net, layer_graph(net)))
        self.found = {}

    def run_node(self, n):
        y = self.found[n.name] = super().run_node(n)
        return y

    def unit(self, name, c, y, x):
        found = self.found[name][0]
        return found[c, y, x] if found.dim() == 3 else found[c]


def twin(net):
    """A network in float64 in which each number changes with all that it may depend on.

    Its weights are positive and its activations linear, so that nothing cancels or is cut off, and
    its max poolings are means of the same windows.
    """
    net = copy.deepcopy(net).double().eval()

    def replace(parent):
        for name, child in parent.named_children():
            options = [getattr(child, key, None) for key in ("kernel_size", "stride", "padding")]
            if isinstance(child, SameMaxPool2d):
                setattr(parent, name, SameAvgPool2d(*options[:2]))
            elif isinstance(child, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(*options, ceil_mode=child.ceil_mode))
            elif isinstance(child, nn.Sigmoid | nn.ReLU | nn.Tanh | nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
            elif isinstance(child, nn.Conv2d | nn.Linear):
                nn.init.uniform_(child.weight, 0.5, 1.5)
            replace(child)

    replace(net)
    return net


# What the tests ask the page for.
MAPS = """within => [...document.querySelectorAll("[data-step] [data-channel]")].map((map, i) => {
  const step = map.closest("[data-step]").dataset.step, { channel } = map.dataset;
  if (within && !map.closest(`[data-group="${within}"]`)) return null;
  return channel === "all" ? null : [i, step, channel, map.width || 1, map.height || 1];
}).filter(map => map)"""
PLACE = """i => {
  const map = document.querySelectorAll("[data-step] [data-channel]")[i];
  map.scrollIntoView({ block: "center", inline: "center" });
  const { left, top, width, height } = map.getBoundingClientRect();
  return [left, top, width, height];
}"""
FIELD = """() => document.querySelector("[data-step]").querySelector(".field")?.dataset.field"""
TERMS = """() => [+document.querySelector("#details .network").dataset.value,
  [...document.querySelectorAll("#details .term")].map(term => +term.dataset.value)]"""


def field(gradient):
    """The first and last row and column of the pixels that a gradient (1, c, h, w) reaches."""
    rows, columns = gradient[0].abs().sum(0).nonzero().unbind(1)
    if not len(rows):  # it is padding alone
        return None
    return [int(n) for axis in (rows, columns) for n in (axis.min(), axis.max())]


def check(page, net, x, count=20, within="", skip=""):
    """Hover over random units and click them; what is shown is compared with the network."""
    values, linear = Values(net.eval()), Values(twin(net))
    pixels = torch.rand(x.shape, dtype=torch.float64).requires_grad_()
    linear.found["softmax"] = linear.run(pixels)
    with torch.no_grad():
        values.found["softmax"] = values.run(x).softmax(1)
    page.get_by_text("Open all", exact=True).click()
    maps = page.evaluate(MAPS, within)
    draw, explained = random.Random(0), set()
    for i, name, channel, columns, rows in draw.sample(maps, min(count, len(maps))):
        x, y = draw.randrange(columns), draw.randrange(rows)
        is_vector = channel == "units"  # whose last row may be shorter
        unit = (name, y * columns + x, 0, 0) if is_vector else (name, int(channel), y, x)
        if name == skip or unit[1] >= values.found[name].shape[1]:
            continue
        page.keyboard.press("Escape")
        left, top, width, height = page.evaluate(PLACE, i)
        at = left + (x + 0.5) * width / columns, top + (y + 0.5) * height / rows
        page.mouse.move(*at)
        shown = page.evaluate(FIELD)
        (gradient,) = torch.autograd.grad(linear.unit(*unit), pixels, retain_graph=True)
        assert (shown and [int(n) for n in shown.split(",")]) == field(gradient), unit
        page.mouse.click(*at)
        value, terms = page.evaluate(TERMS)
        expected = float(values.unit(*unit))
        assert value == pytest.approx(expected, rel=1e-6), unit
        rounding = 1e-6 * sum(map(abs, terms))  # of what cancels
        assert sum(terms) == pytest.approx(expected, rel=1e-4, abs=rounding), unit
        explained.add(name)
    return explained


# --- LeNet ---------------------------------------------------------------------------------------


def test_lenet_is_computed_before_the_readers_eyes(show):
    net = create_model("lenet", pretrained=True)
    image = picture(1, 28)
    page = show(torchcnn.walk(net, image))
    assert len(check(page, net, net.spec.prepare(image))) > 8


def test_what_is_left_out_is_one_number(show, monkeypatch):
    """With few of the channels on the page, the terms still add up."""
    monkeypatch.setattr(module, "MOST_BYTES", 30_000)
    net = create_model("lenet", pretrained=True)
    image = picture(1, 28)
    walked = torchcnn.walk(net, image)
    shown = {step["name"]: len(step["channels"]) for step in data_of(walked)["steps"]}
    assert shown["stage1_0"] < 6 and shown["stage2_0"] < 16
    found = check(show(walked), net, net.spec.prepare(image), count=12, within="stage2")
    assert "stage2_0" in found


class Own(nn.Module):
    """Everything that a convolution or pooling can be told, and functions."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(
            2, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 3), groups=2
        )
        self.norm, self.act = nn.BatchNorm2d(6), nn.Tanh()
        self.same, self.pool = SameConv2d(6, 4, 2, 2, bias=False), SameMaxPool2d(3, 2)
        self.mean, self.padded = SameAvgPool2d(2, 1), nn.AvgPool2d(3, 1, padding=1)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.same(self.act(self.norm(self.stem(x))))
        a = self.mean(x) + self.padded(x)
        b = F.pad(x[:, 1:, 1:, :-1], (0, 1, 1, 0, 0, 1))
        x = self.pool(torch.cat([a, b, x], 1))
        return self.head((x * x.mean((2, 3), keepdim=True)).mean((2, 3)))


def test_a_network_of_ones_own(show):
    """And names that are text, whatever they are."""
    torch.manual_seed(1)
    net, image = Own(), torch.randn(2, 21, 18)
    net.norm.running_mean.uniform_()
    net.norm.running_var.uniform_(0.5, 2)
    walked = torchcnn.walk(net, image, CLASSES, title="<img src=x onerror=alert(2)>")
    ops = {step["name"]: step["op"] for step in data_of(walked)["steps"]}
    assert ops.pop("mul") == "other" and "other" not in ops.values()
    page = show(walked)
    page.locator('[data-step="mul"] canvas').first.click()
    assert "How mul computes its numbers is not shown here" in page.inner_text("#details")
    assert sorted(page.locator('[data-step="softmax"] .name').all_inner_texts()) == sorted(CLASSES)
    assert "<img src=x onerror=alert(2)>" in page.inner_text("h1")
    assert page.locator("img").count() == 0
    found = check(page, net, image[None], 60, skip="mul")
    assert found >= {"stem", "norm", "act", "same", "pool", "add", "getitem", "pad", "cat"}


class Ceiled(nn.Module):
    """Max pooling of photos as with `ceil_mode`: what is padded never is the largest."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)
        self.pad, self.pool = nn.ConstantPad2d((0, 1, 0, 1), -math.inf), nn.MaxPool2d(3, 2)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.pool(self.pad(self.conv(self.norm(x))))
        return self.head(self.pool(F.pad(x, (0, 1, 0, 1), value=-math.inf)).mean((2, 3)))


def test_a_photo_that_is_not_square_and_numbers_that_are_not_finite(show, monkeypatch):
    """In float64; and the three channels of a photo stay together, however few are shown."""
    monkeypatch.setattr(module, "MOST_BYTES", 2_500)
    net, image = Ceiled().double(), picture(3, 12)[:, :8]
    walked = torchcnn.walk(net, image, CLASSES)
    channels = [step.get("channels") for step in data_of(walked)["steps"]]
    assert sorted(channels[0]) == [0, 1, 2] and len(channels[2]) < 4
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    page = show(walked)
    page.locator(".heat button").nth(1).click()
    assert page.locator("canvas.smooth").evaluate("canvas => [canvas.width, canvas.height]") == (
        [*attention(net.eval(), image[None].double() / 255, 0).heat.shape[::-1]]
    )


# --- the page ------------------------------------------------------------------------------------


def test_the_keyboard_alone_is_enough(show):
    page = show(torchcnn.walk(create_model("lenet"), picture(1, 28)))
    page.focus('[data-step="stage1_3"] canvas')
    at = [page.inner_text("#status") for _ in [page.keyboard.press("ArrowLeft")]]
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowUp")
    assert "row 0, column 0" in page.inner_text("#status") and at[0] != page.inner_text("#status")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert "row 1, column 0" in page.inner_text("#details h2")
    page.keyboard.press("Escape")
    assert page.inner_text("#details") == ""
    page.focus('[data-group="stage1"] > button')
    page.keyboard.press("Enter")  # the block closes, and is still in focus
    assert page.locator('[data-step="stage1_0"]').count() == 0
    assert page.evaluate("document.activeElement.parentElement.dataset.group") == "stage1"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_is_wide_enough(show, scheme):
    options = {"viewport": {"width": 400, "height": 800}, "has_touch": True, "color_scheme": scheme}
    page = show(torchcnn.walk(create_model("lenet"), picture(1, 28), language="zh"), **options)
    map = page.locator('[data-step="stage2_0"] canvas').first
    map.tap()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.locator("#details .term").count() > 1 and "卷积" in page.inner_text("#details")
    assert map.bounding_box()["y"] + 50 < page.locator("footer").bounding_box()["y"]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (min(int(n) for n in re.findall(r"\d+", background)) < 128) == (scheme == "dark")


def test_the_heat_map_and_the_shares_of_the_channels(show):
    """ResNet ends in a global mean: its channels' shares and the bias are the logit."""
    net, image = create_model("resnet20", pretrained=True), picture(1, 28)
    page = show(torchcnn.walk(net, image))
    with torch.no_grad():
        logits = net.eval()(net.spec.prepare(image))[0]
    name = net.spec.classes[int(logits.argmax())]
    page.locator(".heat button", has_text=name).click()
    assert page.locator("canvas.smooth").count() == 1
    assert "class activation map" in page.inner_text(".heat").lower()
    page.locator(".row:not(.bars)", has_text=name).first.click()
    terms = page.locator("#details .term").evaluate_all("all => all.map(t => +t.dataset.value)")
    assert len(terms) == module.TERMS + 2  # the others together, and the bias
    assert sum(terms) == pytest.approx(float(logits.max()), rel=1e-4)


def test_blocks_are_drawn_as_diagrams():
    """Two ways from the input of a residual block to its sum; four to a concatenation."""
    data = data_of(torchcnn.walk(create_model("googlenet", input_size=32), picture(1, 32)))
    stage = next(item for item in data["root"]["items"] if isinstance(item, dict) and
                 item["name"] == "stage3")  # fmt: skip
    block = stage["items"][0]
    assert block["kind"] == "Inception" and block["columns"][0] == ["in"]
    names = [data["steps"][i]["op"] for i in block["items"]]
    starts = [names[block["columns"][column][row]] for (start, *_, (column, row)) in block["arrows"]
              if start == [0, 0]]  # fmt: skip
    assert sorted(starts) == ["conv", "conv", "conv", "max"] and names[-1] == "concat"
    end = [len(block["columns"]) - 1, 0]
    assert sum(arrow[-1] == end for arrow in block["arrows"]) == 4


def test_a_notebook_shows_it_in_place():
    walked = torchcnn.walk(create_model("lenet"), picture(1, 28))
    frame = walked._repr_html_()
    assert frame.startswith("<iframe srcdoc=") and frame.count("<") == 2
    assert len(walked.html) < 1e6


# --- the command ---------------------------------------------------------------------------------


def test_the_command(tmp_path, capsys):
    Image.fromarray(picture(3, 40).permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    page = tmp_path / "walk.html"
    explain.main(["--arch", "lenet", str(tmp_path / "a.png"), "--html", str(page),
                  "--language", "zh"])  # fmt: skip
    text = page.read_text(encoding="utf-8")
    assert '<html lang="zh">' in text and "lenet a.png" in text
    assert capsys.readouterr().out.startswith(f"{page} is written: by lenet")


def test_what_is_refused_leaves_nothing(tmp_path, capsys):
    for name in ("a", "b"):
        Image.fromarray(picture(3, 40).permute(1, 2, 0).numpy()).save(tmp_path / f"{name}.png")
    file, page = str(tmp_path / "a.png"), str(tmp_path / "walk.html")
    net = describe().build()
    net.head[7].bias.data[0] = float("nan")
    write_checkpoint(tmp_path / "best.pt", net)
    lenet = ["--arch", "lenet"]
    for argv, message in (
        ([*lenet, file], "required: --out for a folder of figures, or --html for a page"),
        ([*lenet, file, "--html", page, "--out", str(tmp_path)], "required: --out for a folder"),
        ([*lenet, str(tmp_path), "--html", page], "takes one .html and one picture, got"),
        ([*lenet, file, "--html", str(tmp_path / "a.png")], "takes one .html and one picture"),
        ([*lenet, file, "--html", f"{file}/x.html"], "cannot be written"),
        ([*lenet, file, "--html", page, "--language", "fr"], "got fr, allowed are en, zh"),
        (["--checkpoint", str(tmp_path / "best.pt"), file, "--html", page], "computes NaN"),
    ):
        with pytest.raises(SystemExit) as stop:
            explain.main(argv)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and message in error and error.count("\n") == 1, argv
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "best.pt"]


def test_what_cannot_be_walked_through_is_refused():
    net, image = create_model("lenet"), picture(1, 28)
    with pytest.raises(ValueError, match="got 2 names for 10 outputs"):
        torchcnn.walk(net, image, ["a", "b"])
    with pytest.raises(ValueError, match=r"one image \(c, h, w\), got \(1, 1, 28, 28\)"):
        torchcnn.walk(net, image[None])
    with pytest.raises(ValueError, match=r"layer 0 \(Upsample\) are not known"):
        upsampled = nn.Sequential(nn.Upsample(scale_factor=2), nn.Flatten(), nn.Linear(3136, 2))
        torchcnn.walk(upsampled, image)
    with pytest.raises(ValueError, match="language: got 'fr', allowed are en, zh"):
        torchcnn.walk(net, image, language="fr")


# --- other networks ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "within", "options"),
    [("tf_lenet5", 30, "", {}), ("nin", 67, "", {}), ("googlenet", 64, "stage3.0", {}),
     ("resnet20", 28, "", {"pretrained": True}), ("densenet", 56, "", {"pretrained": True})],
)  # fmt: skip
def test_each_family_is_what_it_shows(show, name, size, within, options):
    torch.manual_seed(2)
    net = create_model(name, input_size=size, **options)
    image = picture(next(net.parameters()).shape[1], size)
    x = net.spec.prepare(image) if options else image[None] / 255
    assert check(show(torchcnn.walk(net, image)), net, x, within=within)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_network_is_explained_whole(name):
    net, x = small(name, channels=3)
    data = data_of(torchcnn.walk(net.float(), x[0].float()))
    for step in data["steps"]:
        assert step["op"] in module.DERIVED or (step["op"] != "other" and "values" in step), step


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg11", "densenet201"])
def test_the_page_of_a_large_network_is_below_8_megabytes(name):
    net = create_model(name)
    walked = torchcnn.walk(net, picture(*torchcnn.models.MODELS[name].input[:2]))
    assert 4e6 < len(walked.html.encode()) < 8e6
