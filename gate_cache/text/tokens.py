"""CLIP's tokenizer without torch: how many tokens a prompt has, and which.

Prompts longer than 75 tokens are split into pieces of 75, each with its own begin and end, joined
along the token axis after encoding (paper, A.1): nothing is cut off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Protocol

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFC, Lowercase, Replace, Strip
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizers

from gate_cache.core.errors import ModelError
from gate_cache.core.features import TOKENS_PER_PIECE
from gate_cache.core.fingerprint import fingerprint

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_SPECIAL = r"<\|startoftext\|>|<\|endoftext\|>|"
_SPACES = ["Replace", "{'Regex': '\\\\s+'}", " "]
_KNOWN: dict[str, list[list[list[str]]]] = {
    "normalizer": [[["NFC"], _SPACES, *strip, ["Lowercase"]] for strip in ([], [["Strip"]])],
    "pre_tokenizer": [[["Split", str({"Regex": words}), "Removed", "True"], ["ByteLevel", "False"]]
                      for words in (_WORDS, _SPECIAL + _WORDS)]}
"""CLIP's own, as the tokenizers library writes them: files that only repeat it keep its digest."""
_MODEL = {"dropout": None, "unk_token": EOS, "continuing_subword_prefix": "",
          "end_of_word_suffix": "</w>", "fuse_unk": False, "byte_fallback": False,
          "ignore_merges": False}


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


@dataclass(frozen=True)
class Added:
    """A token beside the vocabulary, such as a learnt word (textual inversion, Gal et al. 2022).

    Attributes
    ----------
    id : its row of the text encoder's embedding
    content : its text
    single_word, lstrip, rstrip, normalized : where it matches a text, as of `tokenizers.AddedToken`
    """

    content: str
    id: int
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True


class Tokens(Protocol):
    """What turns prompts into tokens."""

    def encode(self, text: str) -> Prompt:
        """Split a prompt into pieces."""

    def count(self, text: str) -> int:
        """Tokens of a prompt over all its pieces."""

    def seen(self, text: str) -> int:
        """Those that a pass has; prompts with as many may fill one batch."""


class NoTokens:
    """For a model that takes no text."""

    def encode(self, text: str) -> Prompt:
        """No pieces, whatever the text."""
        return Prompt((), ())

    def count(self, text: str) -> int:
        """0, whatever the text."""
        return 0

    seen = count


class ClipTokens:
    """CLIP's byte-pair tokenizer over a vocabulary and its merges.

    Begin, end and padding tokens written out in a text are those tokens, as in transformers: of
    2.x and XL, which pad with '!', so is every '!'.

    Parameters
    ----------
    vocab : dict from token to id
    merges : pairs of tokens, in order of priority
    pad : the token that fills a piece up
    added : tokens beside the vocabulary, found in a text before it is split
    rules : sections of a ``tokenizer.json`` that differ from CLIP's, by name
    """

    def __init__(self, vocab: dict[str, int], merges: list[tuple[str, str]], pad: str = EOS,
                 added: Sequence[Added] = (), rules: dict[str, Any] | None = None):
        ids = {**vocab, **{a.content: a.id for a in added}}
        lacking = {BOS, EOS, pad} - ids.keys()
        if lacking:
            raise ValueError(f"the vocabulary lacks {sorted(lacking)}")
        self.vocab = vocab
        self.merges = merges
        self.pad = pad
        self.added = tuple(sorted(added, key=lambda a: a.id))
        self.rules = rules or {}
        self._pad = ids[pad]
        self._words = {a.content for a in self.added}
        self._tokenizer = _ruled(_clip(vocab, merges), self.rules)
        self.marks = {BOS, EOS, pad} - self._words
        self._add([*self.added, *(Added(m, vocab[m], normalized=False) for m in self.marks)])

    @property
    def highest(self) -> int:
        """The highest id there is."""
        return max([*self.vocab.values(), *(a.id for a in self.added)])

    @property
    def splits(self) -> tuple[Any, ...]:
        """What decides where a text is split."""
        return self.vocab, self.merges, self.added, self.rules

    @property
    def digest(self) -> str:
        """sha256 over vocabulary, merges, padding, and what else decides ids where there is any."""
        more = {"added": [asdict(a) for a in self.added], "rules": self.rules}
        return fingerprint({"vocab": self.vocab, "merges": self.merges, "pad": self.pad,
                            **{k: v for k, v in more.items() if v}})

    def _add(self, tokens: Sequence[Added]) -> None:
        for token in tokens:  # one by one, by rising id: the library numbers them as they come
            flags = {k: v for k, v in asdict(token).items() if k != "id"}
            self._tokenizer.add_tokens([AddedToken(**flags)])
            if self._tokenizer.token_to_id(token.content) != token.id:
                raise ValueError(f"added token '{token.content}' has id {token.id}, where the next"
                                 f" one is {self._tokenizer.token_to_id(token.content)}")

    def encode(self, text: str) -> Prompt:
        """Split a prompt into pieces of 77 tokens, begin and end included."""
        encoding = self._tokenizer.encode(self._all_vectors(text), add_special_tokens=False)
        room = TOKENS_PER_PIECE - 2
        ids: list[tuple[int, ...]] = []
        words: list[str] = []
        for start in range(0, max(len(encoding.ids), 1), room):  # an empty prompt is a piece, too
            piece = encoding.ids[start : start + room]
            fill = room - len(piece)
            ids.append((self.vocab[BOS], *piece, self.vocab[EOS], *[self._pad] * fill))
            tokens = encoding.tokens[start : start + room]
            words += [BOS, *(t.removesuffix("</w>") for t in tokens), EOS, *[self.pad] * fill]
        return Prompt(tuple(ids), tuple(words))

    def _all_vectors(self, text: str) -> str:
        """A learnt word of several vectors, ``<x>``, ``<x>_1`` …, written out as diffusers does."""
        several = {w for w in self._words if f"{w}_1" in self._words}
        if not several:
            return text
        used = several.intersection(self._tokenizer.encode(text, add_special_tokens=False).tokens)
        # All at once, the longest first: one word may begin another, and a set has no order.
        longest = sorted(used, key=len, reverse=True)
        return re.sub("|".join(map(re.escape, longest)), self._vectors, text) if used else text

    def _vectors(self, match: re.Match[str]) -> str:
        more = takewhile(self._words.__contains__, (f"{match[0]}_{i}" for i in count(1)))
        return " ".join([match[0], *more])

    def count(self, text: str) -> int:
        """Tokens of a prompt over all its pieces: a multiple of 77."""
        return TOKENS_PER_PIECE * len(self.encode(text).ids)

    seen = count


def _clip(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges, unk_token=EOS, end_of_word_suffix="</w>",
                              continuing_subword_prefix="", fuse_unk=False))
    tokenizer.normalizer = Normalizers([NFC(), Replace(Regex(r"\s+"), " "), Strip(), Lowercase()])
    tokenizer.pre_tokenizer = PreTokenizers([
        Split(Regex(_WORDS), behavior="removed", invert=True),
        ByteLevel(add_prefix_space=False, use_regex=False)])
    return tokenizer


def _ruled(tokenizer: Tokenizer, rules: dict[str, Any]) -> Tokenizer:
    """The tokenizer with some of its sections as a ``tokenizer.json`` has them."""
    if not rules:
        return tokenizer
    whole = json.loads(tokenizer.to_str())
    whole["model"] |= rules.get("model", {})
    return Tokenizer.from_str(json.dumps(
        {**whole, **{k: v for k, v in rules.items() if k != "model"}}))


def read_tokens(folder: Path) -> ClipTokens:
    """Read a CLIP tokenizer from ``vocab.json`` and ``merges.txt``, or ``tokenizer.json``.

    Added tokens are read from ``tokenizer.json``, ``tokenizer_config.json`` and
    ``added_tokens.json``.

    Raises
    ------
    ModelError
        Files missing or not CLIP's, or not of one tokenizer.
    """
    try:
        whole = _json(folder / "tokenizer.json")
        if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
            vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
            lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
            merges = [m.split() for m in lines if m and not m.startswith("#version")]
        else:
            model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
            vocab = model["vocab"]
            merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        if whole.get("model", {}).get("vocab", vocab) != vocab:
            raise ValueError("its files have different vocabularies")
        pairs = [(str(a), str(b)) for a, b in merges]
        words = {str(k): int(v) for k, v in vocab.items()}
        _check_length(folder)
        return ClipTokens(words, pairs, _pad(folder), _added(folder, whole, words), _rules(whole))
    except OSError as error:
        raise ModelError(f"{folder}: no tokenizer here ({error.strerror}); expected vocab.json and"
                         " merges.txt, or tokenizer.json") from None
    except Exception as error:  # tokenizers raises bare exceptions
        raise ModelError(f"{folder}: not a CLIP tokenizer ({error})") from None


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return content


def _added(folder: Path, whole: dict[str, Any], vocab: dict[str, int]) -> list[Added]:
    """Added tokens of all files; those of the vocabulary (begin, end, padding) are none."""
    special = {str(t["content"]): bool(t.get("special")) for t in whole.get("added_tokens", ())}
    listed = [(int(t["id"]), t) for t in whole.get("added_tokens", ())]
    config = _json(folder / "tokenizer_config.json")
    listed += [(int(i), t) for i, t in config.get("added_tokens_decoder", {}).items()]
    listed += [(int(i), {"content": c, "normalized": not special.get(c)})
               for c, i in _json(folder / "added_tokens.json").items()]
    added: dict[str, Added] = {}
    for i, token in listed:
        content, flags = str(token["content"]), ("single_word", "lstrip", "rstrip", "normalized")
        first = added.setdefault(content, Added(content, i, **{
            k: bool(token[k]) for k in flags if k in token}))
        if first.id != i or vocab.get(content, i) != i:
            raise ValueError(f"its files give the token '{content}' several ids")
    return [a for a in added.values() if a.content not in vocab]


def _rules(whole: dict[str, Any]) -> dict[str, Any]:
    """Sections of a ``tokenizer.json`` that split otherwise than CLIP's."""
    sections = {k: whole[k] for k in ("normalizer", "pre_tokenizer")
                if whole.get(k) and _bare(whole[k]) not in _KNOWN[k]}
    model = {k: v for k, v in whole.get("model", {}).items()
             if k not in ("type", "vocab", "merges") and v != _MODEL.get(k, v)}
    return {**sections, **({"model": model} if model else {})}


def _bare(section: dict[str, Any]) -> list[Any]:
    """A section's steps as kinds and what decides the split, for comparison."""
    steps = section.get("normalizers") or section.get("pretokenizers") or [section]
    return [[s["type"], *(str(s[k]) for k in ("pattern", "content", "behavior", "invert",
                                              "add_prefix_space") if k in s)] for s in steps]


def _check_length(folder: Path) -> None:
    length = _json(folder / "tokenizer_config.json").get("model_max_length")
    if length is not None and length < TOKENS_PER_PIECE:
        raise ValueError(f"its model_max_length is {length}, and prompts are encoded in pieces of"
                         f" {TOKENS_PER_PIECE}")


def _pad(folder: Path) -> str:
    """The padding token: SD 1.x pads with the end token, SD 2.x with '!'."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if pad := _json(folder / name).get("pad_token"):
            return str(pad["content"] if isinstance(pad, dict) else pad)
    return EOS

