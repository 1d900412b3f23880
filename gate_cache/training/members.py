"""Which images a run trained on and was judged on: a list in its folder, and what it is for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import UserError, listed
from gate_cache.datasets.common.base import SPLITS, Split
from gate_cache.training.run_files import read_json, unreadable, write_json

if TYPE_CHECKING:
    from gate_cache.store.reader import FeatureStore

MEMBERS = "splits.json"
Members = dict[str, dict[str, str]]
"""Of each split, id to the first digits of the sha256 of the image."""
_DIGITS = 16  # 64 bits tell images apart


def members_of(dataset: Any, store: FeatureStore, rows: Mapping[str, int]) -> Members:
    """Every image of a data set by its split.

    Parameters
    ----------
    dataset, store : which knows splits, and which knows contents
    rows : of the store, by id
    """
    members: Members = {split: {} for split in SPLITS}
    for sample_id, row in rows.items():
        members[dataset.split_of(sample_id)][sample_id] = store.samples.sha256[row][:_DIGITS]
    return members


def keep_members(folder: Path, members: Members) -> None:
    """Write the list into a run's folder, or compare it with the one that is there.

    Raises
    ------
    UserError
        The run was started with other splits.
    """
    old = read_members(folder)
    if old is None:
        write_json(folder / MEMBERS, members)
    elif old != members:
        other = dict.fromkeys(i for s in SPLITS for i in (members[s] | old[s])
                              if members[s].get(i) != old[s].get(i))
        raise UserError(f"{folder}: was started with other splits ({listed(other, 3)} moved, came,"
                        " went or changed); give --out another name")


def read_members(folder: Path) -> Members | None:
    """The list of a run; None for a run of an earlier version, which has none.

    Raises
    ------
    UserError
        It cannot be read.
    """
    path, use = folder / MEMBERS, "it lists the run's images"
    members = read_json(path, use)
    listed_by = [members.get(split) for split in SPLITS] if members else []
    if not all(isinstance(of, dict) and all(isinstance(v, str) for v in of.values())
               for of in listed_by):
        raise unreadable(path, ValueError("not a list of images"), use)
    return members


def seen_before(folder: Path, members: Members, split: Split) -> list[str]:
    """What to say where a run has seen images that it is judged on now.

    Parameters
    ----------
    folder : of the run
    members : of the data set now
    split : that is judged
    """
    recorded = read_members(folder)
    if recorded is None:
        return [f"{folder} keeps no list of its images (an earlier version made it), so nothing is"
                " known of images that it has seen"]
    notes = []
    for old in ("train", "val"):
        ids, contents = set(recorded[old]), set(recorded[old].values())
        # not those that the run judged itself: copies across its own splits were told then
        again = [i for i, digest in members[split].items()
                 if i not in recorded[split] and (i in ids or digest in contents)]
        if old != split and again:
            did = "trained on" if old == "train" else "chose its checkpoint on"
            notes.append(f"{folder} {did} {len(again)} of the {len(members[split])} images that are"
                         f" in '{split}' now ({listed(again, 3)}): these figures are too good")
    return notes
