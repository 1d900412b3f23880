"""PCK of PF-WILLOW by how matches are searched: ours, and as DIFT and GATE define it.

python -m benchmarks.matching --data /path/to/data --stores stores    (after extracting pf-willow)

The same features each time: maps of one combo as they are stored, nothing is trained.
DIFT: the target's descriptors are enlarged to the image's size, the pixel of the highest cosine is
the match. GATE, in its released code: the same at 512 × 512.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from gate_cache.core.roots import Roots
from gate_cache.datasets.common.base import CorrespondenceDataset
from gate_cache.learn.features.pairs import PairPoints, load_pairs
from gate_cache.learn.metrics.pck import Points, Prediction, pck
from gate_cache.learn.tasks.correspondence import nearest, sample
from gate_cache.workspace.workspace import Workspace

SHOWN = ((0.1, "image"), (0.1, "box"), (0.05, "box"))
Search = Callable[[torch.Tensor, torch.Tensor, tuple[int, int]], torch.Tensor]


def enlarged(wanted: torch.Tensor, target: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(K, 2) pixels of a (height, width) enlargement, as shares: argmax of the cosine."""
    height, width = size
    big = F.normalize(F.interpolate(target[None], size, mode="bilinear")[0].flatten(1), dim=0)
    best = (wanted @ big).argmax(1)
    return torch.stack([best % width / width, best // width / height], 1)


SEARCHES: dict[str, Search] = {
    "dense": lambda wanted, target, _: nearest(wanted, F.normalize(target, dim=0)),
    "cells": lambda wanted, target, _: nearest(wanted, F.normalize(target, dim=0), "cells"),
    "DIFT": enlarged,
    "GATE": lambda wanted, target, _: enlarged(wanted, target, (512, 512)),
}


def main() -> None:
    """Print a table: a row a feature and search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--stores", type=Path, default=Path("stores"))
    parser.add_argument("--combos", nargs="+", default=["prompt-0", "control-0", "lora-1"])
    given = parser.parse_args()
    manifest = Path(__file__).parents[1] / "manifests" / "pf-willow.yaml"
    work = Workspace.open(manifest, Roots(data=given.data, stores=given.stores))
    data, store = work.dataset(), work.store()
    assert isinstance(data, CorrespondenceDataset)
    rows = {sample_id: row for row, sample_id in enumerate(store.samples)}
    by_target: dict[str, list[PairPoints]] = defaultdict(list)
    for pair in load_pairs(data, None):
        by_target[pair.pair.target].append(pair)
    print(f"{'feature':22} {'search':6} " + " ".join(f"{r}@{a:.2f}" for a, r in SHOWN))
    for combo in given.combos:
        view = store[combo]
        for maps in (("up1",), ("up2",), tuple(view.maps)):
            side = max(view[m].shape[-1] for m in maps)
            features = {i: torch.cat([F.interpolate(torch.from_numpy(view[m][row])[None].float(),
                                                    (side, side), mode="bilinear")[0]
                                      for m in maps]) for i, row in rows.items()}
            for name, search in SEARCHES.items():
                found = pck([_judged(pair, features, search) for pairs in by_target.values()
                             for pair in pairs]).values
                shown = " ".join(f"{found[a, r, 'point']:10.2f}" for a, r in SHOWN)
                print(f"{combo + ' ' + '+'.join(maps):22.22} {name:6} {shown}", flush=True)


@torch.inference_mode()
def _judged(pair: PairPoints, features: dict[str, torch.Tensor], search: Search) -> Prediction:
    source, target = (features[i] for i in (pair.pair.source, pair.pair.target))
    at: Points = pair.source_shares
    wanted = sample(source, torch.from_numpy(at).to(source))
    return pair.judge(search(wanted, target, pair.target.size).double().numpy())


if __name__ == "__main__":
    main()
