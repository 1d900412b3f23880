"""Maps of several models brought to one width: by a learnt projection, or principal components."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gate_cache.core.errors import UserError

IMAGES, PLACES = 256, 64
"""That principal components are found on, about."""


class Projection(nn.Module):
    """A learnt 1×1 projection, without bias; orthogonal at first, so that it keeps angles.

    On maps of several models, each 0 where it is another's, these are projections of each model's.

    Parameters
    ----------
    channels, width : before and behind it
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(width, channels)))

    def forward(self, bucket: torch.Tensor) -> torch.Tensor:
        """(B, b, C, …) to (B, b, width, …)."""
        return torch.einsum("dc,bkc...->bkd...", self.weight, bucket)


class PrincipalComponents(Projection):
    """The principal components of each model's maps, found on training images and then fixed.

    Parameters
    ----------
    channels, width : before and behind it
    """

    shift: torch.Tensor

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width)
        self.weight.requires_grad_(False)
        self.register_buffer("shift", torch.zeros(1, width))

    def forward(self, bucket: torch.Tensor) -> torch.Tensor:
        """(B, b, C, …) to (B, b, width, …)."""
        shift = self.shift.reshape(*self.shift.shape, *[1] * (bucket.dim() - 3))
        return super().forward(bucket) - shift

    def fit(self, vectors: torch.Tensor) -> None:
        """Find the components of (N, b, C) vectors of b combos: of those with channels in common.

        Raises
        ------
        UserError
            There are fewer channels, or vectors, than components.
        """
        from sklearn.decomposition import PCA  # a second, which few trainings need

        width = len(self.weight)
        self.weight.zero_()
        self.shift = vectors.new_zeros(vectors.shape[1], width)
        for combos, channels in _models(vectors.any(0)):
            values = vectors[:, combos][..., channels].flatten(0, 1).double()
            if min(values.shape) < width:
                raise UserError(f"train.mix.pca: {width} components of {values.shape[1]} channels"
                                f" in {len(values)} places; give at most {min(values.shape)}")
            # full: the default may choose a randomised solver
            pca = PCA(width, svd_solver="full").fit(values.cpu().numpy())
            components, mean = map(torch.from_numpy, (pca.components_, pca.mean_))
            self.weight[:, channels] = components.to(self.weight)
            self.shift[combos] = (components @ mean).to(self.shift)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str,
                              *rest: Any) -> None:
        """As many combos as there are in what is loaded."""
        self.shift = torch.zeros_like(state_dict.get(f"{prefix}shift", self.shift))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def fitted(model: Any, examples: Callable[[Sequence[str], int], Iterator[torch.Tensor]],
           ids: Sequence[str]) -> Any:
    """A model whose principal components, where it has any, are found on some training images.

    Parameters
    ----------
    examples, ids : as of `Task.examples`, and its training images
    """
    components = getattr(model, "projection", None)
    if isinstance(components, PrincipalComponents):
        drawn = ids[::max(len(ids) // IMAGES, 1)]
        with torch.inference_mode():
            vectors = [model.of_bucket(values).cpu() for values in examples(drawn, PLACES)]
        components.fit(torch.cat(vectors))
    return model


def _models(used: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Of (b, C), which combo has which channel: those that share some, and their channels.

    Models share none, for a combo is 0 where the maps are another's.
    """
    shares = (used.float() @ used.float().T > 0).float()
    for _ in used:  # a chain of combos has as many links at most
        shares = (shares @ shares > 0).float()
    for row in dict.fromkeys(map(tuple, shares.bool().tolist())):
        combos = torch.tensor(row)
        yield combos.nonzero()[:, 0], used[combos].any(0).nonzero()[:, 0]
