"""Small trees in exactly the layouts in which data sets are published, for tests."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.io import savemat

from gate_cache.datasets.common.base import Split
from gate_cache.datasets.common.splits import Shares, dealt

SIDE = 8
IMAGES = {"spair": 8, "pf-pascal": 7, "horse-21": 5, "bedroom-28": 5, "ade20k": 24,
          "cityscapes": 23, "cifar-10": 55}
"""Images of every tree."""


def deal(ids: Iterable[str], shares: Shares, seed: int) -> dict[str, Split]:
    """Ids split by seeded shares."""
    return {i: dealt(i, shares, seed) for i in ids}


def picture(seed: int, height: int = SIDE, width: int = SIDE) -> npt.NDArray[np.uint8]:
    """(height, width, 3) noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: npt.NDArray[np.generic]) -> Path:
    """Write an image of any kind, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write(path: Path, text: str) -> Path:
    """Write a text, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def labels(highest: int, seed: int = 0, height: int = SIDE,
           width: int = SIDE) -> npt.NDArray[np.uint8]:
    """(height, width) labels of which the first two are 0 and `highest`."""
    found = np.random.default_rng(seed).integers(0, highest + 1, (height, width), dtype=np.uint8)
    found[0, :2] = 0, highest
    return found


SPAIR_LISTS = {  # the same base names in two categories, as published
    "trn": [("a", "b", "cat"), ("b", "a", "cat"), ("a", "b", "dog")],
    "val": [("c", "d", "cat")],
    "test": [("c", "d", "dog"), ("d", "c", "dog")],
}


def spair(data: Path) -> Path:
    """SPair-71k: images of 6 × 8, three key points, of which every image lacks one."""
    root = data / "SPair-71k"
    number = 0
    for split, pairs in SPAIR_LISTS.items():
        names = []
        for source, target, category in pairs:
            number += 1
            names.append(f"{number:06d}-{source}-{target}:{category}")
            for end in (source, target):
                _spair_image(root, category, end)
        for layout in ("large", "small"):
            write(root / "Layout" / layout / f"{split}.txt", "\n".join(names) + "\n")
        for name in names:
            write(root / "PairAnnotation" / split / f"{name}.json", "{}")
    return root


def _spair_image(root: Path, category: str, name: str) -> None:
    seed = ord(name) + len(category)
    save(root / "JPEGImages" / category / f"{name}.jpg", picture(seed, 6, 8))
    kps = {str(i): [i + 1, i + 2] if i < 3 and i != seed % 3 else None for i in range(30)}
    write(root / "ImageAnnotation" / category / f"{name}.json", json.dumps({
        "filename": f"{name}.jpg", "image_width": 8, "image_height": 6, "image_depth": 3,
        "category": category, "category_id": 0, "pose": "Unspecified", "truncated": 0,
        "occluded": 0, "difficult": 0, "bndbox": [1, 1, 7, 5], "kps": kps, "azimuth_id": 0}))


PASCAL_LISTS = {"trn": [("a", "b", 1, 0), ("a", "b", 1, 1), ("b", "a", 1, 0)],
                "val": [("c", "d", 2)], "test": [("e", "f", 2), ("e", "a", 2)]}


def pf_pascal(data: Path) -> Path:
    """PF-PASCAL with the lists as HPF and CATs have them; image a has objects of two classes."""
    root = data / "PF-dataset-PASCAL"
    folder = "PF-dataset-PASCAL/JPEGImages"
    for split, pairs in PASCAL_LISTS.items():
        columns = "flip" if split == "trn" else "XA,YA,XB,YB"
        rows = [f"{folder}/{s}.jpg,{folder}/{t}.jpg,{number},"
                + (str(*rest) if rest else "2;3,3;4,2;3,3;4") for s, t, number, *rest in pairs]
        write(root / f"{split}_pairs.csv",
              "\n".join([f"source_image,target_image,class,{columns}", *rows]) + "\n")
        for source, target, number, *_ in pairs:
            for name in (source, target):
                _pascal_image(root, ("aeroplane", "bicycle")[number - 1], name)
    return root


def _pascal_image(root: Path, category: str, name: str) -> None:
    save(root / "JPEGImages" / f"{name}.jpg", picture(ord(name)))
    path = root / "Annotations" / category / f"{name}.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    points = np.array([[1, 2], [3, 4], [np.nan, np.nan]])
    savemat(path, {"kps": points, "bbox": np.array([[1, 2, 7, 8]])})


def label_scarce(name: str, highest: int) -> Callable[[Path], Path]:
    """A writer of one of ddpm-segmentation's sets: 3 training images, 2 of test."""
    def tree(data: Path) -> Path:
        root = data / name
        for i in range(5):
            half = "train" if i < 3 else "test"
            extension = "png" if i % 2 else "jpg"
            image = save(root / "real" / half / f"img_{i}.{extension}", picture(i))
            np.save(image.with_suffix(".npy"), labels(highest, i))
        return root
    return tree


def ade20k(data: Path) -> Path:
    """ADE20K's benchmark: 20 + 4 images."""
    root = data / "ADEChallengeData2016"
    for i in range(24):
        half, short = ("training", "train") if i < 20 else ("validation", "val")
        name = f"ADE_{short}_{i + 1:08d}"
        save(root / "images" / half / f"{name}.jpg", picture(i))
        save(root / "annotations" / half / f"{name}.png", labels(150, i))
    return root


def cityscapes(data: Path, kinds: Iterable[str] = ("labelIds", "color")) -> Path:
    """Cityscapes: 20 + 3 images, and one of the split whose labels are withheld."""
    root = data / "cityscapes"
    for i in range(24):
        half, city = ("train", "aachen") if i < 20 else ("val", "bonn")
        half, city = (half, city) if i < 23 else ("test", "berlin")
        name = f"{city}_{i:06d}_000019"
        save(root / "leftImg8bit" / half / city / f"{name}_leftImg8bit.png", picture(i))
        for kind in kinds:
            found = picture(i) if kind == "color" else labels(33 if kind == "labelIds" else 18, i)
            save(root / "gtFine" / half / city / f"{name}_gtFine_{kind}.png", found)
    return root


def cifar(data: Path, counts: Sequence[int] = (10, 10, 10, 10, 10, 5)) -> Path:
    """CIFAR-10, binary version: five batches of training images and one of test."""
    root = data / "cifar-10-batches-bin"
    root.mkdir(parents=True)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for k, (name, count) in enumerate(zip(names, counts, strict=True)):
        records = np.random.default_rng(k).integers(0, 256, (count, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(count) % 10
        (root / name).write_bytes(records.tobytes())
    write(root / "batches.meta.txt", "airplane\nautomobile\n")
    return root


TREES: dict[str, Callable[[Path], Path]] = {
    "spair": spair, "pf-pascal": pf_pascal, "horse-21": label_scarce("horse_21", 20),
    "bedroom-28": label_scarce("bedroom_28", 28), "ade20k": ade20k, "cityscapes": cityscapes,
    "cifar-10": cifar}
