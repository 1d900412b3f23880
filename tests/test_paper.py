"""Recipes of the paper's results: sound for toyworld and for the paper's data; run on a few."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import yaml
from browser import browser, page  # noqa: F401
from playwright.sync_api import Page

from gate_cache.core.roots import Roots
from gate_cache.learn.metrics.intervals import Interval
from gate_cache.learn.metrics.roles import Method
from gate_cache.manifest.sweep_file import load_sweep
from gate_cache.report.html.compare import Gain, Group
from gate_cache.report.html.record import read_record
from gate_cache.training.features import extra_of
from gate_cache.training.sweep_tables import Mean
from pipelines.page import write_page
from pipelines.paper import RECIPES, logged, recipe_of, results
from pipelines.recipe import (
    MANIFESTS,
    TOY,
    Figures,
    Options,
    Outcome,
    Part,
    Recipe,
    Source,
    figures_of,
    markdown,
    reused,
    sentence,
    verdict,
)
from pipelines.run import run, write_manifest, write_sweep

PARTS = [pytest.param(name, i, real, id=f"{name}-{i}-{'real' if real else 'toy'}")
         for name in RECIPES for i, part in enumerate(recipe_of(name).parts)
         for real in (False, True) if (part.real if real else part.toy)]


def source_of(name: str, number: int, real: bool) -> tuple[Part, Source]:
    part = recipe_of(name).parts[number]
    source = part.real if real else part.toy
    assert source is not None
    return part, source


@pytest.mark.parametrize(("name", "number", "real"), PARTS)
def test_every_part_is_a_sound_manifest_and_sweep(name: str, number: int, real: bool,
                                                  tmp_path: Path, roots: Roots) -> None:
    part, source = source_of(name, number, real)
    options = Options(roots, real)
    fold = source.folds[-1] if source.folds else None
    loaded = write_manifest(source, tmp_path / "manifest.yaml", options, fold)
    points = load_sweep(write_sweep(source, tmp_path / "sweep.yaml", 2), loaded)
    manifest = loaded.manifest
    asked = {c for p in points for c in p.spec.combos or ()} | {points[0].spec.baseline}
    assert set(manifest.conv) == asked | set(extra_of(points[0].spec))
    assert len(points) == 2 * len({p.name.rpartition(",seed=")[0] for p in points})
    assert manifest.store.path and (manifest.model.source == "tiny") != real
    if fold is not None:
        assert manifest.dataset.fold == fold  # type: ignore[union-attr]
    rows = [mean(p.configuration, Method("gate", p.spec.head)) for p in points] + \
        [mean("any", Method("baseline", p.spec.head)) for p in points]
    named = [figures_of({name: {"x": name}}, row) for name in part.paper for row in rows]
    if real:  # every figure of the paper stands beside some row
        assert sum(map(bool, named)) >= len(part.paper)
        assert {h for f in part.paper.values() for h in f} <= set(part.columns.values())


def mean(name: str, method: Method) -> Mean:
    return Mean(name, 3, 0, True, {}, method, {})


def test_a_figure_stands_beside_a_trial_or_a_role() -> None:
    """Whatever a baseline's row is called."""
    paper: Figures = {"basic": {"mIoU": "1"}, "basic, prompt": {"mIoU": "2"},
                      ("baseline", "conv"): {"mIoU": "3"}}
    gate, base = Method("gate", "conv"), Method("baseline", "conv")
    assert figures_of(paper, mean("basic, prompt", gate)) == {"mIoU": "2"}
    assert figures_of(paper, mean("basic", gate)) == {"mIoU": "1"}
    assert figures_of(paper, mean("another", gate)) == {}
    assert figures_of(paper, mean("basic", base)) == {"mIoU": "3"}
    assert figures_of(paper, mean("basic", replace(base, head="nn"))) == {}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Options:
    """Toyworld with a few pictures; its combos have the names of the real manifest's."""
    home = tmp_path_factory.mktemp("paper")
    data: dict[str, Any] = yaml.safe_load((MANIFESTS / TOY).read_text())
    data["dataset"] |= {"train": 16, "val": 8, "test": 16}
    (home / "small.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    roots = Roots(*(home / name for name in ("data", "models", "stores", "runs")))
    return Options(roots, manifest=home / "small.yaml", seeds=2, device="cpu")


def shorter(recipe: Recipe, **fields: Any) -> Recipe:
    """With less to train."""
    def cut(part: Part) -> Part:
        assert part.toy
        trials = [{k: v for k, v in t.items() if k not in ("steps", "validate_steps")}
                  for t in part.toy.trials]
        few = {k: v for k, v in part.toy.dataset.items() if k not in ("train", "val", "test")}
        return replace(part, toy=replace(part.toy, trials=trials, dataset=few,
                                         train={**part.toy.train, **fields}))

    return replace(recipe, parts=[cut(p) for p in recipe.parts if p.toy])


@pytest.fixture(scope="module")
def grid(small: Options) -> list[Outcome]:
    return run(shorter(recipe_of("figure11"), steps=2, validate_steps=2, hidden=4), small)


@pytest.fixture(scope="module")
def statistics(small: Options, grid: list[Outcome]) -> list[Outcome]:
    return run(shorter(recipe_of("figure12"), steps=2, validate_steps=2, hidden=4), small)


@pytest.mark.long
def test_a_recipe_has_every_row_with_every_seed(grid: list[Outcome]) -> None:
    (found,) = grid
    trained = [m for m in found.means if m.trained]
    assert len(trained) == 9 and {m.seeds for m in trained} == {2}
    text = markdown(found)
    assert "| GATE, gamma1=0.05, gamma2=0.2 (n = 2) |" in text and "(paper)" not in text
    assert "PCK@0.1 bbox" in text and "| copy the position |" in text


@pytest.mark.long
def test_gains_are_over_baselines_on_the_same_pairs(grid: list[Outcome]) -> None:
    (found,) = grid
    none = "GATE,gamma1=0.0,gamma2=0.0"
    heads = [f"over {name} (95 %)" for name in ("single", "uniform", none.replace(",", ", "))]
    assert f"| {' | '.join(heads)} |" in markdown(found)
    assert found.select == read_record(found.folders[0]).select
    last = {k: m.test[found.select][0] for m in found.means  # uniform: with attention
            for k in (m.method.role, m.name)}
    for mean, gains in zip(found.means, found.gains, strict=True):
        assert set(gains) == ({"baseline", "uniform", none} - {mean.name} if mean.trained
                              else set())
        for over, gain in gains.items():
            assert gain.images == 16
            assert gain.points == pytest.approx(mean.test[found.select][0] - last[over])
            assert gain.interval.low <= gain.points <= gain.interval.high


@pytest.mark.long
def test_the_sentence_is_about_the_rows_in_full_alone(grid: list[Outcome]) -> None:
    said = sentence(grid[0])
    assert said.startswith("PCK@0.1 bbox: GATE, gamma1=0.05, gamma2=0.05 is ")
    assert said.count("the single feature") == said.count("uniform weights") == 1
    assert "gamma2=0.2" not in said and markdown(grid[0]).startswith(f"**{said}**\n\n|")
    assert sentence(replace(grid[0], gains=[])) == ""


@pytest.mark.parametrize(("points", "interval", "said"), [
    (1.0, (0.7, 1.3), "above X (+1.0, 0.7 to 1.3)"),
    (-1.3, (-2.6, -0.1), "below X (-1.3, -2.6 to -0.1)"),
    (0.1, (-0.1, 0.3), "equal to X within a point (+0.1, -0.1 to 0.3)"),
    # Half as wide again as its points are from 0: 400 × (1.8 / 1.2)² pictures leave out 0.
    (1.2, (-0.6, 3.0), "not distinguished from X (+1.2, -0.6 to 3.0), which about 900 test"
                       " pictures would decide"),
    # Nearer to 0 than to a point: 400 × (1.6 / 0.8)² pictures stay within it.
    (-0.2, (-1.8, 1.4), "not distinguished from X (-0.2, -1.8 to 1.4), which about 1,600 test"
                        " pictures would decide"),
])
def test_a_verdict_is_decided_equal_or_says_what_would_decide(
    points: float, interval: tuple[float, float], said: str,
) -> None:
    ids = np.array([[f"{i}"] for i in range(400)])
    base = cast(Group, SimpleNamespace(results=[SimpleNamespace(items=SimpleNamespace(ids=ids))]))
    assert verdict("X", Gain(base, points, Interval(*interval))) == said


@pytest.mark.long
def test_the_next_recipe_extracts_only_what_is_new(grid: list[Outcome],
                                                   statistics: list[Outcome]) -> None:
    assert "extracted plain-0, prompt-0" in reused(grid[0].extracted)
    assert "extracted nothing; plain-0, prompt-0" in reused(statistics[0].extracted)
    assert not any(statistics[0].extracted.rows.values())


@pytest.mark.long
def test_statistics_of_the_weights_are_columns(statistics: list[Outcome]) -> None:
    for mean in statistics[0].means:
        if mean.trained:
            largest, second = (mean.test[f"weights/top{k}"][0] for k in (1, 2))
            assert 100 / 6 <= largest <= 100 and second <= largest
            overlaps = [mean.test[m][0] for m in mean.test if m.startswith("weights/overlap")]
            assert sum(overlaps) + mean.test["weights/none"][0] == pytest.approx(100)


@pytest.mark.long
def test_a_finished_recipe_is_not_trained_again(small: Options, grid: list[Outcome],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gate_cache.learn.fit.trial.Trial.step",
                        lambda *_: pytest.fail("trained again"))
    (again,) = run(shorter(recipe_of("figure11"), steps=2, validate_steps=2, hidden=4), small)
    assert markdown(again) == markdown(grid[0])


@pytest.mark.long
def test_the_report_shows_tables_and_charts(grid: list[Outcome], statistics: list[Outcome],
                                            tmp_path: Path, page: Page) -> None:  # noqa: F811
    found = [(recipe_of("figure11"), grid), (recipe_of("figure12"), statistics)]
    path = write_page(tmp_path / "report.html", found)
    page.goto(path.as_uri())
    assert page.locator("h1").count() == 1 and page.locator("h2").count() == 2
    assert page.locator("table").count() == 2 and page.locator("figure svg").count() == 3
    assert "GATE, gamma1=0.05, gamma2=0.2" in page.inner_text("main")
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.long
def test_figures_of_the_paper_stand_beside_ours(grid: list[Outcome]) -> None:
    paper: Figures = {f"GATE,gamma1=0.2,gamma2={g}": {"PCK@0.1 img": "64.47"}
                      for g in (0.0, 0.05, 0.2)}
    real = replace(grid[0], paper=True, part=replace(grid[0].part, paper=paper))
    lines = markdown(real).splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("|"))  # below a sentence
    assert "PCK@0.1 img (paper)" in lines[head]
    assert ["64.47" in line for line in lines[head + 2:]] == [
        "gamma1=0.2" in line for line in lines[head + 2:]]


@pytest.mark.long
def test_what_went_wrong_is_one_line(small: Options, tmp_path: Path) -> None:
    found, said = logged("table7", replace(small, manifest=tmp_path / "none.yaml"),
                         tmp_path / "log")
    assert found == [] and said.startswith("table7: ") and "none.yaml" in said
    assert "\n" not in said


@pytest.mark.long
def test_one_part_alone(small: Options) -> None:
    from gate_cache.core.errors import UserError

    recipe = shorter(recipe_of("figure3"), steps=2, validate_steps=2, hidden=4)
    (found,) = run(recipe, replace(small, part="classification", seeds=1))
    assert found.part.title == "classification" and "accuracy" in markdown(found)
    with pytest.raises(UserError, match="no part 'nothing', but segmentation, classification"):
        run(recipe, replace(small, part="nothing"))


def test_other_options_have_folders_of_their_own(roots: Roots) -> None:
    assert Options(roots).words == []
    assert Options(roots, True, seeds=5).words == ["real", "5-seeds"]
    assert Options(roots, manifest=Path("a/my.yaml"), model="org/sdxl").words == ["my", "sdxl"]


@pytest.mark.long
def test_results_are_one_page_of_markdown(grid: list[Outcome]) -> None:
    text = results({"figure11": grid})
    assert text.startswith("## Figure 11") and markdown(grid[0]) in text


@pytest.mark.long
def test_a_failed_trial_stops_the_recipe(small: Options) -> None:
    from gate_cache.core.errors import UserError

    broken = shorter(recipe_of("figure12"), steps=2, validate_steps=2, hidden=4, lr=1e30)
    with pytest.raises(UserError, match="diverged"):
        run(replace(broken, name="broken"), small)


