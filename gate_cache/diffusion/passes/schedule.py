"""Which UNet passes a block needs: combos that are alike share them, wholly or in part. No torch.

Combos of the same settings share a pass and differ only in what is read from it. ControlNet's
residuals are added behind the down and mid blocks, so combos that differ only in ControlNet share
these, a third of a pass, equal to the bit. Images of all combos that change the model alike fill
the same batches: a row does not depend on its neighbours in a batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from gate_cache.diffusion.techniques.base import Use
from gate_cache.diffusion.techniques.denoise import Walk
from gate_cache.diffusion.techniques.registry import techniques

if TYPE_CHECKING:
    from gate_cache.core.features import MapSpec
    from gate_cache.core.size import Tiling
    from gate_cache.diffusion.passes.recipes import PlannedCombo
    from gate_cache.manifest.specs import Combo

Tail = tuple[Use, ...]
"""What is added behind the mid block; empty for nothing."""


@dataclass(frozen=True)
class Wanted:
    """A combo as a schedule sees it."""

    name: str
    combo: Combo
    specs: tuple[MapSpec, ...]
    uses: tuple[Use, ...]

    @classmethod
    def of(cls, plan: PlannedCombo) -> Wanted:
        """A combo whose files are known."""
        return cls(plan.name, plan.combo, plan.specs, tuple(plan.techniques))

    @classmethod
    def named(cls, name: str, combo: Combo, specs: tuple[MapSpec, ...]) -> Wanted:
        """A combo whose files need not be on this machine: they are told apart by name."""
        uses = tuple(Use.of(t, t.sources()) for t in techniques(name, combo))
        return cls(name, combo, specs, uses)

    @property
    def tail(self) -> Tail:
        """Its techniques behind the mid block."""
        return tuple(use for use in self.uses if use.place == "tail")


@dataclass(frozen=True)
class Half:
    """What the down and mid blocks depend on beside the image and a lane's weights.

    Attributes
    ----------
    prompt : as the combo has it, an image's caption not filled in
    ensemble : how many noises the maps of one image are the mean over, those of `seed`,
        `seed` + 1, …
    """

    prompt: str
    seed: int
    ensemble: int = 1


@dataclass(frozen=True)
class Item:
    """One image in one half, with one of its noises, or a tile of it: a place in a batch."""

    half: Half
    row: int
    member: int = 0
    tile: int = 0

    @property
    def seed(self) -> int:
        """Of its noise."""
        return self.half.seed + self.member


@dataclass(frozen=True)
class Common:
    """What all images of a batch must have in common.

    Attributes
    ----------
    uses : techniques that change the whole model
    tokens : length of the text as a pass has it: another one rounds differently
    alone : the tail of a combo that shares no half with others: one that is denoised first, for it
        changes what goes into the half, or whose maps are of modules within the half, which run
        with the first tail alone
    mirror : whether images are mirrored
    tiles : that an image is cut into, if it is
    """

    uses: tuple[Use, ...]
    walk: Walk
    tokens: int
    alone: Tail | None = None
    mirror: bool = False
    tiles: Tiling | None = None


@dataclass(frozen=True)
class Reader:
    """A combo and its rows that are read from a lane's passes."""

    combo: Wanted
    rows: frozenset[int]


@dataclass(frozen=True)
class PassGroup:
    """Passes that fill the same batches.

    Attributes
    ----------
    tails : each item goes through the down half once, and then through the rest with each
    items : the noises of one image, and the tiles of one noise, follow each other
    readers : by half and tail
    """

    common: Common
    tails: tuple[Tail, ...]
    items: tuple[Item, ...]
    readers: Mapping[tuple[Half, Tail], tuple[Reader, ...]]

    @property
    def passes(self) -> int:
        """UNet passes over single images; those of one item share its down half."""
        return self.halves * len(self.tails)

    @property
    def halves(self) -> int:
        """Down halves over single images."""
        return len(self.items) * self.common.walk.passes

    def specs(self, tail: Tail) -> list[MapSpec]:
        """All maps that some combo wants from the passes with one tail."""
        specs = {s.name: s for (_, t), readers in self.readers.items() if t == tail
                 for reader in readers for s in reader.combo.specs}
        return list(specs.values())


@dataclass(frozen=True)
class Pieces:
    """What lanes compute, each distinct piece once: of one image, texts apart.

    Attributes
    ----------
    texts : prompts to embed, whatever the number of images (a prompt with captions counts once)
    noised : noised latents
    edges : Canny maps, or control images from folders
    controlnet_passes, unet_passes : of a ControlNet, of the UNet
    halves : runs of the UNet's down and mid blocks; the other passes are given them
    encoded : of an image: itself, and mirrored where a combo asks for that
    """

    texts: int
    noised: int
    edges: int
    controlnet_passes: int
    unet_passes: int
    halves: int
    encoded: int = 1

    @classmethod
    def of(cls, lanes: Sequence[PassGroup]) -> Pieces:
        """The pieces of lanes of one image."""
        items = [(lane, item) for lane in lanes for item in lane.items]
        combos = [r.combo.combo for lane in lanes for rs in lane.readers.values() for r in rs]
        nets = [(c.controlnet, c.mirror) for c in combos if c.controlnet]
        walks = [(lane.common.walk, lane.common.uses) for lane in lanes]
        texts = {(i.half.prompt, lane.common.uses) for lane, i in items}
        texts |= {(walk.negative, uses) for walk, uses in walks if walk.guided}
        return cls(
            texts=len(texts),
            noised=len({(i.seed, lane.common.walk.start, lane.common.mirror) for lane, i in items
                        if lane.common.walk.noised}),
            edges=len({(n.images or (n.low, n.high), mirror) for n, mirror in nets}),
            controlnet_passes=sum(lane.halves * sum(1 for tail in lane.tails for use in tail
                                                    if use.technique == "controlnet")
                                  for lane in lanes),
            unet_passes=sum(lane.passes for lane in lanes),
            halves=sum(lane.halves for lane in lanes),
            encoded=1 + any(lane.common.mirror for lane in lanes))

    @classmethod
    def total(cls, models: Iterable[Pieces]) -> Pieces:
        """Of several models, which share nothing."""
        return cls(*map(sum, zip(*map(astuple, models), strict=True)))


def _common(plan: Wanted, tokens: int, tiles: Tiling | None) -> Common:
    uses = tuple(use for use in plan.uses if use.place == "model")
    walk = Walk.of(plan.combo)
    inside = plan.tail and any(path.startswith(("down_blocks.", "mid_block."))
                               for spec in plan.specs for path in spec.modules)
    alone = plan.tail if walk.steps or inside else None
    return Common(uses, walk, tokens, alone, plan.combo.mirror, tiles)


def schedule(todo: Iterable[tuple[Wanted, Iterable[int]]],
             count_tokens: Callable[[str, int], int],
             tiles: Tiling | None = None) -> list[PassGroup]:
    """The lanes that yield all rows of these combos, those with the same LoRAs in a row.

    Parameters
    ----------
    todo : combos with the rows to compute
    count_tokens : length of a prompt's text for an image (by its row)
    tiles : that an image is cut into, if it is
    """
    needed: dict[tuple[Common, Item], set[Tail]] = defaultdict(set)
    readers: dict[tuple[Common, Half, Tail], list[Reader]] = defaultdict(list)
    for plan, rows in todo:
        combo, alike = plan.combo, defaultdict[int, set[int]](set)
        half = Half(combo.prompt, combo.seed, combo.ensemble)
        for row in sorted(rows):
            alike[count_tokens(half.prompt, row)].add(row)
        for tokens, same in alike.items():
            common = _common(plan, tokens, tiles)
            readers[common, half, plan.tail].append(Reader(plan, frozenset(same)))
            for row in sorted(same):
                needed[common, Item(half, row)].add(plan.tail)
    lanes: dict[tuple[Common, tuple[Tail, ...]], list[Item]] = defaultdict(list)
    for (common, item), tails in needed.items():
        lanes[common, tuple(sorted(tails))].append(item)
    groups = [_lane(common, tails, items, readers) for (common, tails), items in lanes.items()]
    return sorted(groups, key=lambda lane: lane.common.uses)


def _lane(common: Common, tails: tuple[Tail, ...], items: list[Item],
          readers: Mapping[tuple[Common, Half, Tail], list[Reader]]) -> PassGroup:
    rows: dict[Half, set[int]] = defaultdict(set)
    for item in items:
        rows[item.half].add(item.row)
    kept = {(half, tail): tuple(Reader(r.combo, r.rows & rows[half])
                                for r in readers[common, half, tail] if r.rows & rows[half])
            for half in rows for tail in tails}
    tiles = range(len(common.tiles or [0]))
    members = (Item(i.half, i.row, k, tile) for i in items for k in range(i.half.ensemble)
               for tile in tiles)
    return PassGroup(common, tails, tuple(members), kept)
