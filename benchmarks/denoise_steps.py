"""How many DDIM steps from t = 60 to 50 does the attention feature need? With tiny, on toyworld.

    python -m benchmarks.denoise_steps
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import extract
from gate_cache.learn.mixing.amalgamator import build_model
from gate_cache.learn.tasks.matching import judge
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import Manifest
from gate_cache.report.terminal.console import console_progress
from gate_cache.training.inputs import TrainingInputs, open_any
from gate_cache.workspace.workspace import Workspace

STEPS, MANY = (1, 2, 5, 10), 30
TEXT = "a photo of aeroplane, bird, boat, bottle, car, cat, chair, horse"


def manifest(images: int, start: int) -> Manifest:
    """One plain feature, and the attention feature after some numbers of steps."""
    def attention(steps: int) -> dict[str, object]:
        return {"prompt": TEXT, "controlnet": {"source": "tiny", "scale": 0.5},
                "lora": {"source": "tiny/moderate"}, "denoise": {"from": start, "steps": steps}}
    return Manifest.model_validate({
        "dataset": {"name": "toyworld", "train": 16, "val": 16, "test": images},
        "model": {"source": "tiny"}, "conv": {"plain": {"prompt": "a photo"}},
        "attention": {"none": {k: v for k, v in attention(1).items() if k != "denoise"},
                      **{f"steps-{n}": attention(n) for n in (*STEPS, MANY) if start - 50 >= n}},
        "train": {"combos": ["plain"], "baseline": "plain"}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--start", type=int, default=60)
    args = parser.parse_args()
    show = console_progress()
    with tempfile.TemporaryDirectory() as temp:
        roots = Roots(stores=Path(temp))
        loaded = Loaded(path=Path("steps.yaml"), manifest=manifest(args.images, args.start))
        extract(Workspace(loaded, roots, progress=show))
        study = open_any(Workspace(loaded, roots, progress=show))
        assert isinstance(study, TrainingInputs)
        names = list(loaded.manifest.attention)
        best, found = study.store[names[-1]], {}
        for name in names:
            change = [np.linalg.norm(study.store[name][m][:] - best[m][:])
                      / np.linalg.norm(best[m][:].astype(np.float32)) for m in best.maps]
            buckets = study.features.of(study.features.spec.combos, study.store[name].name)
            model = build_model(study.spec, buckets.channels, [1.0])
            pck = judge(model, buckets, study.pairs["test"])
            found[name] = {
                "change": [round(float(c), 4) for c in change],
                "pck@0.1 image, box": [round(pck.values[0.1, side, "point"], 2)
                                       for side in ("image", "box")]}
    print(json.dumps({"images": args.images, "start": args.start,
                      "change against": names[-1], "maps": list(best.maps), **found}, indent=2))


if __name__ == "__main__":
    main()
