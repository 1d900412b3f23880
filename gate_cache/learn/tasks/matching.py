"""Semantic correspondence as a task: pairs, their loss, PCK."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gate_cache.core.progress import Progress, Silent
from gate_cache.learn.features.bucket import Bucket, Buckets, Stacks, stack, stacks
from gate_cache.learn.features.feed import batched
from gate_cache.learn.metrics.intervals import bootstrap
from gate_cache.learn.metrics.items import Items
from gate_cache.learn.metrics.pck import (
    BROAD,
    BROADER,
    PCK,
    SELECT,
    SELECTED,
    Points,
    Prediction,
    by_category,
    correct,
    pck,
    share,
    units,
    with_radius,
)
from gate_cache.learn.mixing.amalgamator import CorrespondenceModel, build_model, by_map
from gate_cache.learn.mixing.weight_stats import weight_stats
from gate_cache.learn.tasks.correspondence import Matching, PairsLoss, nearest, sample
from gate_cache.learn.tasks.pose import PLACES, MirroredPose, SourceDescriptors
from gate_cache.learn.tasks.task import EVALUATING, Scores

if TYPE_CHECKING:
    from gate_cache.core.geometry import Window
    from gate_cache.datasets.common.base import Split
    from gate_cache.learn.features.pairs import PairPoints
    from gate_cache.learn.metrics.roles import Role
    from gate_cache.manifest.train_spec import TrainSpec

Weighed = list[dict[str, torch.Tensor]]
"""Every model's weights of each image, (1, n, b[, C]): a target's are those it had as a source."""


class CorrespondenceTask:
    """Pairs of images with points in common (METHOD.md section 5; paper, C.1).

    Parameters
    ----------
    buckets : of all features that any trial uses
    pairs : of each split
    matching : where matches are searched, as `correspondence.nearest` has it; never of the loss
    learnt : whether the loss's temperature is
    mirrored : the pose in which sources are matched where that is nearer, never in training
    """

    unit = "pairs"
    select = SELECTED

    def __init__(self, buckets: Buckets, pairs: Mapping[Split, Sequence[PairPoints]],
                 matching: Matching = "dense", learnt: bool = True,
                 mirrored: MirroredPose | None = None) -> None:
        self.buckets = buckets
        self.matching: Matching = matching
        self._learnt = learnt
        self._pairs = pairs
        self._mirrored = mirrored
        self.show: Progress = Silent()

    def items(self) -> Sequence[PairPoints]:
        """The training pairs."""
        return self._pairs["train"]

    def feed(self, batches: Iterable[Sequence[PairPoints]]) -> Iterator[Bucket | Stacks]:
        """Buckets of all sources, then of all targets, of each batch."""
        ids = ([p.pair.source for p in items] + [p.pair.target for p in items] for items in batches)
        return map(stacks, batched(self.buckets.stream, ids))

    def model(self, spec: TrainSpec, chosen: Sequence[int], weights: list[float] | None,
              attention: bool) -> CorrespondenceModel:
        """GATE, or a baseline; see `Task.model`."""
        tokens = self.buckets.tokens if attention else None
        return build_model(spec, self.buckets.channels, weights, chosen, tokens)

    def examples(self, ids: Sequence[str], places: int) -> Iterator[torch.Tensor]:
        """Of cells; see `Task.examples`."""
        for bucket in self.buckets.stream(ids):
            cells = bucket.conv.flatten(2).permute(2, 0, 1)
            yield cells[::max(len(cells) // places, 1)]

    def criterion(self) -> nn.Module:
        """Cross-entropy in both directions."""
        return PairsLoss(self.buckets, self._learnt)

    def of(self, pairs: Mapping[Split, Sequence[PairPoints]]) -> Self:
        """The same with other pairs of each split; what was read is shared."""
        task = copy(self)
        task._pairs = pairs
        return task

    def floors(self) -> dict[Role, Scores]:
        """The same place in the target, relative to its sides."""
        return {"floor": scores(Matched({p: p.source_shares for p in self._pairs["test"]}, {}),
                                True)}

    def judge(self, models: Sequence[nn.Module], split: Split) -> list[Scores]:
        """PCK of every model; an image's features are read once for all of them."""
        return [scores(matched, split == "test")
                for matched in self.match(models, self._pairs[split], EVALUATING[split])]

    @torch.inference_mode()
    def match(self, models: Sequence[nn.Module], pairs: Sequence[PairPoints],
              label: str = "matching") -> list[Matched]:
        """Every model's predictions for all pairs.

        Of each category an image is read once as a source, of which only the descriptors at its
        points are held, and once as a target.

        Parameters
        ----------
        models, pairs : all in evaluation mode afterwards; of any split
        label : what progress calls it
        """
        # pairs are keys by identity, and some sequences make them anew when asked
        matched, pairs = [Matched({}, {}) for _ in models], list(pairs)
        for model in models:
            model.eval()
        with self.show.task(label, len(pairs), "pairs") as bar:
            # one category's descriptors are held at a time
            for group in _grouped(pairs, lambda p: p.pair.category).values():
                self._match(models, group, matched, bar.advance)
        for of_model in matched:
            of_model.by_pair = {pair: of_model.by_pair[pair] for pair in pairs}  # as they came
        return matched

    def _match(self, models: Sequence[nn.Module], pairs: Sequence[PairPoints],
               matched: Sequence[Matched], advance: Callable[[int], None]) -> None:
        """The pairs of one category."""
        pose = self._mirrored
        weights: Weighed = [{} for _ in models]
        plain = self._sources(models, pairs, weights, None)
        mirrored = self._sources(models, pairs, [{} for _ in models], pose) if pose else []
        for of_target, window, described in self._described(
                self.buckets, models, _grouped(pairs, lambda p: p.pair.target), weights):
            for number, maps in enumerate(described):
                cut, sampled = window.cut(maps), []
                for pair in of_target:
                    own = plain[number].pop(pair)  # not needed again: it is freed
                    sampled.append(pose.aligned(pair, own, mirrored[number].pop(pair), cut)
                                   if pose else own.points)
                # all points of the target's pairs in one search
                there = nearest(torch.cat(sampled), cut, self.matching).cpu().double()
                shares = torch.split(there, list(map(len, sampled)))
                for pair, points in zip(of_target, shares, strict=True):
                    matched[number].by_pair[pair] = window.leave(np.asarray(points))
            advance(len(of_target))
        for of_model, weighed in zip(matched, weights, strict=True):
            of_model.weights |= {i: by_map(w)[0].cpu() for i, w in weighed.items()}

    def _sources(self, models: Sequence[nn.Module], pairs: Sequence[PairPoints],
                 weights: Weighed, pose: MirroredPose | None,
                 ) -> list[dict[PairPoints, SourceDescriptors]]:
        """Every model's descriptors of each pair's source, in one pose."""
        sources: list[dict[PairPoints, SourceDescriptors]] = [{} for _ in models]
        buckets = pose.buckets if pose else self.buckets
        for of_source, window, described in self._described(
                buckets, models, _grouped(pairs, lambda p: p.pair.source), weights):
            for maps, of_model in zip(described, sources, strict=True):
                cut = window.cut(maps)
                places = _sampled(cut, window, PLACES) if self._mirrored else None
                for pair in of_source:
                    at = pose.points(pair)[0] if pose else pair.source_shares
                    of_model[pair] = SourceDescriptors(_sampled(cut, window, at), places)
        return sources

    def _described(self, buckets: Buckets, models: Sequence[nn.Module],
                   groups: Mapping[str, list[PairPoints]], weights: Weighed,
                   ) -> Iterator[tuple[list[PairPoints], Window, Iterator[torch.Tensor]]]:
        """The pairs of each image, its cells, and its descriptors by one model after the other."""
        for (sample_id, group), bucket in zip(groups.items(), buckets.stream(groups), strict=True):
            first = group[0]
            size = (first.source if first.pair.source == sample_id else first.target).size
            yield group, buckets.window(size), self._of_models(models, sample_id, stack([bucket]),
                                                               weights)

    @staticmethod
    def _of_models(models: Sequence[nn.Module], sample_id: str, batch: Bucket,
                   weights: Weighed) -> Iterator[torch.Tensor]:
        for model, of_model in zip(models, weights, strict=True):
            # of an image that was a source too, its assigners have run already
            weighed = of_model.get(sample_id) if isinstance(model, CorrespondenceModel) else None
            output = model(batch) if weighed is None else model(batch, weighed)
            of_model[sample_id] = output.weights
            yield output.values[0]


@dataclass
class Matched:
    """One model's matches.

    Attributes
    ----------
    by_pair : (K, 2) predicted points, as shares of the target's sides
    weights : of the amalgamator by image, (n, b)
    """

    by_pair: dict[PairPoints, Points]
    weights: dict[str, torch.Tensor]

    @property
    def predictions(self) -> list[Prediction]:
        """In original pixels, beside the truth."""
        return [pair.judge(points) for pair, points in self.by_pair.items()]

    @property
    def ids(self) -> npt.NDArray[np.str_]:
        """(N, 2) each pair's images."""
        return np.array([(p.pair.source, p.pair.target) for p in self.by_pair], np.str_)

    def items(self) -> Items:
        """Pair by pair: right points of all that count, predicted points in the target's pixels.

        Of a pair whose target has no box none counts, and its score is NaN.
        """
        predictions = self.predictions
        chosen = units(predictions, *SELECT[:2])
        points = [p.predicted for p in predictions] or [np.zeros((0, 2))]
        counted = np.where(chosen[:, 1] > 0, chosen[:, 1].astype(np.float64), np.nan)
        return Items(self.ids, 100 * chosen[:, 0] / counted, chosen,
                     {BROADER: units(predictions, *BROAD[:2]),
                      "points": np.concatenate(points).astype(np.float32),
                      "counts": np.array([len(p.true) for p in predictions], np.int64),
                      "category": np.array([p.pair.category for p in self.by_pair], np.str_)})


def _sampled(cut: torch.Tensor, window: Window, points: Points) -> torch.Tensor:
    """Descriptors at points of an image, from the cells that show it."""
    return sample(cut, torch.from_numpy(window.enter(points)).to(cut, non_blocking=True))


def _grouped(pairs: Sequence[PairPoints],
             key: Callable[[PairPoints], str]) -> dict[str, list[PairPoints]]:
    groups: dict[str, list[PairPoints]] = {}
    for pair in pairs:
        groups.setdefault(key(pair), []).append(pair)
    return groups


def scores(matched: Matched, draw: bool = False) -> Scores:
    """PCK in all variants; each pair's share of right points.

    Parameters
    ----------
    matched : predictions of one model
    draw : whether to tell intervals, and results pair by pair
    """
    predictions = matched.predictions
    result = pck(predictions)
    per_pair = [100 * float(correct(p, SELECT[0], SELECT[1]).mean())
                for p in with_radius(predictions, SELECT[1])]
    return Scores({k: v for k, v in result.to_json().items() if v is not None},
                  result.values[SELECT], per_pair,
                  {"pairs": result.pairs, "points": result.points,
                   "pairs_without_box": result.boxless,
                   "categories": by_category(predictions, SELECT[0], SELECT[1]),
                   **(_intervals(matched) if draw else {}), **_weights(matched)},
                  matched.items() if draw else None)


def _intervals(matched: Matched) -> dict[str, Any]:
    """Of the PCK that chooses, and of the broader one, over the pairs' images."""
    counted = {name: units(matched.predictions, *key[:2])
               for name, key in ((SELECTED, SELECT), (BROADER, BROAD))}
    intervals = {name: list(bootstrap(u, share, ids=matched.ids))
                 for name, u in counted.items() if u.any()}
    return {"interval": intervals} if intervals else {}


def _weights(matched: Matched) -> dict[str, Any]:
    """What its amalgamator weighs; empty where it has none."""
    by_image = list(matched.weights.values())
    return {"weights": weight_stats(by_image).to_json()} if by_image else {}


def judge(model: nn.Module, buckets: Buckets, pairs: Sequence[PairPoints]) -> PCK:
    """PCK of one model over pairs."""
    (matched,) = CorrespondenceTask(buckets, {}).match([model], pairs)
    return pck(matched.predictions)
