"""Your own pictures by a list: a CSV file of paths and labels, as Kaggle's data sets have it."""

import csv
import unicodedata
from pathlib import Path

from torchcnn.data.identity import Part, identify

SPLITS = {  # what the parts of a data set are called, in any case
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def is_listing(path: Path) -> bool:
    """Whether a path is that of a list, and not of a folder."""
    return path.suffix.lower() in (".csv", ".tsv") and not path.is_dir()


def read_listing(path: Path) -> dict[str, Part]:
    """Read which pictures a list names, class by class: in each of its parts, or in one part "".

    The columns `path` and `label` are needed, `split` may be there, others are passed over. A path
    is relative to the folder of the list, and may be spelled as on another system. Between columns
    there are commas, semicolons, tabs or bars. Blanks around a cell, empty lines and a byte order
    mark do not count.

    Raises:
        FileNotFoundError: there is no such file, or a picture is missing.
        ValueError: it is not such a list; the message names the line.
    """
    found: dict[str, dict[str, set[Path]]] = {}  # by parts and labels
    seen: dict[str, tuple[str, str]] = {}
    missing = []
    for line, row in _rows(path):
        picture, label, split = (row.get(name, "") for name in ("path", "label", "split"))
        label = unicodedata.normalize("NFC", label)
        if not picture or not label:
            raise ValueError(f"{path}, line {line}: there is no {'label' if picture else 'path'}")
        use = SPLITS.get(split.lower()) if "split" in row else ""
        if use is None:
            raise ValueError(
                f"{path}, line {line}: got the split {split!r}, allowed are train, val and test"
            )
        file, what = _find(path.parent, picture), (label, use)
        if file is None:
            missing.append(f"{picture} (line {line})")
            continue
        if seen.setdefault(unicodedata.normalize("NFC", str(file)), what) != what:
            raise ValueError(f"{path}, line {line}: {picture} has another label or split before")
        found.setdefault(use, {}).setdefault(label, set()).add(file)
    if missing:
        more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        raise FileNotFoundError(f"{path}: there is no picture {', '.join(missing[:3])}{more}")
    return {
        use: {label: identify(list(files)) for label, files in sorted(classes.items())}
        for use, classes in found.items()
    }


def _find(folder: Path, picture: str) -> Path | None:
    """Find a picture, of whose path systems write separators and accents differently."""
    slashed = picture.replace("\\", "/")
    forms = (unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))
    paths = (folder / Path(text).expanduser() for text in (picture, slashed, *forms))
    return next((path for path in paths if path.is_file()), None)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Read the rows below the head, by the names of their columns, with the numbers of lines."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error.reason})") from error
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no list {path}") from None
    for separator in ",;\t|":
        head, *table = list(csv.reader(lines, delimiter=separator)) or [[]]
        head = [cell.strip().lower() for cell in head]
        if {"path", "label"} <= set(head):
            break
    else:
        first = lines[0][:60] if lines else "nothing"
        raise ValueError(
            f"{path} must begin with the names of its columns, path and label; got {first!r}"
        )
    rows = []
    for line, cells in enumerate(table, start=2):
        texts = [cell.strip() for cell in cells]
        if any(texts):
            rows.append((line, dict(zip(head, texts, strict=False))))
    if not rows:
        raise ValueError(f"{path} names no pictures")
    return rows
