"""PCK against a slow reference written from its definition, and by hand."""

import math
import os
from pathlib import Path

import numpy as np
import pytest

from gate_cache.core.size import Size
from gate_cache.datasets.common.base import Keypoints, Pair
from gate_cache.datasets.pf_willow import PFWillow
from gate_cache.learn.features.pairs import PairPoints, load_pairs
from gate_cache.learn.metrics.pck import (
    PCK,
    Prediction,
    by_category,
    correct,
    pck,
    radius_in_cells,
)

ALPHAS = (0.01, 0.05, 0.1, 0.15, 0.2)
PF_WILLOW = Path(os.environ.get("GATE_CACHE_DATA", "data")) / "PF-dataset-WILLOW"


def keypoints(xy: list[tuple[float, float]], size: tuple[int, int] = (100, 100),
              box: tuple[float, float, float, float] = (0, 0, 50, 40),
              visible: list[bool] | None = None) -> Keypoints:
    return Keypoints(np.array(xy, float).reshape(-1, 2),
                     np.array([True] * len(xy) if visible is None else visible, bool),
                     np.array(box, float), size)


def prediction(predicted: list[tuple[float, float]], true: list[tuple[float, float]],
               size: tuple[int, int] = (100, 100),
               box: tuple[float, float, float, float] = (0, 0, 50, 40),
               category: str = "") -> Prediction:
    return Prediction(np.array(predicted, float).reshape(-1, 2),
                      np.array(true, float).reshape(-1, 2), keypoints(true, size, box), category)


def pair(source: Keypoints, target: Keypoints) -> PairPoints:
    return PairPoints(Pair("a", "b", "c"), source, target)


def slow_pck(predictions: list[Prediction], alpha: float, radius: str, average: str) -> float:
    """PCK word for word from the module's definition."""
    shares, right, total = [], 0, 0
    by_category: dict[str, list[list[bool]]] = {}
    for p in predictions:
        height, width = p.target.size
        x0, y0, x1, y1 = p.target.box
        side = max(height, width) if radius == "image" else max(x1 - x0, y1 - y0)
        hits = [math.dist(found, true) <= alpha * side
                for found, true in zip(p.predicted.tolist(), p.true.tolist(), strict=True)]
        if hits:
            shares.append(sum(hits) / len(hits))
            right, total = right + sum(hits), total + len(hits)
            by_category.setdefault(p.category, []).append(hits)
    if not shares:
        return math.nan
    if average.startswith("category"):
        of_each = []
        for pairs in by_category.values():
            each = pairs if average == "category-image" else [[h for p in pairs for h in p]]
            of_each.append(sum(sum(h) / len(h) for h in each) / len(each))
        return 100 * sum(of_each) / len(of_each)
    return 100 * (right / total if average == "point" else sum(shares) / len(shares))


def random_predictions(seed: int) -> list[Prediction]:
    rng = np.random.default_rng(seed)
    found = []
    for count in rng.integers(0, 7, 12):
        size = (int(rng.integers(20, 300)), int(rng.integers(20, 300)))
        low, high = np.sort(rng.uniform(0, 100, (2, 2)), axis=0)
        true = rng.uniform(0, 100, (count, 2))
        near = true + rng.normal(0, 10, (count, 2))
        found.append(Prediction(near, true, Keypoints(
            true, np.ones(count, bool), np.concatenate([low, high]), size),
            str(rng.integers(3))))
    return found


@pytest.mark.parametrize("average", ["point", "image", "category", "category-image"])
@pytest.mark.parametrize("radius", ["image", "box"])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_agrees_with_the_definition(alpha: float, radius: str, average: str) -> None:
    for seed in range(5):
        found = random_predictions(seed)
        slow = slow_pck(found, alpha, radius, average)
        assert pck(found, ALPHAS).values[alpha, radius, average] == pytest.approx(slow)


def only(found: PCK, radius: str, average: str = "point") -> float:
    return found.values[0.1, radius, average]


def test_a_point_on_the_border_counts() -> None:
    assert only(pck([prediction([(60, 50)], [(50, 50)])]), "image") == 100


def test_on_the_border_we_say_what_hpf_dift_and_gate_say_and_geoaware_does_not() -> None:
    """They write ``<=``; GeoAware-SC writes ``<``: a point exactly at the radius tells them apart.

    0.25 × 40 is exact in binary, and so is the distance.
    """
    at = prediction([(16, 18)], [(10, 10)], box=(0, 0, 40, 20))
    distance, radius = math.dist((16, 18), (10, 10)), 0.25 * 40
    assert (distance <= radius) and not distance < radius
    assert correct(at, 0.25, "box").tolist() == [True]
    assert pck([at], [0.25]).values[0.25, "box", "point"] == 100


def test_a_category_by_image_is_what_hpf_and_geoaware_print_for_it() -> None:
    """Two pairs of cats, of 1 and of 3 points, and a dog: means over pairs, then over both."""
    cats = [prediction([(0, 0)], [(0, 0)], category="cat"),
            prediction([(0, 0), (90, 0), (90, 0)], [(0, 0)] * 3, category="cat")]
    found = pck([*cats, prediction([(90, 0)], [(0, 0)], category="dog")])
    assert only(found, "image", "category-image") == pytest.approx(100 * ((1 + 1 / 3) / 2 + 0) / 2)
    assert only(found, "image", "category") == pytest.approx(100 * (2 / 4 + 0) / 2)


def test_a_radius_is_told_in_cells() -> None:
    """A box of 40 in a picture of 100 × 200, seen by 16 × 16 cells of 12.5 pixels: 4 / 12.5."""
    small, flat = keypoints([(1, 1)], (200, 100), (0, 0, 40, 20)), keypoints([(1, 1)], box=(1,) * 4)
    assert radius_in_cells([small, flat], Size(16, 16)) == pytest.approx(0.32)
    assert radius_in_cells([flat], Size(16, 16)) is None


def test_a_point_just_beyond_the_border_does_not_count() -> None:
    assert only(pck([prediction([(60.001, 50)], [(50, 50)])]), "image") == 0


def test_distance_is_euclidean() -> None:
    found = pck([prediction([(56, 58), (59, 59)], [(50, 50), (50, 50)])])
    assert only(found, "image") == 50


def test_radius_of_the_image_is_its_longer_side() -> None:
    found = pck([prediction([(19, 0)], [(0, 0)], size=size) for size in [(200, 50), (50, 200)]])
    assert only(found, "image") == 100


def test_radius_of_the_box_is_its_longer_side() -> None:
    found = pck([prediction([(0, 6)], [(0, 0)], box=box)
                 for box in [(10, 10, 70, 20), (10, 10, 20, 70), (10, 10, 60, 60)]])
    assert only(found, "box") == pytest.approx(200 / 3)


@pytest.mark.parametrize("box", [(5, 5, 5, 5), (math.nan,) * 4, (9, 9, 3, 4)])
def test_a_box_without_extent_is_in_no_pck_of_the_box(
    box: tuple[float, float, float, float],
) -> None:
    """Two pairs: one whose single point is found to the pixel, one of whose two points one is."""
    flat = prediction([(5, 5)], [(5, 5)], box=box, category="flat")
    other = prediction([(10, 10), (90, 90)], [(10, 11), (50, 50)], category="other")
    found = pck([flat, other])
    values = {k: found.values[0.1, *k] for k in (("image", "point"), ("image", "image"),
                                                 ("box", "point"), ("box", "image"),
                                                 ("box", "category"))}
    assert values == {("image", "point"): pytest.approx(200 / 3), ("image", "image"): 75,
                      ("box", "point"): 50, ("box", "image"): 50, ("box", "category"): 50}
    assert (found.pairs, found.points, found.boxless) == (2, 3, 1)
    assert by_category([flat, other], 0.1, "box") == {"other": 50}
    alone = pck([flat])
    assert math.isnan(alone.values[0.1, "box", "point"])
    assert alone.values[0.1, "image", "point"] == 100
    assert alone.to_json()["pck@0.10/radius=box/average=point"] is None


def test_each_pair_has_its_own_target_size() -> None:
    found = pck([prediction([(15, 0)], [(0, 0)], size=(100, 100)),
                 prediction([(15, 0)], [(0, 0)], size=(100, 200))])
    assert only(found, "image") == 50


def test_point_and_image_averages_differ_as_defined() -> None:
    one = prediction([(0, 0)], [(0, 0)])
    three = prediction([(0, 0), (90, 0), (90, 0)], [(0, 0)] * 3)
    found = pck([one, three])
    assert only(found, "image", "point") == 50
    assert only(found, "image", "image") == pytest.approx(100 * (1 + 1 / 3) / 2)


def test_categories_count_alike() -> None:
    many = [prediction([(0, 0)] * 3, [(0, 0)] * 3, category="cat") for _ in range(2)]
    found = pck([*many, prediction([(90, 0)], [(0, 0)], category="dog")])
    assert only(found, "image", "category") == 50
    assert by_category([*many], 0.1, "image") == {"cat": 100}


def test_pairs_without_points_are_left_out() -> None:
    found = pck([prediction([(0, 0)], [(0, 0)]), prediction([], [])])
    assert (found.pairs, found.points) == (1, 1)
    assert only(found, "image", "image") == 100


@pytest.mark.parametrize("predictions", [[], [prediction([], [])]])
def test_no_pair_gives_nan(predictions: list[Prediction]) -> None:
    found = pck(predictions)
    assert (found.pairs, found.points) == (0, 0)
    assert all(math.isnan(v) for v in found.values.values())


def test_names_say_the_whole_protocol() -> None:
    names = pck([prediction([(0, 0)], [(0, 0)])]).to_json()
    assert "pck@0.05/radius=box/average=point" in names
    assert len(names) == 32


def test_copied_position_is_relative_to_the_sides() -> None:
    source = keypoints([(25, 10)], size=(100, 50))
    target = keypoints([(0, 0)], size=(30, 400))
    judged = pair(source, target).judge(pair(source, target).source_shares)
    np.testing.assert_allclose(judged.predicted, [[200, 3]])


def test_true_points_stay_in_original_pixels() -> None:
    source, target = keypoints([(1, 1)]), keypoints([(123.5, 7.25)], size=(30, 400))
    judged = pair(source, target).judge(np.array([[0.5, 0.5]]))
    np.testing.assert_array_equal(judged.true, [[123.5, 7.25]])


def test_distance_is_measured_after_undoing_the_squash() -> None:
    target = keypoints([(200, 50), (200, 50)], size=(100, 400))
    shares = np.array([[0.5 + 0.09, 0.5], [0.5, 0.5 + 0.41]])
    found = pck([pair(keypoints([(0, 0)] * 2), target).judge(shares)])
    assert only(found, "image") == 50


def test_copying_to_an_identical_picture_is_always_right() -> None:
    points = keypoints([(3, 4), (90, 20), (50, 99)], size=(120, 90))
    same = pair(points, points)
    assert only(pck([same.judge(same.source_shares)]), "box") == 100


def test_only_points_visible_in_both_are_judged() -> None:
    source = keypoints([(1, 1), (2, 2), (3, 3)], visible=[True, True, False])
    target = keypoints([(1, 1), (2, 2), (3, 3)], visible=[False, True, True])
    judged = pair(source, target).judge(pair(source, target).source_shares)
    np.testing.assert_allclose(judged.predicted, [[2, 2]])
    np.testing.assert_allclose(judged.true, [[2, 2]])


@pytest.fixture(scope="module")
def willow() -> PFWillow:
    if not PF_WILLOW.is_dir():
        pytest.skip("PF-WILLOW is not below GATE_CACHE_DATA")
    return PFWillow(PF_WILLOW)


@pytest.mark.parametrize(("radius", "known"), [("image", 43.4), ("box", 26.6)])
def test_copying_positions_on_pf_willow_gives_the_known_figure(
        willow: PFWillow, radius: str, known: float) -> None:
    found = pck([p.judge(p.source_shares) for p in load_pairs(willow, None)])
    assert found.pairs == 900
    assert only(found, radius) == pytest.approx(known, abs=0.6)
