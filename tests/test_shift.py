"""Content shift, Eq. 1 and 2, against a computation by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gate_cache.learn.metrics.shift import edge_strength, score, shift


def by_hand(maps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """‖Laplacian‖₂ over channels of one (C, h, w) map, borders continued."""
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)), mode="edge")
    found = np.zeros(maps.shape[1:])
    for y in range(maps.shape[1]):
        for x in range(maps.shape[2]):
            window = padded[:, y : y + 3, x : x + 3]
            around = window[:, 0, 1] + window[:, 2, 1] + window[:, 1, 0] + window[:, 1, 2]
            found[y, x] = np.sqrt(((around - 4 * window[:, 1, 1]) ** 2).sum())
    return found


def test_edge_strength_is_the_norm_of_the_laplacian() -> None:
    maps = torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    expected = np.stack([by_hand(m.double().numpy()) for m in maps])
    np.testing.assert_allclose(edge_strength(maps), expected, rtol=1e-5)


def test_shift_sums_absolute_differences_of_each_image() -> None:
    g = torch.Generator().manual_seed(1)
    a, b = torch.randn(3, 2, 4, 4, generator=g), torch.randn(3, 2, 4, 4, generator=g)
    expected = np.abs(np.stack([by_hand(x.double().numpy()) - by_hand(y.double().numpy())
                                for x, y in zip(a, b, strict=True)])).sum((1, 2))
    np.testing.assert_allclose(shift(a, b), expected, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_feature_has_no_shift_from_itself_nor_from_itself_made_brighter(
        dtype: torch.dtype) -> None:
    maps = torch.randint(-8, 8, (2, 3, 5, 5), generator=torch.Generator().manual_seed(2)).to(dtype)
    assert shift(maps, maps).tolist() == [0, 0]
    torch.testing.assert_close(shift(maps, maps + 4), torch.zeros(2))


def test_score_is_one_for_a_match_zero_for_the_anchor_negative_for_worse() -> None:
    anchor = torch.tensor([2.0, 2.0, 2.0])
    assert score(anchor, torch.tensor([0.0, 2.0, 3.0])).tolist() == [1.0, 0.0, -0.5]
