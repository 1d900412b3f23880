"""Masks of photographs from Tiny ImageNet's boxes, and how far colour and position alone get.

    python -m pipelines.tiny.box_masks --tiny-imagenet ZIP --to data/box-masks
    gate-cache extract manifests/box-masks.yaml
    gate-cache train   manifests/box-masks.yaml

Class 1 is what lies in the box of the object, class 0 all else. Pictures are of the validation
part, which nothing is trained on, one in turn of each class; those whose box covers less than a
tenth or more than six tenths of the picture are left out. The floor that is printed is gradient
boosting (scikit-learn, its defaults) on each pixel's colour, place and three Gaussian blurs, of
training pixels drawn as often as a training reads; IoU and its interval are those of ``train``.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import zipfile
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.ensemble import HistGradientBoostingClassifier

from gate_cache.learn.metrics.intervals import bootstrap

COUNTS = {"train": 200, "val": 100, "test": 500}
SHARE = 0.1, 0.6
"""Of the picture that a box covers, at least and at most."""
BLURS = 1, 3, 9
PIXELS = 300
"""Drawn of each training picture for the floor."""
Pixels = npt.NDArray[np.uint8]


def boxes(archive: zipfile.ZipFile) -> dict[str, list[int]]:
    """Picture to x0, y0, x1, y1 (inclusive), of usable boxes, classes in turn."""
    table = csv.DictReader(io.StringIO(archive.read("boxes.tsv").decode()), delimiter="\t")
    classes: dict[str, list[tuple[str, list[int]]]] = {}
    for row in table:
        x0, y0, x1, y1 = box = [int(row[c]) for c in ("x0", "y0", "x1", "y1")]
        if row["file"].startswith("val/") and \
                SHARE[0] <= (x1 - x0 + 1) * (y1 - y0 + 1) / 64**2 <= SHARE[1]:
            classes.setdefault(row["file"].split("/")[1], []).append((row["file"], box))
    in_turn = chain.from_iterable(zip_longest(*classes.values()))
    return dict(item for item in in_turn if item)


def write(archive: zipfile.ZipFile, to: Path) -> dict[str, list[tuple[Pixels, Pixels]]]:
    """Write images and masks by split; what is written, in order."""
    usable = iter(boxes(archive).items())
    written: dict[str, list[tuple[Pixels, Pixels]]] = {}
    for split, count in COUNTS.items():
        written[split] = []
        for number, (file, (x0, y0, x1, y1)) in zip(range(count), usable, strict=False):
            image = np.asarray(Image.open(io.BytesIO(archive.read(file))).convert("RGB"))
            mask = np.zeros(image.shape[:2], np.uint8)
            mask[y0 : y1 + 1, x0 : x1 + 1] = 1
            for kind, pixels in (("images", image), ("masks", mask)):
                path = to / kind / split / f"{number:03}-{Path(file).parent.name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
            written[split].append((image, mask))
    return written


def described(image: Pixels) -> npt.NDArray[np.float32]:
    """(H·W, 14): colour, place and blurred colours of each pixel."""
    rows, columns = np.meshgrid(*map(np.arange, image.shape[:2]), indexing="ij")
    blurs = [cv2.GaussianBlur(image, (0, 0), sigma) for sigma in BLURS]
    parts: list[npt.NDArray[Any]] = [image, rows[..., None], columns[..., None], *blurs]
    return np.concatenate([p.astype(np.float32) for p in parts], -1).reshape(rows.size, -1)


def floor(pictures: dict[str, list[tuple[Pixels, Pixels]]]) -> dict[str, Any]:
    """mIoU of gradient boosting over all test pixels, in per cent, with a bootstrap's interval."""
    generator, x, y = np.random.default_rng(0), [], []
    for image, mask in pictures["train"]:
        chosen = generator.choice(mask.size, PIXELS, replace=False)
        x.append(described(image)[chosen])
        y.append(mask.ravel()[chosen])
    model = HistGradientBoostingClassifier(random_state=0).fit(np.concatenate(x), np.concatenate(y))
    counts = np.array([_confusion(mask.ravel(), model.predict(described(image)))
                       for image, mask in pictures["test"]])
    low, high = bootstrap(counts, lambda totals: np.array([_miou(t) for t in totals]))
    return {"RGB + position + blurs": {"mIoU": _miou(counts.sum(0)), "interval": [low, high]}}


def _confusion(truth: Pixels, predicted: Pixels) -> npt.NDArray[np.int64]:
    return np.bincount(2 * truth.astype(np.int64) + predicted, minlength=4).reshape(2, 2)


def _miou(total: npt.NDArray[Any]) -> float:
    hit = np.diag(total)
    return float(100 * (hit / (total.sum(0) + total.sum(1) - hit)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny-imagenet", type=Path, required=True)
    parser.add_argument("--to", type=Path, default=Path("data/box-masks"))
    given = parser.parse_args()
    with zipfile.ZipFile(given.tiny_imagenet) as archive:
        pictures = write(archive, given.to)
    print(json.dumps({"pictures": {k: len(v) for k, v in pictures.items()}, **floor(pictures)}))


if __name__ == "__main__":
    main()
