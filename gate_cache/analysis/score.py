"""``score``: content shift of each combo against the reference at t = 0 (section 5.2, Eq. 1, 2).

The passes are run for a sample of images in memory; a store is neither read nor written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from gate_cache.core.errors import UserError
from gate_cache.diffusion.techniques.registry import techniques
from gate_cache.extraction.passes import Passes, chosen_combos, open_passes, with_combos
from gate_cache.learn.metrics.intervals import Spread
from gate_cache.learn.metrics.shift import apart, edge_strength, score
from gate_cache.manifest.specs import T_MAX, Combo
from gate_cache.workspace.pick import pick

if TYPE_CHECKING:
    from gate_cache.core.progress import Progress
    from gate_cache.datasets.common.base import ImageDataset
    from gate_cache.diffusion.models.sources import ModelFiles
    from gate_cache.extraction.inputs import ImageSource
    from gate_cache.workspace.workspace import Workspace

ANCHOR_T, IMAGES = 500, 32
"""Default timestep of the anchor, and default number of images."""
REFERENCE, ANCHOR, PLAIN = "@reference", "@anchor", "@plain"
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """One row: a combo, or no technique at one t.

    Attributes
    ----------
    techniques : in words
    score : mean of the maps' ShiftScores (Eq. 2) of each image
    maps : each map's Score
    gain : how much more than without the technique, at the same t and with the same noise; None
        for the rows without one
    """

    name: str
    techniques: str
    t: int
    score: Spread
    maps: dict[str, Spread]
    gain: Spread | None


@dataclass(frozen=True)
class ShiftScores:
    """All rows, and how they were found.

    Attributes
    ----------
    images : ids of the sample
    dropped : of them, those whose anchor has no shift, so that they have no Score
    prompt : of the features without techniques
    own : whether a combo's reference is the combo itself at t = 0; else it has no technique
    """

    manifest: str
    model: str
    prompt: str
    own: bool
    anchor_t: int
    images: list[str]
    dropped: list[str]
    rows: list[Scored]


def score_combos(work: Workspace, selection: Selection, *, anchor_t: int = ANCHOR_T,
                 own: bool = False) -> ShiftScores:
    """Measure every combo's content shift.

    Parameters
    ----------
    work : the manifest, data set and model
    selection : combos and images; of attention combos, too, convolutional maps are measured
    anchor_t : time of the anchor, a feature without techniques that has shifted a lot
    own : compare each combo with itself at t = 0, so that what its technique changes in all
        features, be they noised or not, is no shift

    Raises
    ------
    UserError
        No such image or combo, something of the model is missing, or nothing can be measured.
    """
    chosen = chosen_combos(work, selection.combos)
    files = with_combos(work, chosen).model()
    dataset, ids = selection.of(work, IMAGES)
    prompt = selection.prompt
    alike = {_plain_name(c): c for c in chosen.values()}
    latest = max(c.t for c in chosen.values())
    if latest >= anchor_t:
        raise UserError(f"--anchor-t {anchor_t}: the anchor needs a larger t than every combo, and"
                        f" one has t = {latest}; give more, up to {T_MAX}")
    every = {REFERENCE: plain(files, prompt), ANCHOR: plain(files, prompt, t=anchor_t),
             **{name: plain(files, prompt, **_read(c)) for name, c in alike.items()},  # for gains
             **{name: c.model_copy(update={"maps": None}) for name, c in chosen.items()},
             **({_own(name): c.model_copy(update={**ONE_PASS, "denoise": None, "guidance": None})
                 for name, c in chosen.items()} if own else {})}
    with open_passes(work, every, dataset, ids, selection.batch) as passes:
        edges = _edges(passes, work.progress)
    table = _Table(edges)
    left_out = [i for i, scored in zip(ids, table.scored, strict=True) if not scored]
    return ShiftScores(str(work.loaded.path), files.source, PROMPT if prompt is None else prompt,
                       own, anchor_t, ids, left_out, [*table.plain(alike), *table.combos(chosen)])


def _own(name: str) -> str:
    return f"{REFERENCE} {name}"


def _read(combo: Combo) -> dict[str, Any]:
    """The noise and time with which a combo is read."""
    return {field: getattr(combo, field) for field in ONE_PASS if field != "maps"}


def _plain_name(combo: Combo) -> str:
    return f"{PLAIN} {_read(combo)}"


@torch.inference_mode()
def _edges(passes: Passes, show: Progress) -> dict[str, dict[str, torch.Tensor]]:
    """Combo to map to (N, h, w) edge strengths, on the CPU: all that Eq. 1 needs of a feature."""
    rows = len(passes.source.samples)
    edges: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    total = sum(len(r.rows) for lane in passes.lanes for rs in lane.readers.values() for r in rs)
    with show.task("measuring", total, "features") as task:
        for lane in passes.lanes:
            for piece in passes.extractor.run(lane, passes.inputs):
                for name, maps in piece.maps.items():
                    strength = _of_images(edge_strength(maps).cpu(), passes.source, piece.rows)
                    table = edges[piece.combo].setdefault(
                        name, strength.new_full((rows, *strength.shape[1:]), torch.nan))
                    table[piece.rows] = strength
                task.advance(len(piece.rows))
    return edges


def _of_images(strength: torch.Tensor, source: ImageSource, rows: Sequence[int]) -> torch.Tensor:
    """(N, h, w) with 0 in cells that show padding alone: Eq. 1 sums over the image."""
    inside = np.stack([source.mask(row, strength.shape[-2:]) for row in rows])
    return strength.where(torch.from_numpy(inside), 0)


class _Table:
    """Scores of all features, (N,) by map; images without a shift of the anchor left out."""

    def __init__(self, edges: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        diffs = {c: {m: apart(edges[_own(c) if _own(c) in edges else REFERENCE][m], e)
                     for m, e in maps.items()} for c, maps in edges.items()}
        anchor = diffs[ANCHOR]
        self.scored = np.asarray(torch.stack([d > 0 for d in anchor.values()]).all(0).numpy())
        if not self.scored.any():
            raise UserError("no image's anchor has any shift: are these pictures of one colour?")
        self._scores = {c: {m: score(anchor[m], d).double().numpy()[self.scored]
                            for m, d in maps.items()} for c, maps in diffs.items()}

    def plain(self, alike: Mapping[str, Combo]) -> list[Scored]:
        """A row for each t, over all its seeds, with noise and without."""
        rows = []
        for t, noise in sorted({(c.t, c.noise) for c in alike.values()}):
            names = [name for name, c in alike.items() if (c.t, c.noise) == (t, noise)]
            without = ", no noise" * (noise == "none")
            maps = {m: np.mean([self._scores[n][m] for n in names], 0)
                    for m in self._scores[names[0]]}
            rows.append(_row(f"no technique{without}", "", t, maps, None))
        return rows

    def combos(self, chosen: Mapping[str, Combo]) -> list[Scored]:
        """A row for each combo."""
        return [_row(name, techniques_of(c), c.t, self._scores[name],
                     _mean(self._scores[_plain_name(c)])) for name, c in chosen.items()]


def _row(name: str, techniques: str, t: int, maps: Mapping[str, Values],
         without: Values | None) -> Scored:
    mean = _mean(maps)
    gain = None if without is None else Spread.of(mean - without)
    return Scored(name, techniques, t, Spread.of(mean),
                  {m: Spread.of(v) for m, v in maps.items()}, gain)


def _mean(maps: Mapping[str, Values]) -> Values:
    return np.asarray(np.mean(list(maps.values()), 0))


PROMPT = "a photo"
"""Of the reference, unless it is given: it says nothing of what the image shows."""
ONE_PASS: dict[str, Any] = {"t": 0, "seed": 0, "ensemble": 1, "noise": "gaussian", "mirror": False,
                            "maps": None}
"""What a combo says of the pass that is read, and not of what the model is given beside x_t."""


@dataclass(frozen=True)
class Selection:
    """What is measured, and on which images.

    Attributes
    ----------
    combos : names; by default all of ``conv``
    images : ids, or parts of them; by default some are drawn from the data set
    count : how many are drawn; None for the usual number
    prompt : of the reference, which has no technique; None for `PROMPT`
    batch : images per pass; None for what the manifest says
    """

    combos: Sequence[str] = ()
    images: Sequence[str] = ()
    count: int | None = None
    prompt: str | None = None
    batch: int | None = None

    def of(self, work: Workspace, usual: int) -> tuple[ImageDataset, list[str]]:
        """The data set and ids of the images; where no number is said, the usual one."""
        dataset = work.dataset()
        return dataset, pick([s.id for s in dataset.samples()], self.images, self.count or usual,
                             work.name, "its data set")


def plain(files: ModelFiles, prompt: str | None, **read: Any) -> Combo:
    """A combo without techniques.

    Parameters
    ----------
    files : of the model
    prompt : of the reference; `PROMPT` where none is given
    read : what of `ONE_PASS` is otherwise

    Raises
    ------
    UserError
        A prompt is given, and the model takes no text; or it is a vision encoder.
    """
    if not files.kind.noised:
        raise UserError(f"{files.source}: a vision encoder adds no noise, so its maps have no shift"
                        " to measure")
    if files.family.text:
        return Combo(prompt=PROMPT if prompt is None else prompt, **{**ONE_PASS, **read})
    if prompt is not None:
        raise UserError(f"--prompt: {files.source} takes no text")
    return Combo(**{**ONE_PASS, **read})


def techniques_of(combo: Combo) -> str:
    """A combo's techniques in a few words; its prompt is not among them."""
    titles = [technique.title() for technique in techniques("", combo)]
    if combo.guidance:
        titles.append(f"guidance {combo.guidance.scale:g}")
    return ", ".join(titles) or "prompt"
