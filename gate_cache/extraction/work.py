"""What is left to do of an extraction: the combos of one model, with their groups in the store."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gate_cache.store.format.layout import group_footprint

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from gate_cache.diffusion.passes.recipes import PlannedCombo
    from gate_cache.extraction.inputs import ImageSource
    from gate_cache.extraction.register import Registration
    from gate_cache.store.format.groups import GroupWriter


@dataclass
class Job:
    """One combo with its group and what is left to do of it."""

    plan: PlannedCombo
    group: GroupWriter
    todo: list[range]


@dataclass
class Work:
    """What every block's work needs.

    Attributes
    ----------
    latents, blocks : the group of latents, and what is left to do of it
    gone : rows whose image is not in the data set any more
    joined : whether another process holds the store, and notes what blocks were made with
    own : the store's row of each row here, where these are of one of several shapes
    """

    source: ImageSource
    jobs: list[Job]
    latents: GroupWriter
    blocks: list[range]
    gone: Collection[int]
    joined: bool = False
    own: npt.NDArray[np.int64] | None = None

    def fresh(self, group: GroupWriter, rows: range) -> list[int]:
        """Rows of a block to compute: not kept, and their image is there."""
        return [r for r in rows[group.kept(rows):] if r not in self.gone]

    def todo(self) -> Iterator[tuple[GroupWriter, list[range]]]:
        """The latents' and every combo's group, and what is left to do of it."""
        yield self.latents, self.blocks
        yield from ((job.group, job.todo) for job in self.jobs)

    def ready(self, images: Registration, block: int) -> dict[GroupWriter, list[range]]:
        """What can be computed of it now: of one of several shapes, whole blocks while more come.

        Parameters
        ----------
        images : that are registered
        block : rows of one
        """
        def now(rows: range) -> bool:
            if self.own is None:
                return images.settled(slice(rows.start, rows.stop))
            return (len(rows) == block or not images.more) and \
                images.settled(self.own[rows.start : rows.stop])
        return {group: [rows for rows in todo if now(rows)] for group, todo in self.todo()}

    def nbytes(self, block: int, more: int) -> int:
        """Bytes that what is left to do will take, and so many images that come yet.

        Parameters
        ----------
        block : rows of one
        more : images that are not registered yet
        """
        total = 0
        for group, todo in self.todo():
            left, shapes = sum(map(len, todo)) + more, {n: group.shape(n) for n in group.maps}
            total += group_footprint(shapes, group.encoding, left, block).bytes if left else 0
        return total
