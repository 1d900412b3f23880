"""What a row of results stands for: its role among the rows, and what was judged there.

Programs read these; titles are made of them, for people, and nothing is ever read from a title.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Role = Literal["floor", "majority", "prior", "baseline", "untrained", "best-single", "uniform",
               "gate"]
"""Every role that a row can have:

Three need no feature at all: ``floor`` copies positions, ``majority`` says the commonest class of
``train``, ``prior`` the commonest at each place. ``baseline`` is the single feature that GATE is
compared with, ``untrained`` the same with head ``nn`` beside a head that learns, ``best-single``
the single feature that is best on ``val``; ``uniform`` mixes all features evenly, ``gate`` by what
it learns.
"""
ROLES: tuple[Role, ...] = get_args(Role)
WEIGHTS: Mapping[str, str] = {"baseline": "single", "uniform": "uniform", "gate": "gate"}
"""Roles whose models a training keeps, and how its files call their weights."""


@dataclass(frozen=True)
class Method:
    """One row's role and settings.

    Attributes
    ----------
    head : empty for floors
    combos : names of the combos that go into the descriptor
    attention : whether the attention feature is concatenated
    assigners : 0 where weights are fixed
    """

    role: Role
    head: str = ""
    combos: tuple[str, ...] = ()
    attention: bool = False
    assigners: int = 0

    @property
    def key(self) -> str:
        """What files call it: unique among the rows of a training, whatever titles say."""
        return f"{self.role}{'-attention' * self.attention}"

    @property
    def title(self) -> str:
        """What tables call it."""
        single = ", ".join(self.combos)
        attention = " + attention" * self.attention
        match self.role:
            case "floor":
                return "copy the position"
            case "majority":
                return "majority class"
            case "prior":
                return "commonest class at each place"
            case "baseline":
                return f"single feature: {single}"
            case "untrained":
                return f"the same, head nn, untrained: {single}"
            case "best-single":
                return f"best single on val: {single}"
            case "uniform" if self.head == "nn" and self.attention:  # below the row without it
                return f"the same{attention}"
            case "uniform":
                return f"all features, uniform weights{attention}"
            case "gate":
                many = "s" if self.assigners > 1 else ""
                return f"GATE: {self.assigners} assigner{many}{attention}"

    def to_json(self) -> dict[str, Any]:
        """What a row keeps of it; `from_json` reads everything but the title."""
        settings = {**asdict(self), "combos": list(self.combos)}
        return {"role": settings.pop("role"), "method": self.title, "model": settings}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Method:
        """Back from a row of a run's files.

        Raises
        ------
        KeyError, TypeError, ValueError
            It is no such row.
        """
        if row["role"] not in ROLES:
            raise ValueError(f"no role '{row['role']}'")
        model = dict(row["model"])
        return cls(row["role"], **{**model, "combos": tuple(model["combos"])})
