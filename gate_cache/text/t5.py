"""T5's or another language model's tokenizer without torch: a prompt's tokens."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from gate_cache.core.errors import ModelError
from gate_cache.core.fingerprint import file_sha256
from gate_cache.text.template import INNER, PLAIN, Template
from gate_cache.text.tokens import Prompt, Tokens

PAD = "<pad>"


class T5Tokens:
    """A text of as many tokens, filled up, whatever the prompt.

    Parameters
    ----------
    folder : of its ``tokenizer.json``
    length : tokens of a text
    clip : of a model that attends to CLIP's tokens too, before T5's
    template : what the pipeline makes of a prompt
    """

    marks: frozenset[str] = frozenset()
    added: tuple[()] = ()

    def __init__(self, folder: Path, length: int, clip: Tokens | None = None,
                 template: Template = PLAIN) -> None:
        self._file = folder / "tokenizer.json"
        self.length = length
        self.clip = clip
        self.template = template

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        try:
            tokenizer = Tokenizer.from_file(str(self._file))
        except Exception as error:  # tokenizers raises bare exceptions
            raise ModelError(f"{self._file}: not a tokenizer ({error}); where a folder has only"
                             " spiece.model, AutoTokenizer.from_pretrained(…).save_pretrained(…) of"
                             " transformers writes one") from None
        tokenizer.no_truncation()  # a file may ask for either; here too long a text is refused
        tokenizer.no_padding()
        return tokenizer

    @property
    def highest(self) -> int:
        """The highest id there is."""
        return max(self._tokenizer.get_vocab().values())

    @property
    def digest(self) -> str:
        """sha256 of its file."""
        _ = self._tokenizer  # a missing or damaged file is refused there, with the way out
        return file_sha256(self._file)

    def encode(self, text: str) -> Prompt:
        """All tokens that the model attends to.

        Raises
        ------
        ModelError
            The prompt is longer than the model's text: nothing is cut off silently.
        """
        found, seen = self._seen(text)
        fill = self.length - len(seen)
        if fill < 0:
            raise ModelError(f"prompt '{text[:40]}…' has {len(seen)} tokens, and this model"
                             f" reads {self.length}; shorten it")
        before = self.clip.encode(text).words[: self.clip.count("")] if self.clip else ()
        pad = self._tokenizer.token_to_id(PAD) or 0
        return Prompt(((*(found.ids[i] for i in seen), *[pad] * fill),),
                      (*before, *(found.tokens[i] for i in seen), *[PAD] * fill))

    def _seen(self, text: str) -> tuple[Encoding, list[int]]:
        """A whole text's tokens, and which of them the model sees."""
        found, start = self._tokenizer.encode(self.template.filled(text)), self.template.left_out
        if start != INNER:
            return found, [*range(start, len(found.ids))]
        inner = len(self._tokenizer.encode(self.template.before).ids)
        return found, [0, *range(inner - 1, len(found.ids))]

    def count(self, text: str) -> int:
        """Tokens that the model attends to, always as many."""
        return len(self.encode(text).words)

    def seen(self, text: str) -> int:
        """Those that are no padding, where the model sees a text as long as it is."""
        return len(self._seen(text)[1]) if self.template.ragged else self.count(text)
