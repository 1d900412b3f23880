"""Dense metrics, intervals and weight statistics against slow references from their definitions."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from gate_cache.learn.metrics.dense import (
    accuracy,
    class_accuracy,
    counts,
    iou,
    mean_accuracy,
    mean_iou,
)
from gate_cache.learn.metrics.image_scores import ImageScores
from gate_cache.learn.metrics.intervals import bootstrap
from gate_cache.learn.mixing.weight_stats import weight_stats

Array = npt.NDArray[Any]
IGNORED = 255


def slow(true: Array, found: Array, classes: int) -> dict[str, float]:
    """Word for word: over the pixels that count."""
    pairs = Counter((int(t), int(p)) for t, p in zip(true.ravel(), found.ravel(), strict=True)
                    if t != IGNORED)
    ious, accuracies = [], []
    for c in range(classes):
        both = pairs[c, c]
        either = sum(n for (t, p), n in pairs.items() if c in (t, p))
        there = sum(n for (t, _), n in pairs.items() if t == c)
        ious += [both / either] if either else []
        accuracies += [both / there] if there else []
    total = sum(pairs.values())
    right = sum(n for (t, p), n in pairs.items() if t == p)
    return {"mIoU": 100 * sum(ious) / len(ious) if ious else math.nan,
            "mAcc": 100 * sum(accuracies) / len(accuracies) if accuracies else math.nan,
            "aAcc": 100 * right / total if total else math.nan}


def fast(true: Array, found: Array, classes: int) -> dict[str, float]:
    summed = counts(true, found, classes)
    return {"mIoU": mean_iou(summed), "mAcc": mean_accuracy(summed), "aAcc": accuracy(summed)}


def random_case(seed: int) -> tuple[Array, Array, int]:
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(1, 8))
    true = rng.integers(0, classes, (9, 7)).astype(np.uint8)
    found = np.where(rng.random(true.shape) < 0.6, true, rng.integers(0, classes, true.shape))
    true[rng.random(true.shape) < 0.2] = IGNORED
    return true, found.astype(np.uint8), classes


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_the_definition(seed: int) -> None:
    case = random_case(seed)
    assert fast(*case) == pytest.approx(slow(*case), nan_ok=True)


@pytest.mark.parametrize(("true", "found", "classes"), [
    (np.full((3, 3), IGNORED), np.zeros((3, 3), int), 2),
    (np.zeros((2, 2), int), np.zeros((2, 2), int), 1),
    (np.zeros((2, 2), int), np.ones((2, 2), int), 3),
    (np.zeros((0,), int), np.zeros((0,), int), 3),
])
def test_agrees_at_the_edges(true: Array, found: Array, classes: int) -> None:
    assert fast(true, found, classes) == pytest.approx(slow(true, found, classes), nan_ok=True)


def test_a_class_that_is_only_predicted_counts_against_miou_but_not_macc() -> None:
    summed = counts(np.array([0, 0]), np.array([0, 1]), 3)
    assert iou(summed).tolist()[:2] == [50, 0] and math.isnan(iou(summed)[2])
    assert class_accuracy(summed)[0] == 50 and math.isnan(class_accuracy(summed)[1])
    assert mean_iou(summed) == 25 and mean_accuracy(summed) == 50


def test_what_is_predicted_where_labels_are_ignored_does_not_count() -> None:
    true = np.array([0, 1, IGNORED])
    a, b = (counts(true, np.array([0, 1, p]), 2) for p in (0, 1))
    assert (a == b).all() and a.tolist() == [[1, 1]] * 3


def test_a_number_that_is_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="classes 0 to 5"):
        counts(np.array([0, 5]), np.array([0, 0]), 2)


def slow_scarce(trues: list[Array], founds: list[Array], classes: int) -> float:
    """ddpm-segmentation's mIoU: a class's pixels of both maps, whatever is ignored; all classes."""
    ious = []
    for c in range(classes):
        both = either = 0
        for true, found in zip(trues, founds, strict=True):
            a, b = (cv2.resize(x, (256, 256), interpolation=cv2.INTER_NEAREST) == c
                    for x in (true, found))
            both, either = both + (a & b).sum(), either + (a | b).sum()
        ious.append(both / (1e-8 + either))
    return 100 * float(np.mean(ious))


@pytest.mark.parametrize("seed", range(6))
def test_ddpm_segmentations_variant_is_its_own(seed: int) -> None:
    cases = [random_case(seed), random_case(seed + 100)]
    trues, founds = [c[0] for c in cases], [c[1] for c in cases]
    classes = max(c[2] for c in cases) + seed % 2  # sometimes one that is nowhere
    scores = ImageScores([str(c) for c in range(classes)], scarce=True)
    for true, found in zip(trues, founds, strict=True):
        scores.image(true, found)
    values = scores.segmentation(interval=True)
    expected = slow_scarce(trues, founds, classes)
    assert values.values["mIoU/ddpm-segmentation"] == pytest.approx(expected, abs=1e-6)
    assert values.values["mIoU"] == pytest.approx(
        slow(np.concatenate([t.ravel() for t in trues]),
             np.concatenate([f.ravel() for f in founds]), classes)["mIoU"])
    low, high = values.details["interval"]["mIoU/ddpm-segmentation"]
    assert low <= expected + 1e-6 and expected - 1e-6 <= high


def test_both_mious_by_hand() -> None:
    """2 × 2 pixels, one ignored and taken for class 1; class 2 is nowhere.

    Ours: 0: 1 of 1, 1: 2 of 2. ddpm-segmentation: 0: 1 of 1, 1: 2 of 3, 2: 0.
    """
    scores = ImageScores(["a", "b", "c"], scarce=True)
    scores.image(np.array([[0, 1], [1, IGNORED]], np.uint8), np.array([[0, 1], [1, 1]], np.uint8))
    found = scores.segmentation(interval=False).values
    assert found["mIoU"] == 100
    assert found["mIoU/ddpm-segmentation"] == pytest.approx(100 * (1 + 2 / 3 + 0) / 3)


@pytest.mark.parametrize("seed", range(5))
def test_mmsegmentation_says_the_same(seed: int) -> None:
    """Areas by histogram over what is not ignored; IoU, Acc and their means without NaN."""
    true, found, classes = random_case(seed)
    kept = true != IGNORED
    label, pred = true[kept], found[kept]
    area = [np.histogram(x, bins=classes, range=(-0.5, classes - 0.5))[0].astype(float)
            for x in (pred[pred == label], pred, label)]
    with np.errstate(invalid="ignore"):
        ious, accs = area[0] / (area[1] + area[2] - area[0]), area[0] / area[2]
    expected = {"mIoU": 100 * np.nanmean(ious), "mAcc": 100 * np.nanmean(accs),
                "aAcc": 100 * area[0].sum() / area[2].sum()}
    assert fast(true, found, classes) == pytest.approx(expected)


def test_a_tally_sums_pixels_and_keeps_images_apart() -> None:
    tally = ImageScores(["a", "b"])
    cases = [(np.zeros(10, int), np.zeros(10, int)), (np.array([1, 1]), np.array([0, 1])),
             (np.full(3, IGNORED), np.zeros(3, int))]
    for true, found in cases:
        tally.image(true, found)
    joined = [np.concatenate(parts) for parts in zip(*cases, strict=True)]
    scores = tally.segmentation(interval=True)
    assert scores.values == pytest.approx(slow(joined[0], joined[1], 2))
    assert scores.each == pytest.approx([slow(*cases[0], 2)["mIoU"], slow(*cases[1], 2)["mIoU"]])
    low, high = scores.details["interval"]["aAcc"]
    assert low <= scores.values["aAcc"] <= high


# ---------------------------------------------------------------------------------- intervals


def slow_bootstrap(units: Array, draws: int) -> tuple[float, float]:
    rng = np.random.default_rng(7)
    means = [units[rng.integers(0, len(units), len(units))].mean() for _ in range(draws)]
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


@pytest.mark.parametrize("seed", range(3))
def test_bootstrap_agrees_with_drawing_by_hand(seed: int) -> None:
    units = np.random.default_rng(seed).exponential(10, 60)
    found, expected = bootstrap(units, draws=4000), slow_bootstrap(units, 4000)
    assert found == pytest.approx(expected, rel=0.05)


def test_bootstrap_is_seeded() -> None:
    units = np.arange(20.0)
    assert bootstrap(units) == bootstrap(units)
    assert bootstrap(units) != bootstrap(units, seed=1)


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = [low <= 5 <= high for low, high in
            (bootstrap(rng.normal(5, 2, 80), draws=300) for _ in range(150))]
    assert 0.88 <= np.mean(hits) <= 0.99


def test_pairs_are_drawn_by_their_images() -> None:
    rng, mean = np.random.default_rng(0), lambda totals: totals[:, 0] / totals[:, 1]
    a, b = np.array([(a, b) for a in range(16) for b in range(16) if a != b]).T
    ids = np.stack([a, b], 1).astype(str)
    covered = []
    for _ in range(60):
        images = rng.normal(0, 1, 16)  # pairs are alike where they share an image
        units = np.stack([images[a] + images[b] + rng.normal(5, 0.5, len(a)), np.ones(len(a))], 1)
        found = [bootstrap(units, mean, draws=200), bootstrap(units, mean, ids=ids, draws=200)]
        covered.append([low <= 5 <= high for low, high in found])
    of_pairs, of_images = np.mean(covered, 0)
    assert of_pairs < 0.6 and of_images >= 0.88


def test_bootstrap_of_a_ratio_draws_images_whole() -> None:
    units = np.array([[10, 10], [0, 1], [3, 6]])
    low, high = bootstrap(units, lambda totals: totals[:, 0] / totals[:, 1])
    assert low == 0 and high == 1


def test_no_units_have_no_interval() -> None:
    assert all(math.isnan(v) for v in bootstrap([]))


# ------------------------------------------------------------------------------------ weights

TOY = torch.tensor([
    [[0.6, 0.3, 0.1], [0.5, 0.1, 0.4]],   # the same largest
    [[0.6, 0.3, 0.1], [0.3, 0.6, 0.1]],   # each other's second
    [[0.9, 0.06, 0.04], [0.1, 0.5, 0.4]],  # share a second alone
])


def test_weight_statistics_of_toy_weights() -> None:
    found = weight_stats(TOY)
    assert found.mean[0] == pytest.approx([0.7, 0.22, 0.08])
    assert found.top1 == pytest.approx([0.7, (0.5 + 0.6 + 0.5) / 3])
    assert found.top2 == pytest.approx([0.22, (0.4 + 0.3 + 0.4) / 3])
    assert found.overlap == pytest.approx({"none": 0, "top1": 1 / 3, "top2": 2 / 3})


def test_assigners_of_four_features_may_not_overlap() -> None:
    apart = torch.tensor([[[0.5, 0.4, 0.1, 0.0], [0.0, 0.1, 0.4, 0.5]]])
    assert weight_stats(apart).overlap == {"none": 1, "top1": 0, "top2": 0}


def test_one_assigner_and_one_feature() -> None:
    found = weight_stats(torch.ones(4, 1, 1))
    assert found.overlap == {} and found.top1 == [1] and found.top2 == [0]
