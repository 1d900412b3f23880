"""What the labels of one's own label pictures mean: ``dataset.values`` and ``dataset.ignore``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gate_cache.core.errors import DataError, did_you_mean, listed
from gate_cache.datasets.common.base import IGNORED

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Values:
    """Which label is which class.

    Attributes
    ----------
    names : label, or colour as ``#rrggbb``, to the name of its class, None for none; None where
        labels are the classes' numbers
    ignore : the label that does not count; None for 255 where `names` says nothing
    """

    names: Mapping[int | str, str | None] | None = None
    ignore: int | Literal["none"] | None = None

    @property
    def colours(self) -> bool:
        """Whether labels are colours."""
        return any(isinstance(label, str) for label in self.names or ())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order in which they are given."""
        return tuple(dict.fromkeys(name for name in (self.names or {}).values() if name))

    def table(self, classes: Sequence[str]) -> dict[int, int]:
        """Every label that may occur, and its class or `IGNORED`.

        Raises
        ------
        DataError
            A name is no class, or a label no number and no colour.
        """
        if self.names is None:
            ignored = IGNORED if self.ignore is None else self.ignore
            table = {i: i for i in range(len(classes))}
            return table if ignored == "none" else {**table, ignored: IGNORED}
        by_label = {} if self.ignore in (None, "none") else {self._number(self.ignore): IGNORED}
        for label, name in self.names.items():
            if name is not None and name not in classes:
                raise DataError(f"dataset.values: {label}: '{name}' is none of the classes"
                                f"{did_you_mean(name, classes)}")
            by_label[self._number(label)] = IGNORED if name is None else classes.index(name)
        return by_label

    def _number(self, label: int | str | None) -> int:
        if isinstance(label, int) and not self.colours:
            return label
        if not isinstance(label, str) or not _COLOUR.fullmatch(label):
            raise DataError(f"dataset.values: '{label}' is no label: expected whole numbers, or"
                            " colours as in '#ff0000' for all of them")
        return int(label[1:], 16)


def means_object(labels: Collection[int]) -> bool:
    """Whether labels may be those of a picture of black and white: 0 and 255, or one of them."""
    return set(labels) <= {0, IGNORED}


def hint_for(labels: Sequence[int], strange: Sequence[int], classes: int, values: Values) -> str:
    """The way out for labels of no class.

    Parameters
    ----------
    labels : of a picture, sorted
    strange : those of them that are no class
    classes : how many there are
    """
    if values.colours:
        colours = listed((f"'#{n:06x}'" for n in strange), 3)
        return f"; set in dataset.values which class {colours} is (null: none)"
    if values.names is not None:
        return "; set in dataset.values which class it is (null: none)"
    if IGNORED in strange:
        return "; set dataset.ignore: 255 if it does not count, or values: {0: …, 255: …}"
    if labels[0] == 1 and labels[-1] == classes:
        return f"; labels that start at 1 need dataset.values: {{1: …, {classes}: …}}"
    if list(strange) == [classes]:
        return f"; try dataset.ignore: {classes}, or classes: {classes + 1} names"
    return "; say which class each label is in dataset.values, as in {0: background, 18: car}"
