"""Captions as tiny hears them while it learns: shortened, listed, praised or left out.

A picture's own sentence alone would make prompts such as "a photo", "a photo of a horse" or a list
of all categories foreign to it, and those are what feature extraction uses.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from gate_cache.diffusion.models.embedded import HOME
from gate_cache.text.tokens import read_tokens
from gate_cache.toyworld import CATEGORIES
from gate_cache.toyworld.captions import with_article
from pipelines.tiny.pictures import cifar_caption

GOOD, PRAISE = ", high quality", "best quality, highly realistic, masterpiece, high resolution"
SHARES = {"empty": 0.1, "plain": 0.05, "short": 0.15, "list": 0.1}  # the rest: the whole sentence


def varied(caption: str, category: str, g: torch.Generator) -> str:
    """One of the ways to say what a picture shows."""
    draw, praised, told = torch.rand(3, generator=g).tolist()
    photo = caption == cifar_caption(category)
    quality = "" if photo else caption[caption.index(", "):]
    if quality == GOOD and praised < 0.35:
        quality = f"{GOOD}, {PRAISE}"
    if draw < (bound := SHARES["empty"]):
        return ""
    lead = "a low resolution photo" if photo else "a photo"
    tail = quality if told < 0.5 else ""
    if draw < (bound := bound + SHARES["plain"]):
        return lead + tail
    if draw < (bound := bound + SHARES["short"]):
        return f"{lead} of {with_article(category)}{tail}"
    if draw < bound + SHARES["list"]:
        return f"{lead} of {', '.join(_among(category, g))}{tail}"
    return caption if photo else caption[: caption.index(", ")] + quality


def _among(category: str, g: torch.Generator) -> list[str]:
    """The category among others, in alphabetical order: all of them, or a few."""
    few = int(torch.randint(1, len(CATEGORIES) + 4, (), generator=g))
    order = torch.randperm(len(CATEGORIES), generator=g).tolist()
    return sorted({category, *(CATEGORIES[i] for i in order[:few])})


_TOKENS = read_tokens(HOME / "tokenizer")


@lru_cache(maxsize=200_000)
def _ids(caption: str) -> tuple[int, ...]:
    chunks = _TOKENS.encode(caption).ids
    if len(chunks) > 1:
        raise ValueError(f"a caption of over 75 tokens: {caption!r}")
    return chunks[0]


def token_ids(captions: list[str]) -> torch.Tensor:
    """(N, 77) token ids; captions of over 75 tokens are refused."""
    return torch.tensor([_ids(c) for c in captions])
