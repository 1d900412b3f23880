"""The drawn data set: what it promises about pictures, labels and captions."""

import re
from functools import cache

import cv2
import numpy as np
import pytest

from gate_cache.toyworld import (
    CATEGORIES,
    KEYPOINTS,
    PARTS,
    WORDS,
    Scene,
    draw,
)

SAMPLES = 160


@cache
def scenes() -> tuple[Scene, ...]:
    return tuple(draw("test", i) for i in range(SAMPLES))


def arrays(scene: Scene) -> list[np.ndarray]:
    return [scene.image, scene.keypoints, scene.visible, scene.box, scene.parts]


def test_drawing_is_deterministic() -> None:
    for index in range(16):
        first, again = scenes()[index], draw("test", index)
        assert (first.caption, first.quality) == (again.caption, again.quality)
        for a, b in zip(arrays(first), arrays(again), strict=True):
            np.testing.assert_array_equal(a, b)


def test_types_and_shapes() -> None:
    for scene in scenes():
        points = len(KEYPOINTS[scene.category])
        assert scene.image.shape == (64, 64, 3) and scene.image.dtype == np.uint8
        assert scene.parts.shape == (64, 64) and scene.parts.dtype == np.uint8
        assert scene.keypoints.shape == (points, 2) and scene.keypoints.dtype == np.float32
        assert scene.visible.shape == (points,) and scene.visible.dtype == np.bool_
        assert scene.box.shape == (4,) and scene.box.dtype == np.float32


@pytest.mark.parametrize("size", [32, 100, 128])
def test_size_changes_only_the_resolution(size: int) -> None:
    for index in range(16):
        small, large = scenes()[index], draw("test", index, size)
        scaled = (small.keypoints + 0.5) * (size / 64) - 0.5
        np.testing.assert_allclose(large.keypoints, scaled, atol=1e-3)
        np.testing.assert_array_equal(large.visible, small.visible)
        box = (small.box + 0.5) * (size / 64) - 0.5
        np.testing.assert_allclose(large.box, box, atol=1.0 + size / 64)
        assert (large.caption, large.quality) == (small.caption, small.quality)


def test_a_larger_picture_shows_the_same() -> None:
    for index in range(40):
        small = scenes()[index]
        if small.quality != "high quality":
            continue
        large = cv2.resize(draw("test", index, 128).image, (64, 64), interpolation=cv2.INTER_AREA)
        assert np.abs(large.astype(float) - small.image).mean() < 8


def test_visible_key_points_lie_on_the_object() -> None:
    for scene in scenes():
        outside = (scene.parts == 0).astype(np.uint8)
        distance = cv2.distanceTransform(np.pad(outside, 1, mode="edge"), cv2.DIST_L2, 5)
        for name, (x, y), seen in zip(
            KEYPOINTS[scene.category], scene.keypoints, scene.visible, strict=True
        ):
            if seen:
                assert distance[round(float(y)) + 1, round(float(x)) + 1] <= 2, (
                    scene.caption, name)


def test_visible_key_points_lie_in_the_picture_and_the_box() -> None:
    for scene in scenes():
        seen = scene.keypoints[scene.visible]
        assert (seen >= -0.5).all() and (seen <= 63.5).all()
        assert (seen >= scene.box[:2] - 1).all() and (seen <= scene.box[2:] + 1).all()


def test_box_is_tight_around_an_uncovered_object() -> None:
    for scene in scenes():
        if "behind" in scene.caption:
            continue
        rows, columns = np.nonzero(scene.parts)
        tight = [columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5]
        np.testing.assert_allclose(scene.box, tight, atol=1.5, err_msg=scene.caption)


def test_every_key_point_is_seen_in_some_pictures() -> None:
    for category in CATEGORIES:
        seen = np.mean([s.visible for s in scenes() if s.category == category], axis=0)
        assert (seen > 0.2).all(), (category, seen)
        assert seen.mean() > 0.6


def test_names_are_unique_and_within_the_agreed_counts() -> None:
    assert len(CATEGORIES) == 8 and list(CATEGORIES) == sorted(CATEGORIES)
    assert set(KEYPOINTS) == set(PARTS) == set(CATEGORIES)
    for category in CATEGORIES:
        assert 6 <= len(set(KEYPOINTS[category])) == len(KEYPOINTS[category]) <= 10
        assert 4 <= len(set(PARTS[category])) == len(PARTS[category])


def test_part_labels() -> None:
    for category in CATEGORIES:
        labels = [np.unique(s.parts) for s in scenes() if s.category == category]
        shown = np.unique(np.concatenate(labels))
        assert shown.max() <= len(PARTS[category])
        assert np.isin(np.arange(1, len(PARTS[category]) + 1), shown).all(), category
        assert np.mean([len(found) - 1 >= 4 for found in labels]) > 0.4, category


def test_objects_fill_a_fair_share_of_the_picture() -> None:
    extents = np.array([(s.box[2:] - s.box[:2]).max() / 64 for s in scenes()])
    assert extents.min() > 0.2 and extents.max() <= 1.0
    assert 0.4 < extents.mean() < 0.85


def test_categories_are_balanced() -> None:
    assert [s.category for s in scenes()] == list(CATEGORIES) * (SAMPLES // 8)


def test_captions_name_category_and_quality_in_known_words() -> None:
    assert list(WORDS) == sorted(set(WORDS)) and len(WORDS) <= 200
    for scene in scenes():
        words = re.findall(r"[a-z]+", scene.caption)
        assert set(words) <= set(WORDS)
        assert scene.category in words
        assert scene.caption.endswith(f", {scene.quality}")


def test_some_pictures_are_flawed() -> None:
    high = np.mean([s.quality == "high quality" for s in scenes()])
    assert 0.55 < high < 0.85
    assert len({s.quality for s in scenes()}) == 5


def test_splits_share_no_pictures() -> None:
    images = {draw(split, i, 32).image.tobytes() for split in ("train", "val") for i in range(24)}
    assert len(images) == 48
