"""The tokenizer: CLIP's, with a small vocabulary in which every word of tiny's world is one token.

Byte pairs are merged, the most frequent one first, then in alphabetical order, until nothing is
left to merge; any other word is spelt from pieces.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

from gate_cache.text.tokens import BOS, EOS
from gate_cache.toyworld import WORDS

MORE = (
    "arri", "art", "background", "bad", "beautiful", "best", "bicycle", "big", "bright",
    "building", "bus", "cartoon", "cinematic", "city", "clouds", "cloudy", "colorful", "contrast",
    "conv", "cow", "dark", "day", "deer", "deformed", "desert", "detailed", "disfigured", "dog",
    "dots", "dotted", "draft", "drawing", "duck", "dusk", "field", "flat", "floor", "frog",
    "front", "gradient", "grainy", "grass", "gray", "hd", "highly", "house", "image", "incredibly",
    "indoor", "lamp", "large", "light", "lit", "man", "masterpiece", "monitor", "motorbike",
    "mountain", "mountains", "near", "outdoor", "overexposed", "parked", "patches", "patterned",
    "people", "person", "plain", "plant", "potted", "raytracing", "realistic", "render", "river",
    "road", "rocks", "sand", "scene", "sharpen", "sheep", "ship", "shot", "sketch", "sleeping",
    "small", "sony", "stripes", "sun", "sunny", "texture", "train", "tree", "trees", "truck",
    "turquoise", "tv", "under", "underexposed", "unified", "wall", "wallpapers", "water", "wine",
    "with", "woman",
)
"""Words beyond toyworld's: the paper's prompts, PF-WILLOW's, SPair-71k's and CIFAR-10's classes."""
SPECIAL = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS}
Pair = tuple[str, str]


def merges(words: Iterable[str]) -> list[Pair]:
    """Byte-pair merges after which every word is one token."""
    split = [[*word[:-1], f"{word[-1]}</w>"] for word in set(words)]
    found = []
    while counts := Counter(pair for parts in split for pair in pairwise(parts)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        found.append(best)
        split = [_merged(parts, best) for parts in split]
    return found


def _merged(parts: Sequence[str], pair: Pair) -> list[str]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out


def write(folder: Path) -> None:
    """Write ``vocab.json``, ``merges.txt`` and the settings that transformers reads."""
    pairs = merges([*WORDS, *MORE])
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{c}</w>" for c in letters), *(a + b for a, b in pairs), BOS, EOS]
    vocab = {token: i for i, token in enumerate(tokens)}
    head = ("#version: 0.2 - byte-pair merges of the embedded model, learnt from the words of its"
            " world; most frequent pair first, then alphabetical")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **SPECIAL}
    texts = {
        "vocab.json": json.dumps(vocab, ensure_ascii=False, indent=0),
        "merges.txt": "\n".join([head, *(f"{a} {b}" for a, b in pairs)]),
        "tokenizer_config.json": json.dumps(config, indent=2),
        "special_tokens_map.json": json.dumps(SPECIAL, indent=2),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
