"""One block of an extraction: its inputs, its passes, and every combo's rows on their way in."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gate_cache.datasets.base import ImageDataset
from gate_cache.datasets.images import to_square
from gate_cache.diffusion.recipes import PlannedCombo
from gate_cache.diffusion.schedule import Wanted, schedule
from gate_cache.diffusion.tokens import ClipTokens
from gate_cache.errors import StoreError
from gate_cache.geometry import Placement, Square
from gate_cache.store.layout import LATENT_MAP, LATENTS
from gate_cache.store.writer import GroupWriter, StoreWriter

if TYPE_CHECKING:
    from gate_cache.diffusion.extractor import Extractor, Piece

Maps = dict[str, npt.NDArray[Any]]


@dataclass
class Job:
    """One combo with its group and what is left to do of it."""

    plan: PlannedCombo
    group: GroupWriter
    todo: list[range]


@dataclass
class Work:
    """What every block's work needs.

    Attributes
    ----------
    square : the model's input
    gone : rows whose image is not in the data set any more
    done : rows computed so far, by combo
    """

    dataset: ImageDataset
    store: StoreWriter
    tokens: ClipTokens
    square: Square
    latents: GroupWriter
    gone: set[int]
    done: dict[str, int]


def extract_block(work: Work, rows: range, jobs: list[Job], extractor: Extractor,
                  task: Any) -> None:
    """All that is left to do of one block; every combo is written as soon as it is complete."""
    images = _Images(work.dataset, work.store, work.square)
    inputs = _Inputs(work.store, images, rows.start, _latents(work, rows, extractor, images))
    drafts = {j.plan.name: _Draft(work, j, rows) for j in jobs if rows in j.todo}
    lanes = schedule([(Wanted.of(d.job.plan), d.left) for d in drafts.values()], work.tokens.count)
    for lane in lanes:
        for piece in extractor.run(lane, inputs):
            drafts[piece.combo].add(piece)
            task.advance(len(piece.rows))
    for draft in drafts.values():
        draft.write_when_complete()


class _Draft:
    """One combo's block on its way into the store: kept rows, fresh ones, NaN for gone images."""

    def __init__(self, work: Work, job: Job, rows: range) -> None:
        self.job = job
        self._work = work
        self._rows = rows
        self._fresh = fresh_rows(work, job.group, rows)
        self.left = set(self._fresh)
        self._written = False
        self._maps: Maps = {}

    def add(self, piece: Piece) -> None:
        """Take computed rows; write the block if they are the last ones."""
        cast = _cast(self.job, piece.maps)
        whole = self._maps or self._begun()
        for name, values in cast.items():
            whole[name][[r - self._rows.start for r in piece.rows]] = values
        self.left -= set(piece.rows)
        self.write_when_complete()

    def write_when_complete(self) -> None:
        """Write the block once, when no row is left to compute."""
        if self._written or self.left:
            return
        _write(self._work, self.job.group, self._rows, self._maps or self._begun())
        self._written, self._maps = True, {}
        self._work.done[self.job.plan.name] += len(self._fresh)

    def _begun(self) -> Maps:
        self._maps = _kept(self.job.group, self._rows)
        return self._maps


def _kept(group: GroupWriter, rows: range) -> Maps:
    """A block's arrays with the rows that are kept, and NaN in the others."""
    old, kept = group.read_kept(rows), group.kept(rows)
    whole: Maps = {}
    for name in group.maps:
        whole[name] = np.full((len(rows), *group.shape(name)), np.nan, group.dtype(name))
        if kept:
            whole[name][:kept] = old[name]
    return whole


def _write(work: Work, group: GroupWriter, rows: range, whole: Maps) -> None:
    """Write a whole block; rows whose image is gone are noted as absent."""
    kept = group.kept(rows)
    void = [r for r in rows[kept:] if r in work.gone]
    group.write(rows, whole, [*void, *group.absent(rows[:kept])])


def _latents(work: Work, rows: range, extractor: Extractor, images: _Images) -> npt.NDArray[Any]:
    """The block's latents: from the store, or through the VAE and then into the store."""
    group = work.latents
    if group.kept(rows) == len(rows):
        return group.read_kept(rows)[LATENT_MAP]
    fresh, whole = fresh_rows(work, group, rows), _kept(group, rows)
    if fresh:
        found = extractor.encode(images.read(fresh))
        _refuse_not_finite("latents", {LATENT_MAP: found}, "bfloat16 or float32 as model.dtype")
        whole[LATENT_MAP][[r - rows.start for r in fresh]] = found
    work.done[LATENTS] += len(fresh)
    _write(work, group, rows, whole)
    return whole[LATENT_MAP]


def _cast(job: Job, maps: Maps) -> Maps:
    """Cast to the stored dtype; what does not fit it is refused, not stored as infinity."""
    _refuse_not_finite(job.plan.name, maps, "bfloat16 or float32 as model.dtype")
    with np.errstate(over="ignore"):
        cast: Maps = {n: m.astype(job.group.dtype(n)) for n, m in maps.items()}
    _refuse_not_finite(job.plan.name, cast, "float32 as store.dtype and another store.path")
    return cast


def _refuse_not_finite(name: str, maps: Maps, way_out: str) -> None:
    for key, value in maps.items():
        if not np.isfinite(value).all():
            raise StoreError(f"{name}: '{key}' has values that are not finite; try {way_out}")


class _Inputs:
    """What passes need of a block's rows; see `gate_cache.diffusion.extractor.Inputs`."""

    def __init__(self, store: StoreWriter, images: _Images, start: int,
                 latents: npt.NDArray[np.float32]) -> None:
        self._store = store
        self._images = images
        self._start = start
        self._latents = latents
        self._edges: dict[tuple[int, int, int], npt.NDArray[np.uint8]] = {}

    def id(self, row: int) -> str:
        return str(self._store.samples[row])

    def latents(self, rows: Sequence[int]) -> npt.NDArray[np.float32]:
        return self._latents[[r - self._start for r in rows]]

    def edges(self, rows: Sequence[int], low: int, high: int) -> npt.NDArray[np.uint8]:
        """Canny maps, found once for all combos with the same thresholds; none in the padding."""
        from gate_cache.diffusion.techniques.controlnet import canny

        missing = list(dict.fromkeys(r for r in rows if (r, low, high) not in self._edges))
        if missing:
            found = canny(self._images.read(missing), low, high) * self._images.masks(missing)
            self._edges |= {(r, low, high): e for r, e in zip(missing, found, strict=True)}
        return np.stack([self._edges[r, low, high] for r in rows])


class _Images:
    """The images of a block at the model's size, each read once."""

    def __init__(self, dataset: ImageDataset, store: StoreWriter, square: Square) -> None:
        self._dataset = dataset
        self._store = store
        self._square = square
        self._places: dict[int, Placement] = {}
        self._known: dict[int, npt.NDArray[np.uint8]] = {}

    def read(self, rows: list[int]) -> npt.NDArray[np.uint8]:
        """(len(rows), size, size, 3) uint8."""
        missing = [r for r in rows if r not in self._known]
        with ThreadPoolExecutor(2) as pool:
            self._known.update(zip(missing, pool.map(self._one, missing), strict=True))
        return np.stack([self._known[r] for r in rows])

    def masks(self, rows: list[int]) -> npt.NDArray[np.bool_]:
        """(len(rows), size, size): the pixels that are the image's, of rows that were read."""
        return np.stack([self._places[r].mask(self._square.size) for r in rows])

    def _one(self, row: int) -> npt.NDArray[np.uint8]:
        image = self._dataset.image(self._store.samples[row])
        self._places[row] = self._square.place(*image.shape[:2])
        return to_square(image, self._square.size, self._square.fit)


def fresh_rows(work: Work, group: GroupWriter, rows: range) -> list[int]:
    """Rows of a block to compute: not kept, and their image is there."""
    return [r for r in rows[group.kept(rows):] if r not in work.gone]
