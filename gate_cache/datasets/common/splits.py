"""Splits that a data set does not publish: seeded shares, and folders called after splits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

from gate_cache.core.errors import DataError, listed
from gate_cache.datasets.common.base import Split
from gate_cache.manifest.dataset_specs import OwnTree

Shares = Mapping[Literal["val", "test"], float]
_WHAT = r"(?:images?|imgs?|data|set|split|photos?)"
_NAMED = re.compile(
    rf"(?:{_WHAT}[ _.-]+)?(?:(?P<train>train(?:ing)?|trn?)|(?P<val>val(?:id(?:ation)?)?|dev)"
    rf"|(?P<test>test(?:ing)?|tst|te))(?:[ _.-]*{_WHAT})?(?:[ _.-]*\d+)?")
_UNCLEAR = re.compile(r"(?:train[ _.-]*val|eval(?:uation)?|hold[ _.-]*out|mini[ _.-]*val)\d*")
"""Names that mean a split, but not which."""
_WITHIN = re.compile(r"(?<![a-z])(?:train|test|val)(?:ing|id|idation|s)?(?![a-z])")
"""In names that may be splits, such as ``trainA`` or ``0_test``, or classes: ``bullet_train``."""


def order(seed: int, key: str) -> str:
    """A place in a seeded order that does not depend on what else is ordered."""
    return hashlib.sha256(f"{seed}/{key}".encode()).hexdigest()


def split_named(folder: str) -> Split | None:
    """The split that a folder is called after: ``train``, ``Validation``, ``test2017`` …"""
    match = _NAMED.fullmatch(folder.strip().casefold())
    return cast(Split, match.lastgroup) if match else None


def dealt(sample_id: str, shares: Shares, seed: int) -> Split:
    """The split of an id by seeded shares: by itself, so that none moves when others come or go.

    The sha256 of ``<seed>/<id>``, as a number from 0 to 1, is below the share of ``test``, or below
    that of ``test`` and ``val`` together; else the id is in ``train``.
    """
    digest = hashlib.sha256(f"{seed}/{sample_id}".encode()).digest()
    place = (int.from_bytes(digest[:7]) >> 4) / 2**52  # 52 bits: exact as a float
    test = shares.get("test", 0)
    return "test" if place < test else "val" if place < test + shares.get("val", 0) else "train"


def all_dealt(ids: Sequence[str], shares: Shares, seed: int) -> list[Split]:
    """As `dealt`, of many: a million take half as long."""
    import numpy as np

    digests = b"".join([hashlib.sha256(f"{seed}/{i}".encode()).digest() for i in ids])
    places = (np.frombuffer(digests, ">u8")[::4] >> 12) / 2**52
    test = shares.get("test", 0)
    split = (places >= test).astype(int) + (places >= test + shares.get("val", 0))
    return [("test", "val", "train")[k] for k in split.tolist()]


def parent_of(sample_id: str) -> str:
    """The folder that an image lies in; empty for the root."""
    return sample_id.rpartition("/")[0]


def with_val(train: Sequence[str], test: Iterable[str], val: float,
             seed: int) -> dict[str, Split]:
    """Published train and test images, with a share of the former as ``val``: the first in order.

    Published sets do not grow, so the share is exact.

    Parameters
    ----------
    train, test : ids of the published halves
    val : share of `train`, from 0 to 1
    seed : of the order; another value, another split
    """
    chosen = set(sorted(train, key=lambda i: order(seed, i))[:round(val * len(train))])
    return {**{i: "val" if i in chosen else "train" for i in train}, **dict.fromkeys(test, "test")}


@dataclass(frozen=True)
class SplitRule:
    """How images of one's own are split.

    Attributes
    ----------
    shares : of images that become ``val`` and ``test`` where no folder is called so
    seed : of these shares; another value, another split
    by_folder : whether folders called after splits are the splits
    """

    shares: Shares = field(default_factory=dict)
    seed: int = 0
    by_folder: bool = True

    @classmethod
    def of(cls, spec: OwnTree) -> SplitRule:
        """As a manifest's section says."""
        return cls(spec.shares, spec.split_seed, spec.split_folders)


BY_FOLDER = SplitRule()


class Tree:
    """What the paths of a tree of images say: the split and the folders of each.

    Where all images lie in folders called after splits (`split_named`), at one depth, these are the
    splits: ``train/cat/1.jpg`` or ``cat/train/1.jpg``. A split without a folder is a seeded share
    of the images of ``train``.

    Parameters
    ----------
    root : what messages name
    ids : paths with ``/`` between parts

    Attributes
    ----------
    folders_of : of each folder with images (`parent_of`): those on the way to it, without the one
        that is its split
    depth : of the folders that are splits; None where none are

    Raises
    ------
    DataError
        Some folders are called after splits, and others beside them are not; or splits lie in
        splits.
    """

    def __init__(self, root: Path, ids: Sequence[str], rule: SplitRule) -> None:
        self._ids, self._seed = ids, rule.seed
        first = {i.rpartition("/")[0]: i for i in reversed(ids)}  # far fewer than images
        paths = {i: i.split("/")[:-1] for i in sorted(first.values())}
        self.depth = _depth(root, paths) if rule.by_folder else None
        self.folders_of = {f: [part for d, part in enumerate(paths[i]) if d != self.depth]
                           for f, i in first.items()}
        named = {} if self.depth is None else {
            f: split_named(paths[i][self.depth]) for f, i in first.items()}
        self._fixed = {f: split for f, split in named.items() if split}
        there = set(self._fixed.values())
        self._shares: Shares = {s: n for s, n in rule.shares.items() if s not in there}

    def split(self, sample_id: str) -> Split:
        """The split of an image."""
        fixed = self._fixed.get(parent_of(sample_id), "train") if self._fixed else "train"
        return fixed if fixed != "train" or not self._shares else \
            dealt(sample_id, self._shares, self._seed)

    def splits(self) -> list[Split]:
        """The split of every image."""
        if self._fixed:
            return list(map(self.split, self._ids))
        return all_dealt(self._ids, self._shares, self._seed)

    @cached_property
    def split_of(self) -> dict[str, Split]:
        """Of every image."""
        return dict(zip(self._ids, self.splits(), strict=True))


def _depth(root: Path, paths: Mapping[str, list[str]]) -> int | None:
    """How deep the folders are that all images' splits are called after.

    `paths` are of one image of each folder.
    """
    for depth in range(max(map(len, paths.values()), default=0)):
        near, other = dict[str, str](), dict[str, str]()
        for i, path in paths.items():
            name = path[depth] if depth < len(path) else i
            near_split = depth < len(path) and (split_named(name) or _unclear(name))
            (near if near_split else other).setdefault(name, i)
        if not near:
            if not _alike(other, paths, depth):
                continue
            near, other = other, {}
        unclear = {n: i for n, i in near.items() if not split_named(n)}
        if other or unclear:
            raise DataError(_refusal(root, near, other or unclear))
        _refuse_inner(root, {i: path[depth + 1:] for i, path in paths.items()})
        return depth
    return None


def _refuse_inner(root: Path, below: Mapping[str, list[str]]) -> None:
    """Refuse splits in a split, as in ``test/train/1.jpg``: not classes called train and val."""
    for depth in range(min(map(len, below.values()))):
        names = {path[depth] for path in below.values()}
        if len({split_named(n) for n in names} - {None}) > 1 and all(map(split_named, names)):
            raise DataError(f"{root}: '{next(iter(below))}' lies in two folders called like splits;"
                            " move the inner ones up, let dataset.root be the outer one, or"
                            " set dataset.split_folders: false, and no folder is a split")


def _unclear(name: str) -> bool:
    return bool(_UNCLEAR.fullmatch(name.strip().casefold()))


def _alike(names: Mapping[str, str], paths: Mapping[str, list[str]], depth: int) -> bool:
    """Whether all of several folders have a split in their names."""
    words = [re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold() for name in names]
    return len(words) > 1 and all(map(_WITHIN.search, words)) and \
        all(depth < len(paths[i]) for i in names.values())


def _refusal(root: Path, near: Mapping[str, str], other: Mapping[str, str]) -> str:
    names = listed((f"'{n}'" for n in sorted(near)), 3)
    beside = listed((f"'{i}'" for i in other.values()), 3)
    return (f"{root}: folders are called like splits ({names}), and {beside} is in none that is"
            " called train, val or test; put every image into one of these, or set"
            " dataset.split_folders: false, and no folder is a split")
