"""Tables of results: methods, their metrics and the protocol that goes with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gate_cache.learn.metrics.pck import NAMES

if TYPE_CHECKING:
    from gate_cache.learn.metrics.roles import Method
    from gate_cache.learn.tasks.task import Scores


@dataclass(frozen=True)
class ScoreRow:
    """One line of a table."""

    method: Method
    scores: Scores
    note: str = ""
    trained: bool = True

    def to_json(self) -> dict[str, Any]:
        """A row of ``metrics.json``.

        Of pairs, details stand beside the metrics, and PCK that cannot be is null: as in the first
        release, whose files are read in the same way.
        """
        row = {**self.method.to_json(), "key": self.method.key, "trained": self.trained,
               "note": self.note}
        values, details = self.scores.values, dict(self.scores.details)
        if "pairs" in details:
            return {**row, **dict.fromkeys(NAMES), **values, **details}
        return {**row, **values, "details": details}


@dataclass
class ScoreTable:
    """Results over one split, or over one set of pairs, with their protocol."""

    title: str
    protocol: str
    rows: list[ScoreRow] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """A table of ``metrics.json``."""
        return {"title": self.title, "protocol": self.protocol,
                "rows": [row.to_json() for row in self.rows]}
