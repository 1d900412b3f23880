"""What settings that leave a combo's meaning as it is change in its values.

    python -m benchmarks.bounds

Every combo of the toyworld manifest over 8 images, stored in float32: one thread and batches of 8
against two threads, batches of 1 and channels_last in each dtype; and each dtype against float32.
Differences are shares of the largest absolute value of a map, as `verify --recompute` has them.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import yaml

from gate_cache.core.roots import Roots
from gate_cache.extraction import job
from gate_cache.extraction.extract import extract
from gate_cache.manifest.load import load
from gate_cache.store.reader import FeatureStore
from gate_cache.workspace.workspace import Workspace

IMAGES = 8
Maps = dict[str, npt.NDArray[Any]]


def extracted(dtype: str, threads: int = 1, batch: int = IMAGES, **model: Any) -> Maps:
    """All maps of all combos."""
    data = yaml.safe_load(Path("manifests/toyworld.yaml").read_text())
    data["dataset"] |= {"train": IMAGES, "val": 0, "test": 0}
    data["model"] |= {"dtype": dtype, **model}
    data |= {"train": {}, "store": {"block": IMAGES, "batch": batch, "dtype": "float32"}}
    with tempfile.TemporaryDirectory() as home, mock.patch.object(job, "_ASKED", str(threads)):
        path = Path(home, "toyworld.yaml")
        path.write_text(yaml.safe_dump(data))
        store = FeatureStore.open(extract(Workspace(load(path), Roots(stores=Path(home)))).store)
        return {f"{view.label}/{name}": view[name][:] for view in store.views()
                for name in view.maps}


def largest(a: Maps, b: Maps) -> float:
    """Of all maps."""
    return max(float(np.abs(a[k] - b[k]).max() / np.abs(a[k]).max()) for k in a)


def main() -> None:
    exact = extracted("float32")
    for dtype in ("float32", "bfloat16", "float16"):
        usual = exact if dtype == "float32" else extracted(dtype)
        print(json.dumps({dtype: {
            "from float32": largest(exact, usual),
            "2 threads": largest(usual, extracted(dtype, threads=2)),
            "batches of 1": largest(usual, extracted(dtype, batch=1)),
            "channels_last": largest(usual, extracted(dtype, channels_last=True))}}), flush=True)


if __name__ == "__main__":
    main()
