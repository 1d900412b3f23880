"""CLIP's tokenizer without torch: how many tokens a prompt has, and which.

Prompts longer than 75 tokens are split into pieces of 75, each with its own begin and end, joined
along the token axis after encoding (paper, A.1): nothing is cut off.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFC, Lowercase, Replace, Strip
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizers

from gate_cache.core.errors import ModelError
from gate_cache.core.features import TOKENS_PER_PIECE

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True)
class Prompt:
    """A tokenized prompt.

    Attributes
    ----------
    ids : pieces of 77 token ids each
    words : one text per token, over all pieces: the token table of attention maps
    """

    ids: tuple[tuple[int, ...], ...]
    words: tuple[str, ...]


class Tokens(Protocol):
    """What turns prompts into tokens."""

    def encode(self, text: str) -> Prompt:
        """Split a prompt into pieces."""

    def count(self, text: str) -> int:
        """Tokens of a prompt over all its pieces."""


class NoTokens:
    """For a model that takes no text."""

    def encode(self, text: str) -> Prompt:
        """No pieces."""
        return Prompt((), ())

    def count(self, text: str) -> int:
        """None."""
        return 0


class ClipTokens:
    """CLIP's byte-pair tokenizer over a vocabulary and its merges.

    Parameters
    ----------
    vocab : dict from token to id
    merges : pairs of tokens, in order of priority
    pad : the token that fills a piece up
    """

    def __init__(self, vocab: dict[str, int], merges: list[tuple[str, str]], pad: str = EOS):
        lacking = {BOS, EOS, pad} - vocab.keys()
        if lacking:
            raise ValueError(f"the vocabulary lacks {sorted(lacking)}")
        self.vocab = vocab
        self.merges = merges
        self.pad = pad
        model = BPE(vocab=vocab, merges=merges, unk_token=EOS, end_of_word_suffix="</w>",
                    continuing_subword_prefix="", fuse_unk=False)
        self._tokenizer = Tokenizer(model)
        self._tokenizer.normalizer = Normalizers(
            [NFC(), Replace(Regex(r"\s+"), " "), Strip(), Lowercase()])
        self._tokenizer.pre_tokenizer = PreTokenizers([
            Split(Regex(_WORDS), behavior="removed", invert=True),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ])

    def encode(self, text: str) -> Prompt:
        """Split a prompt into pieces of 77 tokens, begin and end included."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        room = TOKENS_PER_PIECE - 2
        ids: list[tuple[int, ...]] = []
        words: list[str] = []
        for start in range(0, max(len(encoding.ids), 1), room):
            piece = encoding.ids[start : start + room]
            fill = room - len(piece)
            ids.append((self.vocab[BOS], *piece, self.vocab[EOS], *[self.vocab[self.pad]] * fill))
            tokens = encoding.tokens[start : start + room]
            words += [BOS, *(t.removesuffix("</w>") for t in tokens), EOS, *[self.pad] * fill]
        return Prompt(tuple(ids), tuple(words))

    def count(self, text: str) -> int:
        """Tokens of a prompt over all its pieces: a multiple of 77."""
        return TOKENS_PER_PIECE * len(self.encode(text).ids)


def _read_merges(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.split() for line in lines if line and not line.startswith("#version"))
    return [(a, b) for a, b in pairs]


def read_tokens(folder: Path) -> ClipTokens:
    """Read a CLIP tokenizer from ``vocab.json`` and ``merges.txt``, or ``tokenizer.json``.

    Raises
    ------
    ModelError
        Files missing or not CLIP's.
    """
    try:
        if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
            vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
            merges: list[Any] = list(_read_merges(folder / "merges.txt"))
        else:
            model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
            vocab, merges = model["vocab"], [_pair(m) for m in model["merges"]]
        pairs = [(str(a), str(b)) for a, b in merges]
        return ClipTokens({str(k): int(v) for k, v in vocab.items()}, pairs, _pad(folder))
    except OSError as error:
        raise ModelError(f"{folder}: no tokenizer here ({error.strerror}); expected vocab.json and"
                         " merges.txt, or tokenizer.json") from None
    except Exception as error:  # tokenizers raises bare exceptions
        raise ModelError(f"{folder}: not a CLIP tokenizer ({error})") from None


def _pair(merge: Any) -> Any:
    return merge.split(" ") if isinstance(merge, str) else merge


def _pad(folder: Path) -> str:
    """The padding token: SD 1.x pads with the end token, SD 2.x with '!'."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).exists():
            pad = json.loads((folder / name).read_text(encoding="utf-8")).get("pad_token")
            if pad:
                return str(pad["content"] if isinstance(pad, dict) else pad)
    return EOS


