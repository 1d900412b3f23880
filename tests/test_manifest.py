"""Manifests: what is read, what is refused, and that every refusal names line and way out."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate_cache.core.errors import ManifestError, UserError
from gate_cache.core.roots import Roots
from gate_cache.manifest.load import Loaded, load
from gate_cache.manifest.train_spec import TrainSpec
from gate_cache.manifest.yaml_source import MAX_BYTES, MAX_NODES, parse_yaml
from gate_cache.workspace.workspace import Workspace

MANIFESTS = sorted((Path(__file__).parents[1] / "manifests").glob("*.yaml"))
HEAD = "dataset: {name: toyworld}\nmodel: {source: tiny}\n"
BASE = HEAD + "conv:\n  a: {prompt: x}\n"  # combo `a` is line 4; what a test appends, line 5
COMBO = HEAD + "conv:\n  a: {prompt: x, %s}\n"


def read(folder: Path, text: str | bytes, **overrides: Any) -> Loaded:
    path = folder / "m.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(path, overrides)


def problems(folder: Path, text: str | bytes, **overrides: Any) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        read(folder, text, **overrides)
    return list(caught.value.problems)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_every_shipped_manifest_loads(path: Path) -> None:
    assert load(path).manifest.combos


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    text = """dataset: {name: toyword}
model: {sorce: tiny, dtype: float8}
conv:
  a: {promt: x}
  B: {prompt: no}
trian: {}
train: {}
train: {pairs: 0}
"""
    found = problems(tmp_path, text)
    expected = [
        ("m.yaml:1: dataset: unknown name 'toyword'", "(did you mean 'toyworld'?)"),
        ("m.yaml:2: model.source: required, but not given", ""),
        ("m.yaml:2: model.sorce: unknown field", "(did you mean 'source'?)"),
        ("m.yaml:2: model.dtype: expected 'float32'", "(did you mean 'float32'?)"),
        ("m.yaml:4: conv.a.promt: unknown field", "(did you mean 'prompt'?)"),
        ("m.yaml:5: conv.B.prompt: expected text, got false", "quote it"),
        ("m.yaml:5: conv.B: a combo's name is lower-case", ""),
        ("m.yaml:6: trian: unknown field", "(did you mean 'train'?)"),
        ("m.yaml:8: train: key given twice", "(first in line 7)"),
        ("m.yaml:8: train.pairs: must be at least 1, got 0", ""),
    ]
    missing = [e for e in expected if not any(f.startswith(e[0]) and e[1] in f for f in found)]
    assert not missing, found
    assert len(found) == len(expected)


@pytest.mark.parametrize(("text", "place", "meant"), [
    (BASE + "stor: {}\n", "m.yaml:5: stor", "store"),
    (HEAD.replace("world", "world, trian: 3") + "conv: {a: {prompt: x}}\n",
     "m.yaml:1: dataset.trian", "train"),
    (HEAD.replace("toyworld", "folder, root: a, roott: b") + "conv: {a: {prompt: x}}\n",
     "m.yaml:1: dataset.roott", "root"),
    (HEAD.replace("tiny", "tiny, sise: 64") + "conv: {a: {prompt: x}}\n",
     "m.yaml:2: model.sise", "size"),
    (COMBO % "sed: 1", "m.yaml:4: conv.a.sed", "seed"),
    (COMBO % "controlnet: {source: tiny, scael: 1}", "m.yaml:4: conv.a.controlnet.scael", "scale"),
    (COMBO % "denoise: {from: 60, stesp: 1}", "m.yaml:4: conv.a.denoise.stesp", "steps"),
    (COMBO % "lora: {source: tiny/moderate, scael: 1}", "m.yaml:4: conv.a.lora.scael", "scale"),
    (COMBO % "lora: [{source: a}, {source: b, scael: 1}]", "m.yaml:4: conv.a.lora[1].scael",
     "scale"),
    (BASE + "attention:\n  b: {prompt: y, sed: 1}\n", "m.yaml:6: attention.b.sed", "seed"),
    (BASE + "store:\n  pth: x\n", "m.yaml:6: store.pth", "path"),
    (BASE + "train:\n  hed: nn\n", "m.yaml:6: train.hed", "head"),
])
def test_unknown_field_names_line_place_and_what_was_meant(
    tmp_path: Path, text: str, place: str, meant: str,
) -> None:
    (found,) = problems(tmp_path, text)
    assert found.startswith(f"{place}: unknown field (did you mean '{meant}'?); known: ")


def test_a_world_of_more_pictures_than_can_be_listed_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, BASE.replace("toyworld", "toyworld, train: 1000000000")) == [
        "m.yaml:1: dataset.train: must be at most 1000000, got 1000000000"]


@pytest.mark.parametrize(("text", "expected"), [
    (BASE + "model: {source: tiny}\n", "m.yaml:5: model: key given twice (first in line 2)"),
    (BASE + "  a: {prompt: y}\n", "m.yaml:5: conv.a: key given twice (first in line 4)"),
    (COMBO % "seed: 1, seed: 2", "m.yaml:4: conv.a.seed: key given twice (first in line 4)"),
])
def test_duplicate_keys_are_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert problems(tmp_path, text) == [expected]


@pytest.mark.parametrize(("fields", "expected"), [
    ("t: 1000", "t: must be at most 999, got 1000"),
    ("seed: -1", "seed: must be at least 0, got -1"),
    ("seed: true", "seed: expected a whole number, got true"),
    ("t: 1.5", "t: expected a whole number, got 1.5"),
    ("maps: []", "maps: must not be empty"),
    ("maps: [up0, up0]", "maps: a map is named twice"),
    ("maps: [attn1]", "maps[0]: 'attn1' is not a map of conv combos: up0, up1, …"),
    ("lora: 3", "lora: expected a list, got 3"),
    ("lora: [3]", "lora[0]: expected a mapping, got 3"),
    ("controlnet: {source: tiny, low: 201}",
     "controlnet.low: Canny's low threshold is above the high"),
    ("denoise: {from: 50}", "denoise: needs 'from' at least 'steps' above t = 50"),
    ("denoise: {from: 1000}", "denoise.from: must be at most 999, got 1000"),
    ("denoise: {steps: 2}", "denoise.from: required, but not given"),
])
def test_combo_is_checked(tmp_path: Path, fields: str, expected: str) -> None:
    assert problems(tmp_path, COMBO % fields) == [f"m.yaml:4: conv.a.{expected}"]


def test_denoise_may_start_exactly_its_steps_above_t(tmp_path: Path) -> None:
    combo = read(tmp_path, COMBO % "t: 50, denoise: {from: 55, steps: 5}").manifest.conv["a"]
    assert combo.denoise and combo.denoise.steps == 5


@pytest.mark.parametrize(("line", "expected"), [
    ("train: {combos: [a, aa]}",
     "train.combos[1]: 'aa' is not a combo of 'conv' (did you mean 'a'?)"),
    ("train: {baseline: zzz}", "train.baseline: 'zzz' is not a combo of 'conv'"),
    ("train: {attention: a}", "train.attention: 'a' is not a combo of 'attention'"),
    ("train: {attention_in: bucket}",
     "train.attention_in: there is no combo of 'attention' to put into the bucket"),
    ("attention: {a: {prompt: y}}", "attention.a: this name is also a combo of 'conv'"),
    ("attention: {b: {prompt: y, maps: [up0]}}",
     "attention.b.maps[0]: 'up0' is not a map of attention combos: attn0, attn1, …"),
])
def test_sections_are_checked_against_each_other(
    tmp_path: Path, line: str, expected: str,
) -> None:
    assert problems(tmp_path, f"{BASE}{line}\n") == [f"m.yaml:5: {expected}"]


def test_attention_is_not_mixed_level_by_level(tmp_path: Path) -> None:
    text = f"{BASE}attention: {{b: {{prompt: y}}}}\ntrain: {{attention_in: bucket}}\n"
    assert read(tmp_path, text).manifest.train.attention_in == "bucket"
    (found,) = problems(tmp_path, text, head="upernet")
    assert found.startswith("m.yaml:6: train.attention_in: head 'upernet' is given attention level")


def test_combos_with_identical_settings_are_refused(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, BASE + "  b: {prompt: x, seed: 0}\n")
    assert found.startswith("m.yaml:5: conv.b: has the same settings as 'a'")


def test_the_same_settings_may_yield_both_kinds_of_maps(tmp_path: Path) -> None:
    manifest = read(tmp_path, BASE + "attention: {b: {prompt: x}}\n").manifest
    assert manifest.kind("a") == "conv" and manifest.kind("b") == "attention"


def test_a_manifest_without_combos_is_refused(tmp_path: Path) -> None:
    assert "no combo to extract" in problems(tmp_path, HEAD)[0]


@pytest.mark.parametrize("name", ["Big", "a/b", "-a", ".a", "'a b'", "'..'", "ä", "'a\\n'", "''"])
def test_names_unfit_for_a_folder_are_refused(tmp_path: Path, name: str) -> None:
    (found,) = problems(tmp_path, f"{BASE}  {name}: {{prompt: y}}\n")
    assert found.startswith("m.yaml:5: conv.") and "a combo's name is lower-case" in found


@pytest.mark.parametrize("name", ["samples", "latents-0"])
def test_names_of_the_store_itself_are_refused(tmp_path: Path, name: str) -> None:
    (found,) = problems(tmp_path, f"{BASE}  {name}: {{prompt: y}}\n")
    assert found == f"m.yaml:5: conv.{name}: this name is taken by the store itself"


def test_problem_of_a_combo_named_by_a_number_names_it(tmp_path: Path) -> None:
    found = problems(tmp_path, BASE + "  7: {prompt: y}\n")
    assert all(line.startswith("m.yaml:5: conv.7: ") for line in found)


def test_anchors_and_merge_keys_reuse_a_combo(tmp_path: Path) -> None:
    text = HEAD + "conv:\n  a: &a {prompt: x, seed: 3}\n  b: {<<: *a, seed: 4}\n"
    a, b = read(tmp_path, text).manifest.conv.values()
    assert (a.prompt, a.seed, b.prompt, b.seed) == ("x", 3, "x", 4)


def test_problem_in_a_merged_field_names_the_line_it_comes_from(tmp_path: Path) -> None:
    text = HEAD + "x-base: &base {t: -1}\nconv:\n  a: {prompt: y, <<: *base}\n"
    assert problems(tmp_path, text) == ["m.yaml:3: conv.a.t: must be at least 0, got -1"]


def test_problem_in_a_field_that_overrides_a_merged_one_names_its_own_line(tmp_path: Path) -> None:
    text = HEAD + "conv:\n  a: &a {prompt: x, t: 1}\n  b: {<<: *a, t: -1}\n"
    assert problems(tmp_path, text) == ["m.yaml:5: conv.b.t: must be at least 0, got -1"]


@pytest.mark.parametrize("text", ["2020-01-01", "1:30", "010"])
def test_dates_and_odd_numbers_are_text(tmp_path: Path, text: str) -> None:
    found = read(tmp_path, BASE.replace("prompt: x", f"prompt: {text}"))
    assert found.manifest.conv["a"].prompt == text


@pytest.mark.parametrize("number", ["1e-4", "1E-4", "1.e-4", "+.1e-3", "0.0001"])
def test_numbers_are_read_as_in_yaml_1_2(tmp_path: Path, number: str) -> None:
    assert read(tmp_path, f"{BASE}train: {{lr: {number}}}\n").manifest.train.lr == 1e-4


@pytest.mark.parametrize("text", ["no", "yes", "3", "1e-4", "[a]", ""])
def test_unquoted_prompt_that_is_no_text_says_to_quote(tmp_path: Path, text: str) -> None:
    (found,) = problems(tmp_path, BASE.replace("prompt: x", f"prompt: {text}"))
    assert found.startswith("m.yaml:4: conv.a.prompt: expected text, got ")
    assert found.endswith("(quote it if it is meant as text)")


@pytest.mark.parametrize("text", [
    COMBO % "lora: {source: tiny/moderate, scale: .nan}",
    COMBO % "controlnet: {source: tiny, scale: .inf}",
    BASE + "train: {lr: .inf}\n",
])
def test_numbers_must_be_finite(tmp_path: Path, text: str) -> None:
    assert "finite" in problems(tmp_path, text)[0]


def test_lora_is_one_mapping_or_a_list(tmp_path: Path) -> None:
    one = read(tmp_path, COMBO % "lora: {source: tiny/moderate}").manifest
    many = read(tmp_path, COMBO % "lora: [{source: tiny/moderate}]").manifest
    assert one == many and one.conv["a"].lora[0].scale == 1


def test_python_tags_are_refused_and_run_nothing(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    tag = f"!!python/object/apply:os.remove ['{tmp_path / 'kept'}']"
    (found,) = problems(tmp_path, f"{BASE}x-a: {tag}\n")
    assert found.startswith("m.yaml:5: not valid YAML") and (tmp_path / "kept").exists()


@pytest.mark.parametrize("text", ["x-a: &a [*a]\n", "x-a: &a {b: *a}\n", "x-a: &a {<<: *a}\n"])
def test_anchors_that_refer_to_themselves_are_refused(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, BASE + text) == ["m.yaml:5: refers to itself"]


@pytest.mark.parametrize("node", ["[{}]", "{{<<: [{}]}}"], ids=["lists", "merges"])
def test_alias_bombs_are_refused_before_they_expand(tmp_path: Path, node: str) -> None:
    bomb = "x-0: &x0 {k: 1}\n" + "".join(
        f"x-{i}: &x{i} {node.format(', '.join([f'*x{i - 1}'] * 9))}\n" for i in range(1, 40))
    assert problems(tmp_path, bomb) == [f"m.yaml: more than {MAX_NODES} nodes after aliases"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "just text\n", "3\n", "null\n"])
def test_document_must_be_a_mapping(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text) == ["m.yaml: expected a mapping with dataset, model, conv …"]


@pytest.mark.parametrize(("text", "expected"), [
    ("a: [1\n", "m.yaml:2: not valid YAML: "),
    ("a:\n\t- b\n", "m.yaml:2: not valid YAML: "),
    ("a: 1\n---\nb: 2\n", "m.yaml:2: not valid YAML: "),
    ("a: *nowhere\n", "m.yaml:1: not valid YAML: "),
    ("? [a]\n: 1\n", "m.yaml:1: not valid YAML: "),
    ("a: \0\n", "m.yaml: not valid YAML: "),
    ("a: !!timestamp 2020-13-45\n", "m.yaml: not valid YAML: month must be in 1..12"),
    (b"a: \xff\n", "m.yaml: not UTF-8 text"),
    ("#" * (MAX_BYTES + 1), f"m.yaml: larger than {MAX_BYTES} bytes; is it a manifest?"),
])
def test_broken_files_are_one_line(tmp_path: Path, text: str | bytes, expected: str) -> None:
    (found,) = problems(tmp_path, text)
    assert expected in found and "\n" not in found


def test_missing_file_lists_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "near.yaml").touch()
    with pytest.raises(ManifestError, match=r"gone\.yaml: no such manifest; there are: near\.yaml"):
        load(tmp_path / "gone.yaml")


def test_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is a folder, expected a YAML file"):
        load(tmp_path)


def test_top_level_keys_that_begin_with_x_are_ignored(tmp_path: Path) -> None:
    assert read(tmp_path, BASE + "x-notes: {any: [thing]}\n").manifest \
        == read(tmp_path, BASE).manifest


def test_overrides_replace_fields_of_train_and_no_others(tmp_path: Path) -> None:
    train = read(tmp_path, BASE + "train: {lr: 0.1, seed: 7}\n", lr=0.2, head="conv").manifest.train
    assert (train.lr, train.seed, train.head.name) == (0.2, 7, "conv")


def test_overrides_are_checked_like_the_file(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, BASE, head="cnn")
    assert "train.head: unknown head 'cnn'" in found
    assert "known: classifier, conv, conv-released, knn" in found
    assert "(did you mean 'nn'?)" in found


def test_manifest_error_is_the_users_to_mend() -> None:
    error = ManifestError(["one", "two"])
    assert (error.exit_code, str(error)) == (2, "one\ntwo") and isinstance(error, ValueError)


LEAVING = [("/abs", "is absolute"), ("~/x", "is absolute"), ("C:\\x", "is absolute"),
           ("../x", "climbs out with '..'"), ("a/../../x", "climbs out with '..'"),
           ("a\\..\\x", "climbs out with '..'")]


@pytest.mark.parametrize(("path", "reason"), LEAVING)
def test_paths_stay_below_their_root(path: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"^dataset.root: .*{reason}.*--allow-outside"):
        Roots().below("data", path, "dataset.root")


@pytest.mark.parametrize(("path", "reason"), LEAVING)
def test_store_path_stays_below_its_root(tmp_path: Path, path: str, reason: str) -> None:
    work = Workspace(read(tmp_path, f"{BASE}store: {{path: '{path}'}}\n"), Roots())
    with pytest.raises(UserError, match=f"^store.path: .*{reason}.*--allow-outside"):
        _ = work.store_path


@pytest.mark.parametrize("path", ["/abs", "../x"])
def test_paths_may_leave_their_root_when_allowed(path: str) -> None:
    assert Roots(data=Path("root"), outside=True).below("data", path, "") == Path("root") / path


def test_store_path_may_leave_its_root_when_allowed(tmp_path: Path) -> None:
    loaded = read(tmp_path, f"{BASE}store: {{path: {tmp_path / 'x.zarr'}}}\n")
    assert Workspace(loaded, Roots(outside=True)).store_path == tmp_path / "x.zarr"


def test_roots_come_from_option_then_environment_then_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA", "MODELS", "STORES", "RUNS"):
        monkeypatch.delenv(f"GATE_CACHE_{name}", raising=False)
    monkeypatch.setenv("GATE_CACHE_DATA", "from-env")
    monkeypatch.setenv("GATE_CACHE_MODELS", "from-env")
    roots = Roots.resolve(data=Path("given"))
    assert (roots.data, roots.models, roots.stores) == (Path("given"), Path("from-env"),
                                                        Path("stores"))


def test_store_is_called_after_the_manifest_unless_named(tmp_path: Path) -> None:
    assert read(tmp_path, BASE).store_path == "m.zarr"
    assert read(tmp_path, BASE + "store: {path: deep/x.zarr}\n").store_path == "deep/x.zarr"


PIECES = [*"abx01.:-_eE+?[]{}&*!|>'\"#%@`\n\t ,=~<\\\0\x85\ufeff\ud800", "<<", ": ", "- ", "*a",
          "&a ", "\n  ", "? ", "<<: ", "---\n", "...\n", "0x", "0b", "1:", "2020-01-01", ".inf",
          "%YAML 1.1\n", "!!binary ", "!!set ", "!!omap ", "!!pairs ", "!!merge ", "!!null "]


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=15).map("".join)))
@settings(max_examples=400, deadline=None, database=None)
def test_any_text_is_parsed_or_refused_by_a_manifest_error(text: str) -> None:
    try:
        parse_yaml(text, "m.yaml")
    except ManifestError as error:
        assert all(line.startswith("m.yaml") for line in error.problems)


@pytest.mark.parametrize("text", ["!!int ''", "!!float ''", "!!bool x", "!!timestamp x",
                                  "[" * 1500 + "]" * 1500],
                         ids=lambda text: text[:12])
def test_hostile_text_is_refused_by_a_manifest_error(text: str) -> None:
    with pytest.raises(ManifestError):
        parse_yaml(text, "m.yaml")


@pytest.mark.parametrize(("given", "validate"), [
    ({"steps": 60}, 15), ({"steps": 3}, 1), ({"steps": 500}, 125), ({"steps": 5_000}, 125),
    ({"pairs": 10}, 1), ({"pairs": 12}, 1),
    ({"steps": 60, "validate_steps": 60}, 60), ({"head": "pixel-mlp", "steps": 1_000}, 250)])
def test_short_trainings_validate_four_times(given: dict[str, Any], validate: int) -> None:
    assert TrainSpec.model_validate(given).validate_steps == validate


@pytest.mark.parametrize(("given", "steps", "validate"), [
    ({}, 100, 25), ({"head": "nn"}, 100, 25), ({"head": "conv"}, 100, 25),
    ({"head": "pixel-mlp"}, 2_000, 500), ({"head": "pixel-mlp", "steps": 7}, 7, 2),
    ({"head": {"name": "linear", "pool": 1}}, 200, 50),
])
def test_another_head_has_its_own_number_of_steps(given: dict[str, Any], steps: int,
                                                  validate: int) -> None:
    """100 steps of 4 pairs are few pixels; a head without a default takes the manifest's."""
    toyworld = Path(__file__).parents[1] / "manifests" / "toyworld.yaml"
    train = load(toyworld, given).manifest.train
    assert (train.steps, train.validate_steps) == (steps, validate)
