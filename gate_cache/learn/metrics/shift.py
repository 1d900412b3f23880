"""Content shift of a feature against the reference at t = 0 (paper, section 5.2, Eq. 1 and 2)."""

from __future__ import annotations

import torch
from torch.nn import functional

_KERNEL = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


def edge_strength(maps: torch.Tensor) -> torch.Tensor:
    """‖Laplacian(F)_ij‖₂, the norm over channels; borders are continued by their own values.

    Parameters
    ----------
    maps : (N, C, h, w)

    Returns
    -------
    (N, h, w) float32
    """
    n, c, h, w = maps.shape
    flat = functional.pad(maps.float().reshape(n * c, 1, h, w), (1, 1, 1, 1), "replicate")
    kernel = torch.tensor(_KERNEL, device=maps.device)[None, None]
    edges = functional.conv2d(flat, kernel).reshape(n, c, h, w)
    return torch.as_tensor(torch.linalg.vector_norm(edges, dim=1))


def shift(reference: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Eq. 1: ``diff = Σ_ij | ‖Laplacian(F_ref)_ij‖₂ − ‖Laplacian(F)_ij‖₂ |`` of each image.

    Of all cells; of images in padding, `apart` is given edge strengths without the padding's.

    Parameters
    ----------
    reference : (N, C, h, w), the feature extracted at t = 0
    maps : (N, C, h, w), the same map with a technique

    Returns
    -------
    (N,) float32
    """
    return apart(edge_strength(reference), edge_strength(maps))


def apart(reference: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """(N,) sums of how far (N, h, w) edge strengths are from the reference's."""
    return (reference - edges).abs().sum((1, 2))


def score(anchor: torch.Tensor, diff: torch.Tensor) -> torch.Tensor:
    """Eq. 2: ``(diff_anchor − diff) / diff_anchor`` of each image; 1 is an exact match.

    Not finite for an image whose anchor has no shift.

    Parameters
    ----------
    anchor : (N,) shifts of a feature with strong content shift
    diff : (N,) shifts of the feature to judge
    """
    return (anchor - diff) / anchor
