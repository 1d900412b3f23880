"""Which images a LoRA is trained on, and their captions: empty, tags, sentence (paper, A.3)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gate_cache.core.errors import DataError
from gate_cache.datasets.common.base import CorrespondenceDataset, ImageDataset
from gate_cache.datasets.common.listed_pairs import PairsWithin
from gate_cache.toyworld.captions import with_article

if TYPE_CHECKING:
    from gate_cache.core.progress import Progress
    from gate_cache.datasets.common.captions import Captions

_SMALL_WORDS = frozenset({
    "a", "an", "and", "are", "at", "by", "for", "from", "her", "his", "in", "is", "its", "of", "on",
    "or", "that", "the", "their", "this", "to", "with"})


@dataclass(frozen=True)
class TrainingImage:
    """One image to train on.

    Attributes
    ----------
    sha256 : hex digest of its content
    sentence : its caption
    """

    id: str
    sha256: str
    sentence: str

    @property
    def captions(self) -> tuple[str, str, str]:
        """Empty, tags, sentence."""
        return "", tags(self.sentence), self.sentence


def training_images(dataset: ImageDataset, count: int, seed: int, captions: Captions | None,
                    show: Progress) -> list[TrainingImage]:
    """`count` random images of the training split, no two with the same content.

    Parameters
    ----------
    dataset : whose training split is read
    count : images, at most
    seed : another value, another choice
    captions : sentences; without, and for images that have none there, ``a photo of a …``
    show : what is said of them

    Raises
    ------
    DataError
        There are none; where there are fewer than `count`, all are used and that is said.
    """
    by_digest: dict[str, str] = {}
    for sample_id in sorted(_training_ids(dataset), key=lambda i: _order(seed, i)):
        if len(by_digest) == count:
            break
        by_digest.setdefault(dataset.sha256(sample_id), sample_id)
    if not by_digest:
        raise DataError(f"{dataset.name}: no training images; a LoRA needs some")
    if len(by_digest) < count:
        show.say(f"note: only {len(by_digest)} different training images, {count} asked for: all"
                 " are used")
    chosen = [(i, digest) for digest, i in by_digest.items()]
    sentences = _plain_sentences(dataset)
    if captions is not None:
        captioned = {i: captions[i] for i, digest in chosen if captions.fits(i, digest)}
        sentences |= captioned
        lacking = len(chosen) - len(captioned)
        show.say(f"captions from {captions.path}" + (
            f"; {lacking} of {len(chosen)} images have none there, or have changed since: a plain"
            " one stands in" if lacking else ""))
    return [TrainingImage(i, digest, sentences.get(i, "a photo")) for i, digest in chosen]


def _training_ids(dataset: ImageDataset) -> list[str]:
    """Ids of the training split, or all where a data set has no splits."""
    ids = [s.id for s in dataset.samples()]
    split_of = getattr(dataset, "split_of", None)
    return [i for i in ids if split_of(i) == "train"] if split_of else ids


def _order(seed: int, sample_id: str) -> str:
    return hashlib.sha256(f"{seed}/{sample_id}".encode()).hexdigest()


def _plain_sentences(dataset: ImageDataset) -> dict[str, str]:
    """``a photo of a horse`` for every training image whose category is known."""
    if not isinstance(dataset, CorrespondenceDataset):
        return {}
    pairs = dataset.pairs("train")  # all within groups are too many to go over one by one
    groups: Iterable[tuple[str, Sequence[str]]] = pairs.groups if isinstance(
        pairs, PairsWithin) else ((p.category, (p.source, p.target)) for p in pairs)
    return {i: f"a photo of {_noun(category)}" for category, ids in groups for i in ids}


def _noun(category: str) -> str:
    """A category's name as a noun with its article: ``car(G)`` is a car."""
    name = re.sub(r"\(.*?\)", "", category).replace("_", " ").strip()
    return with_article(name)


def tags(sentence: str) -> str:
    """The words of a sentence that say something, each once, with commas between."""
    words = re.findall(r"[\w'-]+", sentence.lower())
    return ", ".join(dict.fromkeys(w for w in words if w not in _SMALL_WORDS))
