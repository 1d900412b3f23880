"""Counting the labels of all masks, and what is odd about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from threading import Lock
from typing import Any

from gate_cache.core.errors import DataError, listed
from gate_cache.core.progress import Progress
from gate_cache.datasets.common.base import IGNORED, SPLITS, SegmentationDataset, Split
from gate_cache.datasets.common.labelled import LabelledImages
from gate_cache.datasets.summary.summary import Summary, grouped, read_all, tell_classes

MOSTLY = 0.5
"""A share above which labels are mostly ignored."""
ODD = 0.1
"""A share of a split's masks above which it is told that they show one class, and what is not."""


class LabelCounts:
    """Counts the pixels of a data set's masks into a summary."""

    def __init__(self, dataset: SegmentationDataset, summary: Summary) -> None:
        self.dataset, self.summary = dataset, summary
        self._raw: Counter[int] = Counter()
        self._lock = Lock()

    def count(self, of_split: dict[str, str], show: Progress) -> None:
        import numpy as np

        summary = self.summary
        if isinstance(self.dataset, LabelledImages):
            with suppress(DataError):  # which every image will raise
                self.dataset.table(next(iter(of_split)))  # once, not in every thread
        read, wrong = read_all(list(of_split), "reading labels", show, self._read)
        summary.faults += grouped(wrong)
        if isinstance(self.dataset, LabelledImages):
            summary.faults += self.dataset.faults_of(self._raw)
        names = self.dataset.classes if read else ()
        none = np.zeros((0, 256), np.int64)
        counts = {s: np.array([read[i][0] for i in read if of_split[i] == s] or none)
                  for s in SPLITS}  # (images, 256) of each split
        for k, name in enumerate(names):
            summary.classes[name] = {s: int((n[:, k] > 0).sum()) for s, n in counts.items()}
            summary.pixels[name] = {s: int(n[:, k].sum()) for s, n in counts.items()}
        summary.ignored = {s: int(n[:, IGNORED].sum()) for s, n in counts.items()}
        classes = {s: (n[:, :IGNORED] > 0).sum(1) for s, n in counts.items()}
        summary.blank = {s: int((n == 0).sum()) for s, n in classes.items()}
        plain = {s: int(((classes[s] == 1) & (n[:, IGNORED] > 0)).sum())
                 for s, n in counts.items()}
        inside = sum(inner for _, inner in read.values())
        tell_classes(summary)
        self._tell(len(read), plain, [n for k, n in enumerate(names) if not inside[k]])

    def _read(self, sample_id: str) -> tuple[Any, Any]:
        """(256,) pixels of each class, and (256,) those of them inside their class."""
        import numpy as np

        from gate_cache.datasets.common.label_pictures import thick
        from gate_cache.datasets.common.labelled import distinct

        if isinstance(self.dataset, LabelledImages):
            labels = self.dataset.labels(sample_id)
            with self._lock:
                self._raw.update(distinct(labels))
            mask = self.dataset.to_mask(sample_id, labels)
        else:
            mask = self.dataset.mask(sample_id)
        return np.bincount(mask.flat, minlength=256), thick(mask)

    def _tell(self, masks: int, plain: Mapping[Split, int], thin: list[str]) -> None:
        summary, notes = self.summary, self.summary.notes
        for split in SPLITS:
            ignored, all_of = summary.ignored[split], summary.images.get(split, 0)
            pixels = ignored + sum(c[split] for c in summary.pixels.values())
            if ignored > MOSTLY * pixels:
                share = f"{100 * ignored / pixels:.1f} %"
                notes.append(f"{share} of the pixels of split '{split}' have no class: is the"
                             " ignored label one?")
            if summary.blank[split]:
                notes.append(f"{summary.blank[split]} of the {all_of} images of split '{split}'"
                             " have no pixel of a class")
            if plain[split] > ODD * all_of:
                notes.append(f"{plain[split]} of the {all_of} masks of split '{split}' show one"
                             " class and what is ignored: is the ignored label the object?")
        small = [n for n in thin if sum(summary.pixels[n].values()) >= masks]
        if small and len(summary.pixels) > 2:
            notes.append(f"class {listed(map(repr, small))} is nowhere wider than two pixels: thin"
                         " lines, or masks that were resized with smoothing (take the nearest"
                         " neighbour)")
