"""Tables of results: methods, their metrics and the protocol that goes with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gate_cache.learn.metrics.pck import PCK
    from gate_cache.learn.metrics.roles import Method
    from gate_cache.learn.tasks.task import Scores


@dataclass
class ResultRow:
    """One line of a table of results."""

    method: Method
    trained: bool
    pck: PCK
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Table:
    """Results over one set of pairs, with its protocol."""

    title: str
    protocol: str
    rows: list[ResultRow] = field(default_factory=list)

    def add(self, method: Method, found: PCK, trained: bool = False, note: str = "",
            details: dict[str, Any] | None = None) -> None:
        """Append a line.

        Parameters
        ----------
        method : what the line is called by
        found : its scores, percent
        trained : whether anything of it was trained on this data
        note : shown beside it
        details : further entries of its row in ``metrics.json``
        """
        self.rows.append(ResultRow(method, trained, found, note, details or {}))

    def to_json(self) -> dict[str, Any]:
        """A table of ``metrics.json``."""
        return {"title": self.title, "protocol": self.protocol, "rows": [
            {**r.method.to_json(), "key": r.method.key, "trained": r.trained, "note": r.note,
             "pairs": r.pck.pairs, "points": r.pck.points, "pairs_without_box": r.pck.boxless,
             **r.details, **r.pck.to_json()} for r in self.rows]}


@dataclass(frozen=True)
class ScoreRow:
    """One line of a table."""

    method: Method
    scores: Scores
    note: str = ""
    trained: bool = True

    def to_json(self) -> dict[str, Any]:
        """A row of ``metrics.json``."""
        return {**self.method.to_json(), "key": self.method.key, "trained": self.trained,
                "note": self.note, **self.scores.values, "details": dict(self.scores.details)}


@dataclass
class ScoreTable:
    """Results over one split, with its protocol."""

    title: str
    protocol: str
    rows: list[ScoreRow] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """A table of ``metrics.json``."""
        return {"title": self.title, "protocol": self.protocol,
                "rows": [row.to_json() for row in self.rows]}
