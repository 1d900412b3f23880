"""CLIP's tokenizer without torch gives the same tokens as transformers' own, and loses none."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from gate_cache.core.errors import ModelError
from gate_cache.diffusion.models.embedded import HOME
from gate_cache.text.tokens import BOS, EOS, ClipTokens, Prompt, read_tokens

OURS = read_tokens(HOME / "tokenizer")
THEIRS = CLIPTokenizer(vocab=OURS.vocab, merges=OURS.merges)
PIECE, ROOM = 77, 75
LONG = " ".join(f"a photo of cat number {i}" for i in range(60))


def inner(prompt: Prompt) -> list[int]:
    """Token ids without begin, end and padding."""
    found: list[int] = []
    for piece in prompt.ids:
        found += piece[1 : piece.index(OURS.vocab[EOS])]
    return found


def theirs(text: str) -> list[int]:
    return list(THEIRS(text, add_special_tokens=False).input_ids)


@pytest.mark.parametrize("text", [
    "", " ", "a photo of a cat", "A Photo, of: CATS!!", "don't we'll I'M it's", "x_y-z/..",
    "tabs\tand\nnew lines   and  spaces ", "123 4567 1.5e-3", "½ ² Ⅷ ٣", "café cafe\u0301 naïve",
    "日本語 テスト", "emoji 😀👍🏽", "İstanbul ǅ ẞ ﬁne ſ K", "\u200bzero\u00a0width\ufeff",
    "\x00\x01", "aeroplane horse, high quality, best quality", "a" * 300, LONG,
])
def test_tokens_are_those_of_transformers(text: str) -> None:
    assert inner(OURS.encode(text)) == theirs(text)


@pytest.mark.parametrize("text", [f"a {EOS} horse{BOS}", f"a{EOS}b", "wow! a cat!! ok"])
@pytest.mark.parametrize("pad", [EOS, "!"])
def test_special_tokens_written_out_are_those_of_transformers(text: str, pad: str) -> None:
    """Of 2.x and XL, which pad with '!', every '!' is that token."""
    ours = ClipTokens(OURS.vocab, OURS.merges, pad)
    other = CLIPTokenizer(vocab=OURS.vocab, merges=OURS.merges, pad_token=pad)
    expected = list(other(text, add_special_tokens=False).input_ids)
    assert list(ours.encode(text).ids[0][1 : 1 + len(expected)]) == expected


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None, database=None)
def test_any_text_gives_the_tokens_of_transformers(text: str) -> None:
    assert inner(OURS.encode(text)) == theirs(text)


@pytest.mark.parametrize("text", ["", "a cat", "a photo of a cat, best quality"])
def test_a_short_prompt_is_one_piece_padded_as_transformers_pads(text: str) -> None:
    padded = THEIRS(text, padding="max_length", max_length=PIECE).input_ids
    assert OURS.encode(text).ids == (tuple(padded),)


@pytest.mark.parametrize(("words", "pieces"), [
    (0, 1), (1, 1), (75, 1), (76, 2), (150, 2), (151, 3)])
def test_long_prompts_are_split_into_pieces_of_75(words: int, pieces: int) -> None:
    text = " ".join(["cat"] * words)
    prompt = OURS.encode(text)
    assert len(theirs(text)) == words and inner(prompt) == theirs(text)
    assert len(prompt.ids) == pieces and OURS.count(text) == pieces * PIECE
    for piece in prompt.ids:
        assert len(piece) == PIECE and piece[0] == OURS.vocab[BOS] and OURS.vocab[EOS] in piece


@pytest.mark.parametrize("text", ["", "a cat", LONG])
def test_token_table_has_a_word_for_every_token(text: str) -> None:
    assert len(OURS.encode(text).words) == OURS.count(text)


def test_token_table_shows_words_beside_begin_end_and_padding() -> None:
    assert OURS.encode("a Cat").words == (BOS, "a", "cat", *[EOS] * 74)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder as older releases wrote it: vocab.json and merges.txt."""
    (tmp_path / "vocab.json").write_text(json.dumps(OURS.vocab), encoding="utf-8")
    merges = "".join(f"{a} {b}\n" for a, b in OURS.merges)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    return tmp_path


def facts(tokens: ClipTokens) -> tuple[dict[str, int], list[tuple[str, str]], str]:
    return tokens.vocab, tokens.merges, tokens.pad


def test_vocabulary_and_merges_are_read(saved: Path) -> None:
    assert facts(read_tokens(saved)) == facts(OURS)


def test_tokenizer_json_is_read_as_transformers_saves_it(tmp_path: Path) -> None:
    THEIRS.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").exists() and not (tmp_path / "vocab.json").exists()
    assert facts(read_tokens(tmp_path)) == facts(OURS)


def test_merges_of_older_tokenizer_json_are_read(tmp_path: Path) -> None:
    model = {"vocab": OURS.vocab, "merges": [f"{a} {b}" for a, b in OURS.merges]}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    assert facts(read_tokens(tmp_path)) == facts(OURS)


@pytest.mark.parametrize("name", ["special_tokens_map.json", "tokenizer_config.json"])
@pytest.mark.parametrize("pad", ["!", {"content": "!", "lstrip": False}])
def test_padding_is_as_the_folder_says(saved: Path, name: str, pad: Any) -> None:
    (saved / name).write_text(json.dumps({"pad_token": pad}))
    (piece,) = read_tokens(saved).encode("a cat").ids
    assert piece[3] == OURS.vocab[EOS] and set(piece[4:]) == {OURS.vocab["!"]}


def without(token: str) -> str:
    return json.dumps({k: v for k, v in OURS.vocab.items() if k != token})


@pytest.mark.parametrize(("name", "content"), [
    ("vocab.json", "{"),
    ("vocab.json", "[1]"),
    ("vocab.json", '{"a": "b"}'),
    ("vocab.json", '{"a": -1}'),
    ("merges.txt", "one two three\n"),
    ("merges.txt", "alone\n"),
    ("special_tokens_map.json", "{"),
    pytest.param("vocab.json", without(BOS), id="no begin"),
    pytest.param("vocab.json", without(EOS), id="no end"),
    pytest.param("vocab.json", without("".join(OURS.merges[0])), id="merge without its token"),
    pytest.param("special_tokens_map.json", '{"pad_token": "[PAD]"}',
                 id="unknown padding"),
])
def test_damaged_files_are_a_model_error(saved: Path, name: str, content: str) -> None:
    (saved / name).write_text(content)
    with pytest.raises(ModelError, match="not a CLIP tokenizer"):
        read_tokens(saved).encode("a cat")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": {}}', '{"model": {"vocab": {}}}'])
def test_damaged_tokenizer_json_is_a_model_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match="not a CLIP tokenizer"):
        read_tokens(tmp_path)


def test_folder_without_a_tokenizer_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer here .*; expected vocab\.json"):
        read_tokens(tmp_path)


# ------------------------------------------------------------------------------ added tokens

WORDS = ["<my-cat>", "<my-cat>_1", "<my-cat>_2", "Sks1"]


def taught(folder: Path, words: list[str] = WORDS) -> CLIPTokenizer:
    found = CLIPTokenizer(vocab=OURS.vocab, merges=OURS.merges)
    found.add_tokens(words)
    found.save_pretrained(folder)
    return found


@pytest.mark.parametrize("text", ["a photo of sks1", "Sks1, SKS1!", "a<my-cat>b", "my-cat"])
def test_added_tokens_are_those_of_transformers(tmp_path: Path, text: str) -> None:
    other = taught(tmp_path, ["<my-cat>", "Sks1"])
    expected = list(other(text, add_special_tokens=False).input_ids)
    prompt = read_tokens(tmp_path).encode(text)
    assert list(prompt.ids[0][1 : 1 + len(expected)]) == expected


def test_a_word_of_several_vectors_is_written_out(tmp_path: Path) -> None:
    """As diffusers does before it tokenizes (`maybe_convert_prompt`)."""
    taught(tmp_path)
    prompt, first = read_tokens(tmp_path).encode("a <my-cat>"), len(OURS.vocab)
    assert prompt.ids[0][2:5] == (first, first + 1, first + 2)
    assert prompt.words[1:6] == ("a", "<my-cat>", "<my-cat>_1", "<my-cat>_2", EOS)


def test_words_of_several_vectors_may_begin_alike(tmp_path: Path) -> None:
    taught(tmp_path, ["<c>", "<c>_1", "<c>s", "<c>s_1"])
    words = read_tokens(tmp_path).encode("<c>s <c>").words
    assert words[1:6] == ("<c>s", "<c>s_1", "<c>", "<c>_1", EOS)


def test_added_tokens_of_older_releases_are_read(saved: Path) -> None:
    (saved / "added_tokens.json").write_text(json.dumps({"<my-cat>": len(OURS.vocab)}))
    assert read_tokens(saved).encode("a <my-cat>").ids[0][2] == len(OURS.vocab)
    entry = {"content": "sks1", "lstrip": False, "rstrip": False, "normalized": True}
    (saved / "tokenizer_config.json").write_text(json.dumps({
        "added_tokens_decoder": {str(len(OURS.vocab) + 1): entry}}))
    found = read_tokens(saved)
    assert found.encode("a <my-cat> sks1").ids[0][2:4] == (found.highest - 1, found.highest)


@pytest.mark.parametrize(("name", "content", "says"), [
    ("added_tokens.json", {"<x>": 5000}, "added token '<x>' has id 5000, where the next one is"),
    ("added_tokens.json", {"horse</w>": 5000}, "give the token 'horse</w>' several ids"),
    ("tokenizer_config.json", {"model_max_length": 64}, "its model_max_length is 64"),
    ("tokenizer.json", {"model": {"vocab": {"a": 1}, "merges": []}}, "different vocabularies")])
def test_a_tokenizer_that_contradicts_itself_is_refused(saved: Path, name: str, content: Any,
                                                        says: str) -> None:
    (saved / name).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=says):
        read_tokens(saved)


def test_another_normaliser_is_honoured(tmp_path: Path) -> None:
    other = CLIPTokenizer(vocab=OURS.vocab, merges=OURS.merges)
    other.save_pretrained(tmp_path)
    assert read_tokens(tmp_path).rules == {}
    path = tmp_path / "tokenizer.json"
    data = json.loads(path.read_text())
    data["normalizer"] = {"type": "Replace", "pattern": {"String": "dog"}, "content": "horse"}
    path.write_text(json.dumps(data))
    found = read_tokens(tmp_path)
    assert found.rules == {"normalizer": data["normalizer"]}
    assert found.encode("a dog").ids == OURS.encode("a horse").ids
