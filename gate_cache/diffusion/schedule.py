"""Which UNet passes a block needs: combos that are alike share them, wholly or in part. No torch.

Combos of the same settings share a pass and differ only in what is read from it. ControlNet's
residuals are added behind the down and mid blocks, so combos that differ only in ControlNet share
these, a third of a pass, equal to the bit. Images of all combos that use the same weights fill the
same batches: a row does not depend on its neighbours in a batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gate_cache.diffusion.recipes import PlannedCombo
from gate_cache.features import MapSpec
from gate_cache.manifest import Combo


@dataclass(frozen=True)
class Wanted:
    """A combo as a schedule sees it.

    Attributes
    ----------
    net, loras : what tells its ControlNet and LoRAs from others: digests, or names in a plan
    """

    name: str
    combo: Combo
    specs: tuple[MapSpec, ...]
    net: str
    loras: tuple[str, ...]

    @classmethod
    def of(cls, plan: PlannedCombo) -> Wanted:
        """A combo whose weights are known."""
        weights = plan.recipe["weights"]
        return cls(plan.name, plan.combo, plan.specs, weights.get("controlnet", ""),
                   tuple(weights.get("lora", ())))

    @classmethod
    def named(cls, name: str, combo: Combo, specs: tuple[MapSpec, ...]) -> Wanted:
        """A combo whose weights need not be on this machine."""
        net = combo.controlnet.source if combo.controlnet else ""
        return cls(name, combo, specs, net, tuple(lora.source for lora in combo.lora))


@dataclass(frozen=True)
class Half:
    """What the down and mid blocks depend on beside the image and a lane's weights."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Item:
    """One image in one half: a place in a batch."""

    half: Half
    row: int


@dataclass(frozen=True, order=True)
class Tail:
    """What a ControlNet adds behind the mid block.

    Attributes
    ----------
    net : its digest; empty for a pass without ControlNet
    """

    net: str = ""
    scale: float = 0.0
    low: int = 0
    high: int = 0


@dataclass(frozen=True)
class Weights:
    """What all images of a batch must have in common.

    Attributes
    ----------
    loras : digests with their scales
    times : (start, t, steps): denoised from `start` to `t` in `steps` steps, 0 for none
    tokens : length of the text
    alone : the tail of a combo that is denoised first, for it changes what goes into the half
    """

    loras: tuple[tuple[str, float], ...]
    times: tuple[int, int, int]
    tokens: int
    alone: Tail | None = None


@dataclass(frozen=True)
class Reader:
    """A combo and its rows that are read from a lane's passes."""

    combo: Wanted
    rows: frozenset[int]


@dataclass(frozen=True)
class Lane:
    """Passes that fill the same batches.

    Attributes
    ----------
    tails : each item goes through the down half once, and then through the rest with each
    readers : by half and tail
    """

    weights: Weights
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
        return len(self.items) * (1 + self.weights.times[2])

    def specs(self, tail: Tail) -> list[MapSpec]:
        """All maps that some combo wants from the passes with one tail."""
        found = {s.name: s for (_, t), readers in self.readers.items() if t == tail
                 for reader in readers for s in reader.combo.specs}
        return list(found.values())


def _tail(wanted: Wanted) -> Tail:
    spec = wanted.combo.controlnet
    return Tail(wanted.net, spec.scale, spec.low, spec.high) if spec else Tail()


def _weights(wanted: Wanted, tokens: int) -> Weights:
    combo = wanted.combo
    scales = [lora.scale for lora in combo.lora]
    loras = tuple(zip(wanted.loras, scales, strict=True))
    if combo.denoise is None:
        return Weights(loras, (combo.t, combo.t, 0), tokens)
    times = (combo.denoise.start, combo.t, combo.denoise.steps)
    return Weights(loras, times, tokens, _tail(wanted))


def schedule(todo: Iterable[tuple[Wanted, Iterable[int]]],
             count_tokens: Callable[[str], int]) -> list[Lane]:
    """The lanes that yield all rows of these combos, those with the same LoRAs in a row.

    Parameters
    ----------
    todo : combos with the rows to compute
    count_tokens : length of a prompt's text
    """
    needed: dict[tuple[Weights, Item], set[Tail]] = defaultdict(set)
    readers: dict[tuple[Weights, Half, Tail], list[Reader]] = defaultdict(list)
    for wanted, rows in todo:
        weights = _weights(wanted, count_tokens(wanted.combo.prompt))
        half, every = Half(wanted.combo.prompt, wanted.combo.seed), frozenset(rows)
        readers[weights, half, _tail(wanted)].append(Reader(wanted, every))
        for row in sorted(every):
            needed[weights, Item(half, row)].add(_tail(wanted))
    lanes: dict[tuple[Weights, tuple[Tail, ...]], list[Item]] = defaultdict(list)
    for (weights, item), tails in needed.items():
        lanes[weights, tuple(sorted(tails))].append(item)
    found = [_lane(weights, tails, items, readers) for (weights, tails), items in lanes.items()]
    return sorted(found, key=lambda lane: lane.weights.loras)


def _lane(weights: Weights, tails: tuple[Tail, ...], items: list[Item],
          readers: Mapping[tuple[Weights, Half, Tail], list[Reader]]) -> Lane:
    rows: dict[Half, set[int]] = defaultdict(set)
    for item in items:
        rows[item.half].add(item.row)
    kept = {(half, tail): tuple(Reader(r.combo, r.rows & rows[half])
                                for r in readers[weights, half, tail] if r.rows & rows[half])
            for half in rows for tail in tails}
    return Lane(weights, tails, tuple(items), kept)
