"""Probes: heads that are solved on all training vectors at once, as frozen features are judged.

Both are also trained by gradient where assigners stand before them; what judges is solved anew from
all training vectors. They are deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from gate_cache.learn.features.pixel_grid import tiles
from gate_cache.learn.mixing.vectors import RowNorm

STRENGTH = 10.0
"""Of `LinearProbe`: C of the regression times the number of features."""
TOLERANCE, STEPS = 1e-4, 500
"""Of L-BFGS: the largest entry of the gradient where it ends, and iterations at most."""
EPS = 1e-10
"""Added to variances: those of attention maps are below 1e-6."""
NEVER = -1e4
"""Logit of a class without training vectors."""
NEIGHBOURS, TEMPERATURE = 20, 0.07
"""DINO's."""
AT_ONCE = 1024
"""Vectors that are compared with all of the bank at once."""


class Probe(nn.Module):
    """A head of vectors that is solved.

    Parameters
    ----------
    features : D
    classes : K
    members : whether its values have an axis of ensemble members, of which it is the only one

    Attributes
    ----------
    votes : whether its values are logarithms of shares, which are interpolated as shares
    """

    votes = False

    def __init__(self, features: int, classes: int, members: bool = False) -> None:
        super().__init__()
        self.norm = RowNorm(features, eps=EPS, affine=False)
        self.classes = classes
        self._members = members

    def forward(self, maps: torch.Tensor, attention: torch.Tensor | None,
                extra: torch.Tensor | None) -> torch.Tensor:
        """(1, B, n, C), (B, T) or None, (B, E) or None to logits ([1,] B, K)."""
        logits = self.logits(joined(maps, attention, extra))
        return logits[None] if self._members else logits

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(B, D) to (B, K)."""
        raise NotImplementedError

    def solve(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Set all weights from the training vectors.

        Parameters
        ----------
        x : (N, D)
        y : (N,) classes
        """
        spread, mean = torch.var_mean(x.double(), 0, correction=0)  # of N, not a sample of them
        spread[spread <= EPS * mean.square()] = 1  # constant but for rounding
        for name, value in (("running_mean", mean), ("running_var", spread)):
            cast(torch.Tensor, getattr(self.norm, name)).copy_(value)
        with torch.no_grad():
            self._solve(self.norm.eval()(x.float()), y)

    def _solve(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """From standardised vectors."""
        raise NotImplementedError


class LinearProbe(Probe):
    """Multinomial logistic regression of standardised features, by L-BFGS (scikit-learn).

    Standardisation and a linear layer are DINOv2's linear head of dense maps, a batch norm and a
    1×1 convolution; the penalty is ‖W‖² / 2 for a loss of C = `STRENGTH` / D a vector.
    """

    def __init__(self, features: int, classes: int, members: bool = False) -> None:
        super().__init__(features, classes, members)
        self.linear = nn.Linear(features, classes)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(B, D) to (B, K)."""
        return cast(torch.Tensor, self.linear(self.norm(x)))

    def _solve(self, x: torch.Tensor, y: torch.Tensor) -> None:
        from sklearn.linear_model import LogisticRegression  # a second, which few trainings need

        seen = sorted(set(y.tolist()))
        weight, bias = self.linear.weight.zero_(), self.linear.bias.fill_(NEVER)
        bias[seen] = 0
        if len(seen) > 1:
            model = LogisticRegression(C=STRENGTH / x.shape[1], tol=TOLERANCE, max_iter=STEPS)
            model.fit(x.cpu().numpy(), y.cpu().numpy())
            rows, shifts = (torch.from_numpy(v).to(weight) for v in (model.coef_,
                                                                     model.intercept_))
            both = len(seen) == 2  # one row, of the second class: sigmoid(z) = softmax(-z/2, z/2)
            weight[seen] = torch.cat([-rows, rows]) / 2 if both else rows
            bias[seen] = torch.cat([-shifts, shifts]) / 2 if both else shifts


class KNNProbe(Probe):
    """Classes of the nearest training vectors by cosine, each with weight exp(cosine / T).

    DINO's protocol, with its 20 neighbours and T = 0.07, on standardised features. While assigners
    are trained, a learnt vector a class stands for the bank (Proxy-NCA).
    """

    votes = True

    def __init__(self, features: int, classes: int, members: bool = False) -> None:
        super().__init__(features, classes, members)
        self.proxies = nn.Parameter(torch.randn(classes, features))
        self.register_buffer("bank", torch.zeros(0, features))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))

    bank: torch.Tensor
    labels: torch.Tensor

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(B, D) to (B, K) logarithms of each class's share of the votes."""
        unit = F.normalize(self.norm(x), dim=1)
        if self.training:
            return unit @ F.normalize(self.proxies, dim=1).T / TEMPERATURE
        return torch.cat([self._votes(unit[part]) for part in tiles(len(unit), AT_ONCE)])

    def _votes(self, unit: torch.Tensor) -> torch.Tensor:
        near = (unit @ self.bank.T).topk(min(NEIGHBOURS, len(self.bank)), dim=1)
        shares = (near.values / TEMPERATURE).softmax(1)
        votes = shares.new_zeros(len(unit), self.classes)
        return votes.scatter_add_(1, self.labels[near.indices], shares).log().clamp_min(NEVER)

    def _solve(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.bank, self.labels = F.normalize(x, dim=1), y.to(x.device)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str,
                              *rest: Any) -> None:
        """The bank is as large as the one that is loaded."""
        for name in ("bank", "labels"):
            if (loaded := state_dict.get(prefix + name)) is not None:
                setattr(self, name, getattr(self, name).new_zeros(loaded.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


PROBES: Mapping[str, type[Probe]] = {"linear": LinearProbe, "knn": KNNProbe}


def joined(maps: torch.Tensor, attention: torch.Tensor | None,
           extra: torch.Tensor | None) -> torch.Tensor:
    """A head's features, (1, B, n, C) and what is not amalgamated, as (B, D)."""
    parts = [maps[0].flatten(1), attention, extra]
    return torch.cat([p for p in parts if p is not None], 1)
