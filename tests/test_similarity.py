"""Similarities at native resolution are those of the resized descriptors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gate_cache.core.geometry import Frame
from gate_cache.learn.features.similarity import best, describe, descriptors, similarity
from gate_cache.learn.tasks.correspondence import nearest, sample

SHAPES = [((12, 4, 6), (9, 8, 12), (6, 16, 24)), ((5, 1, 1), (3, 16, 24)), ((4, 24, 24),),
          ((7, 3, 3), (7, 16, 16))]
RESOLUTION = (16, 24)
POINTS = [(0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (0.03, 0.97), (0.31, 0.62)]


def levels(shapes: tuple[tuple[int, int, int], ...], seed: int,
           dtype: torch.dtype = torch.float16) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=g).to(dtype) for s in shapes]


def dense(parts: list[torch.Tensor]) -> torch.Tensor:
    resized = [F.interpolate(p.float()[None], RESOLUTION, mode="bilinear",
                             align_corners=False)[0] for p in parts]
    return F.normalize(torch.cat(resized), dim=0)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fit, size", [("squash", (40, 90)), ("pad", (40, 90)), ("pad", (90, 31))])
def test_as_with_whole_descriptors(shapes: tuple[tuple[int, int, int], ...], fit: str,
                                   size: tuple[int, int], dtype: torch.dtype) -> None:
    window = Frame((128, 192), fit).place(*size).window(RESOLUTION)  # type: ignore[arg-type]
    a, b = levels(shapes, 0, dtype), levels(shapes, 1, dtype)
    kept = [part.clone() for part in b]
    here, there = describe(a, window), describe(b, window)
    cut = window.cut(dense(b))
    points = np.array(POINTS)
    wanted = sample(window.cut(dense(a)), torch.from_numpy(window.enter(points)).float())
    vectors = descriptors(here, points)
    torch.testing.assert_close(torch.cat(vectors, 1), wanted, atol=1e-5, rtol=1e-4)
    found = similarity(vectors, there)
    torch.testing.assert_close(window.cut(found), torch.einsum("kd,dhw->khw", wanted, cut),
                               atol=1e-5, rtol=1e-4)
    places, values = best(found, there)
    expected = window.leave(np.asarray(nearest(wanted, cut).double()))
    np.testing.assert_allclose(places, expected, atol=1e-3)
    np.testing.assert_allclose(values, (wanted @ cut.flatten(1)).amax(1), atol=1e-5)
    assert all(torch.equal(x, y) for x, y in zip(kept, there.levels, strict=True))


def test_a_map_of_zeros_is_like_nothing() -> None:
    window = Frame(64, "squash").place(64, 64).window(8)
    empty = describe([torch.zeros(4, 8, 8)], window)
    found = similarity(descriptors(empty, np.array([[0.4, 0.4]])), empty)
    assert found.abs().max() == 0 and best(found, empty).similarity == 0
