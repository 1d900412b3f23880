"""CIFAR-10 (Krizhevsky 2009), binary version: 50,000 + 10,000 images of 32 × 32, 10 classes.

Layout: ``cifar-10-batches-bin/data_batch_1.bin`` … ``data_batch_5.bin`` and ``test_batch.bin``,
records of 1 byte of label and 3 × 32 × 32 bytes of red, green and blue. The Python version is
pickled and not read: a pickle can run anything.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from gate_cache.core.errors import DataError
from gate_cache.datasets.common.base import Sample, Split
from gate_cache.datasets.common.files import need_folder, readable
from gate_cache.datasets.common.splits import with_val
from gate_cache.manifest.dataset_specs import CIFAR10Spec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EXPECTED = ("expected cifar-10-batches-bin/ with data_batch_1.bin … data_batch_5.bin and"
            " test_batch.bin; get the binary version, cifar-10-binary.tar.gz, from"
            " https://www.cs.toronto.edu/~kriz/cifar.html and unpack it below the data root"
            " (--data)")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
           "truck")
SIDE = 32
_RECORD = 1 + 3 * SIDE * SIDE
_FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}


class CIFAR10:
    """The images of CIFAR-10; ids are ``train/00042``: the published half and a running number."""

    name = "cifar-10"
    protocol = ("CIFAR-10: accuracy over all 10,000 published test images; 'val' is a seeded part"
                " of the training images")
    classes = CLASSES

    def __init__(self, root: Path, spec: CIFAR10Spec) -> None:
        self.root, self.spec = root, spec

    def samples(self) -> Sequence[Sample]:
        """All images: the published training images, then the test images."""
        _refuse_pickles(self.root)
        need_folder(self.root, "CIFAR-10", EXPECTED)
        return [Sample(f"{half}/{i:05d}") for half in _FILES for i in range(self._starts[half][-1])]

    @cached_property
    def _starts(self) -> dict[str, list[int]]:
        """Of each half, the number of the first image of every file, and that of all images."""
        return {half: list(accumulate((_records(self.root / n) for n in names), initial=0))
                for half, names in _FILES.items()}

    def _locate(self, sample_id: str) -> tuple[Path, int]:
        """The batch that holds an image and its class, and the image's number in it."""
        half, _, number = sample_id.partition("/")
        starts = self._starts[half][:-1]
        file = bisect_right(starts, int(number)) - 1
        return self.root / _FILES[half][file], int(number) - starts[file]

    def _record(self, sample_id: str) -> bytes:
        path, number = self._locate(sample_id)
        with readable(path), path.open("rb") as data:
            data.seek(number * _RECORD)
            record = data.read(_RECORD)
        if len(record) < _RECORD or record[0] >= len(CLASSES):
            raise DataError(f"{path}: record of '{sample_id}' is damaged; {EXPECTED}")
        return record

    def sources(self, sample_id: str) -> tuple[Path, ...]:
        return (self._locate(sample_id)[0],)

    def sha256(self, sample_id: str) -> str:
        return hashlib.sha256(self._record(sample_id)[1:]).hexdigest()  # [0] is the label

    def size(self, sample_id: str) -> tuple[int, int]:
        return (SIDE, SIDE)

    def image(self, sample_id: str) -> npt.NDArray[np.uint8]:
        import numpy as np

        planes = np.frombuffer(self._record(sample_id), np.uint8, offset=1)
        return np.ascontiguousarray(planes.reshape(3, SIDE, SIDE).transpose(1, 2, 0))

    def label(self, sample_id: str) -> int:
        return self._record(sample_id)[0]

    @cached_property
    def _splits(self) -> dict[str, Split]:
        halves: dict[str, list[str]] = {half: [] for half in _FILES}
        for sample in self.samples():
            halves[sample.id.split("/")[0]].append(sample.id)
        return with_val(halves["train"], halves["test"], self.spec.val, self.spec.split_seed)

    def split_of(self, sample_id: str) -> Split:
        return self._splits[sample_id]


def _records(path: Path) -> int:
    with readable(path, f"not found; {EXPECTED}"):
        size = path.stat().st_size
    if not size or size % _RECORD:
        raise DataError(f"{path}: {size} bytes are not whole records of {_RECORD}; {EXPECTED}")
    return size // _RECORD


def _refuse_pickles(root: Path) -> None:
    """Name the python version, there or beside, where the binary one is missing."""
    for folder in (root, root.with_name("cifar-10-batches-py")):
        if (folder / "data_batch_1").is_file() and not (root / "data_batch_1.bin").is_file():
            raise DataError(f"{folder}: this is the python version, whose pickles are not read;"
                            f" {EXPECTED}")
