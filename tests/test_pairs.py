"""Pairs that are made when asked for, against lists of all of them."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from gate_cache.datasets.common.base import Keypoints, Pair
from gate_cache.datasets.common.listed_pairs import PairsWithin
from gate_cache.datasets.toy import ToyWorld
from gate_cache.learn.features.pairs import SharedPairs, images_of
from gate_cache.toyworld import CATEGORIES

GROUPS = [("cat", list("abcdefgh")), ("dog", ["i"]), ("cow", list("jklmn"))]


def test_pairs_within_groups_are_the_permutations() -> None:
    expected = [Pair(a, b, name) for name, ids in GROUPS for a, b in permutations(ids, 2)]
    found = PairsWithin(GROUPS)
    assert found == expected and list(found) == expected and len(found) == len(expected)
    assert found[-1] == expected[-1] and found[3:9:2] == expected[3:9:2]
    with pytest.raises(IndexError):
        found[len(expected)]
    assert found != expected[:-1] and found != [*expected[:-1], expected[0]]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_only_pairs_that_share_a_point_are_there(share: float) -> None:
    generator = np.random.default_rng(int(10 * share))
    points = {i: Keypoints(np.zeros((4, 2)), generator.random(4) < share, np.zeros(4), (9, 9))
              for _, ids in GROUPS for i in ids}
    expected = [(a, b, name) for name, ids in GROUPS for a, b in permutations(ids, 2)
                if (points[a].visible & points[b].visible).any()]
    found = SharedPairs(GROUPS, points)
    assert [(p.pair.source, p.pair.target, p.pair.category) for p in found] == expected
    assert all(p.target is points[p.pair.target] and p.shared.any() for p in found)
    assert images_of(found) == images_of(list(found)) == len({i for p in expected for i in p[:2]})


def test_a_hundred_million_pairs_are_no_list() -> None:
    pairs = PairsWithin([("all", [str(i) for i in range(10_001)])])
    assert len(pairs) == 10_001 * 10_000
    assert pairs[10_000 * 5_000 + 7] == Pair("5000", "7", "all")


def test_partners_are_the_next_ones_of_a_circle() -> None:
    some = ToyWorld({"train": 24, "val": 8, "test": 40}, partners=2)
    pairs = some.pairs("test")
    assert len(pairs) == 8 * 5 * 2 and len(set(pairs)) == len(pairs)
    first = CATEGORIES[0]
    assert [(p.source, p.target) for p in pairs[-2:]] == [
        (f"test/{CATEGORIES[-1]}/00039", f"test/{CATEGORIES[-1]}/{i:05d}") for i in (7, 15)]
    for end in ("source", "target"):  # each as often
        assert {n for _, n in Counter(getattr(p, end) for p in pairs).most_common()} == {2}
    assert list(some.pairs("val")) == []
    assert some.pairs("train") == ToyWorld({"train": 24}).pairs("train")
    assert set(pairs) < set(ToyWorld({"test": 40}).pairs("test"))
    assert list(ToyWorld({"test": 16}, partners=9).pairs("test"))[:2] == [
        Pair(f"test/{first}/00000", f"test/{first}/00008", first),
        Pair(f"test/{first}/00008", f"test/{first}/00000", first)]
