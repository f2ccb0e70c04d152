"""Put the networks of finished runs into the package: `python pretrained.py RUN…`.

Each run becomes `torchcnn/models/fashion_mnist/<arch>.safetensors`: its weights in half precision,
and what is said of them, among it the accuracy that the rounded weights have on the 10,000 test
images of Fashion-MNIST. `md5.json` has the md5 of each file.
"""

import hashlib
import json
import shlex
import sys

import torch
from safetensors.torch import save_file

from torchcnn.data.datasets import load_data
from torchcnn.data.loader import Batches
from torchcnn.models.pretrained import FOLDER
from torchcnn.run.checkpoint import open_checkpoint
from torchcnn.training.loop import evaluate_accuracy

FLAGS = ("recipe", "epochs", "augment", "ema", "val_fraction", "seed")


def command(config: dict) -> str:
    """The command that trained the run, with the flags that are not the defaults."""
    words = ["python", "-m", "torchcnn.train", "--arch", config["arch"], "--data", config["data"]]
    for name in FLAGS:
        if config[name] not in ("", 0.0) or name in ("val_fraction", "seed"):
            words += [f"--{name.replace('_', '-')}", f"{config[name]:g}" if name != "recipe"
                      and name != "augment" else config[name]]  # fmt: skip
    return shlex.join(words)


def main() -> None:
    data = load_data("fashion-mnist")
    for run in sys.argv[1:]:
        net, checkpoint = open_checkpoint(run)
        config, arch = checkpoint["config"], checkpoint["model"]["arch"]
        weights = {
            name: (t.half() if t.is_floating_point() else t).contiguous()
            for name, t in net.state_dict().items()
        }
        net.load_state_dict(weights)
        batches = Batches(data.test_images, data.test_labels, 500, size=net.input_size)
        accuracy = evaluate_accuracy(batches, net)
        about = {
            "model": checkpoint["model"], "classes": net.classes, "mean": net.mean, "std": net.std,
            "data": config["data"], "recipe": config["recipe"], "seed": config["seed"],
            "epochs": len(checkpoint["history"]), "accuracy": accuracy,
            "command": command(config), "torch": torch.__version__,
        }  # fmt: skip
        path = FOLDER / f"{arch}.safetensors"
        save_file(weights, path, {"torchcnn": json.dumps(about)})
        path.chmod(0o644)  # safetensors makes it unreadable to others
        print(f"{arch}: {accuracy:.4f}, {about['command']}")
    files = sorted(FOLDER.glob("*.safetensors"))
    md5 = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in files}
    (FOLDER / "md5.json").write_text(json.dumps(md5, indent=1) + "\n")


if __name__ == "__main__":
    main()
