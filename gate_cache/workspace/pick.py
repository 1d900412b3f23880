"""Images that a command is to show: by id, by a part of one, or a few drawn from all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gate_cache.core.errors import UserError, did_you_mean, listed


def pick(ids: Sequence[str], wanted: Sequence[str], count: int, owner: str, what: str) -> list[str]:
    """The ids that are asked for, or `count` of all, drawn at random and always the same.

    Raises
    ------
    UserError
        As `one`; or there is none at all.
    """
    if not ids:
        raise UserError(f"{owner}: has no images")
    if wanted:
        return list(dict.fromkeys(one(ids, name, owner, what) for name in wanted))
    drawn = np.random.default_rng(0).choice(len(ids), min(count, len(ids)), replace=False)
    return [ids[i] for i in sorted(drawn)]


def one(ids: Sequence[str], wanted: str, owner: str, what: str) -> str:
    """The id that is `wanted`, or the only one that has it in it.

    Parameters
    ----------
    owner : whose images they are, to begin a message with
    what : it is, such as ``this store``

    Raises
    ------
    UserError
        None fits, or several do.
    """
    found = [wanted] if wanted in ids else list(dict.fromkeys(i for i in ids if wanted in i))
    if len(found) != 1:
        many = f"fits {len(found)} images: {listed(found, 4)}" if found else \
            f"is no image of {what}{did_you_mean(wanted, ids)}"
        raise UserError(f"{owner}: '{wanted}' {many}")
    return found[0]
