"""Images that a command is to use: by id, by a part of one, or a few drawn from all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gate_cache.core.errors import UserError, did_you_mean, listed


def pick(ids: Sequence[str], names: Sequence[str], count: int, owner: str, what: str) -> list[str]:
    """The ids that are named, or `count` of all, drawn at random and always the same.

    Parameters
    ----------
    ids : of all images
    names : ids or parts of them; none: draw
    count : how many are drawn
    owner, what : as of `one`

    Raises
    ------
    UserError
        As `one`; or there is none at all.
    """
    if not ids:
        raise UserError(f"{owner}: has no images")
    if names:
        return list(dict.fromkeys(one(ids, name, owner, what) for name in names))
    drawn = np.random.default_rng(0).choice(len(ids), min(count, len(ids)), replace=False)
    return [ids[i] for i in sorted(drawn)]


def one(ids: Sequence[str], name: str, owner: str, what: str) -> str:
    """The id that is `name`, or the only one that contains it.

    Parameters
    ----------
    ids : of all images
    name : an id or a part of one
    owner : whose images they are, to begin a message with
    what : it is, such as ``this store``

    Raises
    ------
    UserError
        None matches, or several do.
    """
    matches = [name] if name in ids else list(dict.fromkeys(i for i in ids if name in i))
    if len(matches) != 1:
        many = f"fits {len(matches)} images: {listed(matches, 4)}" if matches else \
            f"is not an image of {what}{did_you_mean(name, ids)}"
        raise UserError(f"{owner}: '{name}' {many}")
    return matches[0]
