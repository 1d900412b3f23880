"""PF-WILLOW over many splits: what is done with their results, by hand."""

from __future__ import annotations

import numpy as np

from gate_cache.learn.metrics.items import Items
from gate_cache.manifest.load import load
from pipelines.willow_splits import MANIFEST, ROWS, over_splits, report, split


def items(ids: list[tuple[str, str]], right: list[int]) -> Items:
    units = np.array([[n, 10] for n in right])
    return Items(np.array(ids), 100.0 * units[:, 0] / units[:, 1], units)


FIRST, SECOND = [("a", "b"), ("b", "a")], [("a", "b"), ("c", "d")]
ROUNDS = [[items(FIRST, [5, 3]), items(FIRST, [4, 4]), items(FIRST, [7, 5]), items(FIRST, [7, 5])],
          [items(SECOND, [3, 1]), items(SECOND, [2, 0]), items(SECOND, [6, 2]),
           items(SECOND, [5, 6])]]
"""Rows in the order of ROWS: floor, single feature, uniform weights, GATE."""


def test_a_split_is_the_manifest_with_another_seed_and_shares() -> None:
    plain, found = load(MANIFEST).manifest, split(7)
    assert found.dataset.model_dump() == {
        **plain.dataset.model_dump(), "val": 0.2, "test": 0.4, "split_seed": 7}
    assert found.train.model_dump() == {**plain.train.model_dump(), "seed": 7}
    assert (found.conv, found.model, found.store) == (plain.conv, plain.model, plain.store)


def test_a_pair_counts_once_with_the_mean_of_its_splits() -> None:
    ids, units = over_splits(ROUNDS)
    assert ids.tolist() == [["a", "b"], ["b", "a"], ["c", "d"]]
    assert units.shape == (3, len(ROWS), 2) and (units[..., 1] == 10).all()
    assert units[..., 0].tolist() == [[4, 3, 6.5, 6], [3, 4, 5, 5], [1, 0, 2, 6]]


def test_rows_and_gains_are_of_all_pairs() -> None:
    """Of 30 points 8, 7, 13.5 and 17 are right."""
    first, *rows = report(ROUNDS).splitlines()
    assert first == "3 pairs in 2 splits"
    for row, (share, gain) in zip(rows[3:], [("26.7", "+30.0"), ("23.3", "+33.3"),
                                             ("45.0", "+11.7"), ("56.7", "")], strict=True):
        assert f"| {share} | {gain}" in row
    assert [row.split(" | ")[-1] for row in rows[3:]] == ["2 of 2 |", "2 of 2 |", "1 of 2 |", " |"]


def test_equal_rows_have_no_gain() -> None:
    same = [[rows[0]] * len(ROWS) for rows in ROUNDS]
    assert report(same).count("+0.0 (0.0 to 0.0) | 0.0 to 0.0 | 0 of 2") == len(ROWS) - 1
