"""Rank correlations between Score and PCK: their values by hand, and all of it on few pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import extract
from gate_cache.workspace.workspace import Workspace
from pipelines.score_ranks import correlation, ranks, report, techniques


def test_spearman_of_summed_pairs() -> None:
    """PCK of 50, 25, 75 and 100 % against Scores: 1 − 6 Σd² / n(n² − 1), d = 0, 0, 1, 1."""
    total = np.array([[2, 4, 0.2], [1, 4, 0.1], [3, 4, 0.9], [4, 4, 0.5]])
    assert correlation(total) == pytest.approx(1 - 6 * 2 / (4 * 15))


def test_intervals_draw_images_for_both_figures() -> None:
    """Of three images a and c order as PCK does, b the other way round: which are drawn decides."""
    ids = np.array([["a", "b"], ["b", "a"], ["a", "c"], ["c", "a"], ["b", "c"], ["c", "b"]])
    units = np.array([[[k, 4] for k in range(3)]] * 6)
    alike = np.array([[0.1, 0.2, 0.3]] * 3)
    mixed = np.array([[0.0, 0.1, 0.4], [0.9, 0.2, 0.0], [0.1, 0.2, 0.3]])
    assert ranks(units, ids, alike) == "+1.00 (1.00 to 1.00)"
    assert ranks(units, ids, mixed) == "-0.50 (-1.00 to 1.00)"


@pytest.mark.long
def test_every_technique_has_both_figures(roots: Roots, tmp_path: Path) -> None:
    loaded = techniques(None, 16)
    names = list(loaded.manifest.train.combos or ())[:3]
    few = {n: c for n, c in loaded.manifest.conv.items()
           if n == "late" or n.removesuffix("-at-0") in names}
    train = loaded.manifest.train.model_copy(update={"combos": names})
    work = Workspace(loaded, roots).with_manifest(conv=few, train=train)
    extract(work)
    technique, correlated = report(work).split("\n\n")
    rows = [line.split(" | ") for line in technique.splitlines()[2:]]
    assert {row[0].strip("| ") for row in rows} == set(names)
    boxes = [float(row[2]) for row in rows]
    assert boxes == sorted(boxes)  # best last
    (plain,) = (row for row in rows if "plain-0" in row[0])
    assert plain[4] == plain[6].strip(" |") == "0.00"  # its own anchor
    assert plain[3] == plain[5]  # its own reference
    assert len(correlated.splitlines()) == 2 + 4
