"""``verify --recompute``: does this machine still compute what the store holds?

A few rows are extracted again and compared; nothing is written. Wiring, as in `extract`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import DataError, StoreError, counted
from gate_cache.core.size import SHAPE, SHAPES
from gate_cache.core.versions import versions
from gate_cache.diffusion.passes.recipes import PlannedCombo, latents_recipe
from gate_cache.extraction.inputs import ImageSource, open_source
from gate_cache.extraction.job import own_threads
from gate_cache.store.format.layout import LATENT_MAP, LATENTS
from gate_cache.workspace.data_root import dataset_near

if TYPE_CHECKING:
    from gate_cache.core.size import Size
    from gate_cache.datasets.common.base import ImageDataset
    from gate_cache.diffusion.models.sources import ModelFiles
    from gate_cache.store.format.samples import Samples
    from gate_cache.store.reader import ComboView, FeatureStore
    from gate_cache.workspace.workspace import Workspace

Maps = dict[str, npt.NDArray[Any]]


@dataclass
class Compared:
    """One combo's rows, stored and computed again.

    Attributes
    ----------
    rows, equal : rows compared, and of them equal in every bit
    largest : largest absolute difference
    relative : the same as a share of the largest absolute value of its map
    """

    name: str
    rows: int = 0
    equal: int = 0
    largest: float = 0.0
    relative: float = 0.0

    def add(self, stored: Maps, again: Maps) -> None:
        """Compare one row."""
        self.rows += 1
        cast = {n: again[n].astype(v.dtype) for n, v in stored.items()}
        self.equal += all(cast[n].tobytes() == v.tobytes() for n, v in stored.items())
        for name, value in stored.items():
            exact = value.astype(np.float64)
            gap = float(np.abs(exact - cast[name]).max(initial=0))
            gap = math.inf if math.isnan(gap) else gap  # max() passes NaN over: it would agree
            self.largest = max(self.largest, gap)
            self.relative = max(self.relative, gap / (float(np.abs(exact).max(initial=0)) or 1.0))


@dataclass(frozen=True)
class Recomputed:
    """What came of it.

    Attributes
    ----------
    rows : of the store
    device : what they were computed on now
    changed : what differs from what the store notes (libraries, device), a line each
    tolerance : what was allowed, as a share of the largest absolute value of a map
    notes : what was left out, a line each
    """

    store: str
    rows: list[int]
    device: str
    combos: list[Compared]
    changed: list[str]
    tolerance: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether every bit is the same."""
        return all(c.rows == c.equal for c in self.combos)

    @property
    def agrees(self) -> bool:
        """Whether the largest difference is within the tolerance."""
        return all(c.rows == c.equal or c.relative <= self.tolerance for c in self.combos)


ACROSS = {"float32": 1e-3, "float16": 3e-2, "bfloat16": 2e-1}
"""What another device or other software may change, by the model's dtype; see `Compared`.

In half precision twice what other batches and threads were seen to change on one processor
(docs/benchmarks.md).
"""


def recompute(work: Workspace, count: int = 8, *, seed: int = 0,
              tolerance: float | None = None) -> Recomputed:
    """Extract some rows of a store again, of all combos that have them.

    Parameters
    ----------
    count, seed : of rows, chosen at random among those that are done
    tolerance : by default 0 on the device and with the software that the store notes, and `ACROSS`
        elsewhere

    Raises
    ------
    UserError
        Nothing of the manifest is in its store, or something that extracting needs is missing.
    """
    import torch

    store = work.store()
    models, threads = _models(work, store), store.attrs.get("threads") or own_threads()
    dataset, notes = dataset_near(work.store_path, work.manifest.dataset, work.roots)
    views = [view for model in models for _, view in model.stored]
    rows = _choose(store, dataset, views, count, seed)

    def halved(count: int) -> None:
        notes.append("the device's memory was full: computed in batches of"
                     f" {count}, not of {store.attrs['batch']}")
    combos, here = list[Compared](), ""
    # as the store was computed: in float32 another number of threads changes the last bits
    with ThreadPoolExecutor(1, "device", torch.set_num_threads, (threads,)) as device:
        for model, samples, some in (part for m in models for part in _by_shape(m, store, rows)):
            others = set(range(len(samples))).difference(some)  # which need no caption
            source = open_source(model.work, dataset, samples, model.files, others, model.shape)
            compared, here = device.submit(_compare, model, store, source, some, halved).result()
            combos += compared
    left = len(work.manifest.combos) - len(views)
    notes += [f"not in the store: {counted(left, 'combo')} of the manifest"] if left else []
    changed = list(dict.fromkeys(line for v in views for line in _changed(v, here)))
    if tolerance is None:
        allowed = [ACROSS[model.work.manifest.model.dtype] for model in models]
        tolerance = max(allowed) if changed else 0.0
    return Recomputed(str(store.path), rows, here, combos, changed, tolerance, notes)


@dataclass(frozen=True)
class _Model:
    """A model alone, with those of its combos that the store has; of inputs of one shape, if so."""

    work: Workspace
    files: ModelFiles
    stored: list[tuple[PlannedCombo, ComboView]]
    shape: Size | None = None

    def name(self, combo: str) -> str:
        """Of a combo or the latents, for people."""
        return f"{combo} at {self.shape}" if self.shape else combo


def _models(work: Workspace, store: FeatureStore) -> list[_Model]:
    views, models = store.views(), list[_Model]()
    for part in work.by_model().values():
        files = part.model()
        stored = [(plan, view) for plan in part.plans(files) for view in views
                  if view.recipe == plan.recipe]
        models += [_Model(part, files, stored)] if stored else []
    if not models:
        raise StoreError(f"{store.path}: no combo of this manifest is in it as the manifest has it"
                         " now; 'gate-cache status' says why")
    return models


def _by_shape(model: _Model, store: FeatureStore,
              rows: list[int]) -> Iterator[tuple[_Model, Samples, list[int]]]:
    """The model for inputs of each shape, their samples, and which of these are compared."""
    shapes = model.files.preprocessing(model.work.manifest.model).shapes
    if not shapes:
        yield model, store.samples, rows
    for shape in shapes:
        own = store.samples.of_shape({SHAPES: shapes, SHAPE: shape})
        plans = [(plan.at(shape), view.groups) for plan, view in model.stored]
        found = [(plan, group) for plan, groups in plans for group in groups
                 if group.recipe == plan.recipe]
        if own is not None and found and np.isin(own, rows).any():
            yield (replace(model, stored=found, shape=shape), store.samples.part(own),
                   np.isin(own, rows).nonzero()[0].tolist())


def _choose(store: FeatureStore, dataset: ImageDataset, views: Sequence[ComboView], count: int,
            seed: int) -> list[int]:
    """Rows that some combo has, and whose image is still the one that it was."""
    done = np.flatnonzero(np.any([view.done() for view in views], axis=0)).tolist()
    random.Random(seed).shuffle(done)  # noqa: S311
    chosen: list[int] = []
    for row in done:
        if len(chosen) == count:
            break
        try:
            same = dataset.sha256(store.samples[row]) == store.samples.sha256[row]
        except DataError:
            same = False
        chosen += [row] if same else []
    if not chosen:
        raise StoreError(f"{store.path}: no finished row whose image is in the data set as it was")
    return sorted(chosen)


def _changed(view: ComboView, device: str) -> list[str]:
    attrs, now = view.attrs, versions()
    made = [made for made, _ in view.made() if made]
    noted = [m.versions for m in made] or [attrs.get("versions", {})]
    lines = [f"{name} {then[name]} then, {now.get(name, 'none')} now"
             for then in noted for name in then if then[name] != now.get(name)]
    devices = sorted({m.device for m in made}) or attrs.get("devices", [])  # older stores
    if devices != [device]:
        lines.append(f"device {' and '.join(devices) or 'not noted'} then, {device} now")
    return lines


def _compare(model: _Model, store: FeatureStore, source: ImageSource, rows: list[int],
             halved: Callable[[int], object]) -> tuple[list[Compared], str]:
    """Rows through the model, as `Block` does it; and the device."""
    from gate_cache.extraction.passes import passes_over
    from gate_cache.workspace.device import described

    work, files = model.work, model.files
    views = {plan.name: view for plan, view in model.stored}
    wanted = [(plan, np.array(rows, int)[view.done()[rows]].tolist())
              for plan, view in model.stored]
    combos = {name: Compared(model.name(name)) for name in views}
    with passes_over(work, files, source, wanted, int(store.attrs["batch"]), halved) as passes, \
            work.progress.task("computing again", sum(len(r) for _, r in wanted), "rows") as task:
        latents = _compare_latents(model, store, rows, passes.inputs.latents(rows).cpu().numpy())
        for lane in passes.lanes:
            for piece in passes.extractor.run(lane, passes.inputs):
                maps = {n: values.float().cpu().numpy() for n, values in piece.maps.items()}
                for i, row in enumerate(piece.rows):
                    view = views[piece.combo]
                    combos[piece.combo].add({n: view[n][row] for n in view},
                                            {n: m[i] for n, m in maps.items()})
                task.advance(len(piece.rows))
        return [*latents, *combos.values()], described(passes.extractor.model.device)


def _compare_latents(model: _Model, store: FeatureStore, rows: list[int],
                     x0: npt.NDArray[Any]) -> list[Compared]:
    """The latents, if the store keeps them."""
    spec, files, compared = model.work.manifest.model, model.files, Compared(model.name(LATENTS))
    recipe = latents_recipe(files, files.preprocessing(spec), spec.compute)
    recipe |= {SHAPE: list(model.shape)} if model.shape else {}
    for view in [g for v in store.latents() for g in v.groups if g.recipe == recipe]:
        done = view.done()
        for i, row in enumerate(rows):
            if done[row]:
                compared.add({LATENT_MAP: view[LATENT_MAP][row]}, {LATENT_MAP: x0[i]})
    return [compared] if compared.rows else []
