"""T5's or Gemma's tokenizer without torch: how many tokens a prompt has, and which."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer

from gate_cache.core.errors import ModelError
from gate_cache.core.fingerprint import file_sha256
from gate_cache.text.tokens import Prompt, Tokens

PAD = "<pad>"


class T5Tokens:
    """A text of as many tokens, filled up, whatever the prompt.

    Parameters
    ----------
    folder : of its ``tokenizer.json``
    length : tokens of a text
    clip : of a model that attends to CLIP's tokens too, before T5's
    lower : whether prompts are put into lower case first, as PixArt's pipelines do
    before : text that is put before each prompt
    """

    marks: frozenset[str] = frozenset()
    added: tuple[()] = ()

    def __init__(self, folder: Path, length: int, clip: Tokens | None = None,
                 lower: bool = False, before: str = "") -> None:
        self._file = folder / "tokenizer.json"
        self.length = length
        self.clip = clip
        self.lower = lower
        self.before = before

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
        encoding = self._tokenizer.encode(text.lower().strip() if self.lower else
                                          self.before + text)
        fill = self.length - len(encoding.ids)
        if fill < 0:
            raise ModelError(f"prompt '{text[:40]}…' has {len(encoding.ids)} tokens, and this model"
                             f" reads {self.length}; shorten it")
        before = self.clip.encode(text).words[: self.clip.count("")] if self.clip else ()
        pad = self._tokenizer.token_to_id(PAD) or 0
        return Prompt(((*encoding.ids, *[pad] * fill),),
                      (*before, *encoding.tokens, *[PAD] * fill))

    def count(self, text: str) -> int:
        """Tokens that the model attends to, always as many."""
        return len(self.encode(text).words)
