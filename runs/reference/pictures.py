"""The pictures that the commands draw, for docs/pictures.md: `python runs/reference/pictures.py`.

They show clothes of the package's sample in folders by class, and networks with the weights of the
package. One run is trained, on folders with Chinese names. `walk.png`, a page in a browser, needs
Playwright and Chromium.
"""

import shutil
import tempfile
from pathlib import Path

from PIL import Image

from torchcnn import evaluate, explain, predict, train
from torchcnn.data.datasets import load_data

PLACE = Path(__file__).with_name("pictures")
SHOWN = ("ankle boot", "bag", "dress", "sneaker", "t-shirt")
CHINESE = {
    "sandal": "凉鞋",
    "sneaker": "运动鞋",
    "ankle boot": "短靴",
    "shirt": "衬衫",
    "coat": "大衣",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def write_clothes(folder: Path, names: dict[str, str], n: int, part: str = "test") -> None:
    """Write the first n images of some classes into folders by their names."""
    data = load_data("sample")
    images, labels = getattr(data, f"{part}_images"), getattr(data, f"{part}_labels")
    for name, own in names.items():
        place = folder / own
        place.mkdir(parents=True)
        for i in (labels == data.classes.index(name)).nonzero()[:n, 0].tolist():
            Image.fromarray(images[i, 0].numpy()).save(place / f"{i}.png")


def photograph(page: Path, picture: Path) -> None:
    """Click a unit of a page's second convolution, and photograph what is seen then."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        program = next(filter(None, map(shutil.which, BROWSERS)))
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1400, "height": 1100})
        tab.goto(page.as_uri())
        tab.locator('[data-step="stage2_0"] canvas').first.click(position={"x": 30, "y": 24})
        tab.evaluate("scrollTo(0, 280)")
        tab.wait_for_timeout(1000)
        tab.screenshot(path=picture)
        browser.close()


def main() -> None:
    PLACE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clothes, run = folder / "clothes", str(folder / "run")
        write_clothes(clothes, dict(zip(SHOWN, SHOWN, strict=True)), 2)
        write_clothes(folder / "鞋和衣", CHINESE, 60, "train")
        train.main(["--data", str(folder / "鞋和衣"), "--arch", "lenet", "--recipe", "fast",
                    "--input-size", "28", "--device", "cpu", "--out", run])  # fmt: skip
        evaluate.main(["--checkpoint", run, "--device", "cpu", "--out", str(PLACE)])
        shutil.copy(Path(run, "inputs.png"), PLACE)
        predict.main(["--arch", "resnet20", str(clothes), "--out", str(PLACE / "answers.png")])
        explain.main(["--arch", "resnet20", str(clothes), "--out", str(PLACE)])
        boot = (clothes / "ankle boot" / "0.png").rename(folder / "boot.png")
        explain.main(["--arch", "lenet", str(boot), "--out", str(PLACE)])
        explain.main(["--arch", "lenet", str(boot), "--html", str(folder / "walk.html")])
        photograph(folder / "walk.html", PLACE / "walk.png")


if __name__ == "__main__":
    main()
