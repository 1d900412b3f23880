"""Reports: what they tell, and how they look to a real browser."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import browser, page  # noqa: F401
from playwright.sync_api import Browser, Page
from test_cli import Run, gate  # noqa: F401
from test_sweep import swept
from test_tasks import home, one_thread, trained  # noqa: F401
from test_train import manifest, root, run  # noqa: F401

from gate_cache.core.errors import DataError, UserError
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.learn.metrics.intervals import gain
from gate_cache.learn.metrics.items import Items, extremes
from gate_cache.learn.metrics.pck import SELECTED, metric_name, share
from gate_cache.learn.metrics.roles import Method, Role
from gate_cache.report.html.charts import Curve, Labels, curves
from gate_cache.report.html.compare import verdict
from gate_cache.report.html.examples import varied
from gate_cache.report.html.page import (
    Column,
    Html,
    PageRow,
    bullets,
    code,
    document,
    facts,
    figure,
    fold,
    heading,
    join,
    paragraph,
    section,
    table,
)
from gate_cache.report.html.record import Record, Result, number, read_record
from gate_cache.report.html.results import lead
from gate_cache.report.html.svg import SERIES
from gate_cache.report.html.write import sections, try_report, write_report
from gate_cache.training.reproduce import sweep_commands, train_commands
from gate_cache.training.run_files import items_file
from gate_cache.training.run_folder import RunDirectory
from gate_cache.workspace.workspace import Workspace

SHORT: dict[str, Any] = {"steps": 6, "batch": 2, "validate_steps": 2}
EVIL = "<script>window.hacked = 1</script>"
GRID = {"grid": {"gamma1": [0.0, 0.5], "gamma2": [0.0, 0.25], "seed": [0, 1]}}
NAMED = {"trials": [{"name": "plain"}, {"name": EVIL, "gamma1": 0.3},
                    {"name": "hopeless & <b>lost</b>", "lr": 1e30}]}
KINDS = ("nn", "sweep", "named", "upernet", "classifier")


@dataclass(frozen=True)
class Made:
    """A report, and where its run and its roots are."""

    folder: Path
    roots: Roots

    @property
    def url(self) -> str:
        return (self.folder / "report.html").resolve().as_uri()

    @property
    def html(self) -> str:
        return (self.folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(root: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:  # noqa: F811
    """A report of every kind."""
    to = tmp_path_factory.mktemp("reports")
    learn, wired = (Roots(stores=f / "stores", runs=to) for f in (root, home))
    for name in ("upernet", "classifier"):
        (to / name).mkdir()
    found = {
        "nn": Made(run(root, to / "nn", **SHORT, attention="attn").run, learn),
        "sweep": Made(swept(root, to / "sweep", GRID, **SHORT).folder, learn),
        "named": Made(swept(root, to / "named", NAMED, **SHORT).folder, learn),
        **{name: Made(trained(home, to / name, name).run, wired)
           for name in ("upernet", "classifier")}}
    for each in found.values():
        write_report(each.folder, each.roots)
    return found


def opened(page: Page, report: Made, **viewport: int) -> Page:  # noqa: F811
    if viewport:
        page.set_viewport_size(viewport)  # type: ignore[arg-type]
    page.goto(report.url)
    return page


def column(page: Page, caption: str, number: int) -> list[str]:  # noqa: F811
    rows = page.locator("table", has=page.get_by_text(caption)).locator("tbody tr")
    return [row.locator("th, td").nth(number).inner_text() for row in rows.all()]


def repeated(page: Page) -> list[str]:  # noqa: F811
    """Ids that are there more than once."""
    ids = page.eval_on_selector_all("[id]", "found => found.map(e => e.id)")
    return [i for i, n in Counter(ids).items() if n > 1]


# ---------------------------------------------------------------------------------- the browser


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_opens_alone_and_is_well_formed(kind: str, made: dict[str, Made],
                                                 page: Page) -> None:  # noqa: F811
    """`page` fails on what the console says and on requests to elsewhere."""
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    opened(page, made[kind])
    assert [u for u in asked if not u.startswith("data:")] == [made[kind].url]
    assert page.locator("h1").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.evaluate("document.characterSet") == "UTF-8"
    headings = page.locator("h2").all_inner_texts()
    assert {"Results", "Examples", "Training", "Weights", "Settings", "Reproduce"} <= {
        *headings}
    assert page.locator("nav a").all_inner_texts() == headings
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href") or "none").count() == 1
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("table").count() == page.locator("table > caption").count() > 3
    assert page.locator("img:not([alt]), svg:not([aria-label]):not([aria-hidden])").count() == 0
    assert repeated(page) == []
    assert len(made[kind].html.encode()) < 3e6


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_hangs_over_on_a_telephone(kind: str, made: dict[str, Made],
                                           page: Page) -> None:  # noqa: F811
    opened(page, made[kind], width=360, height=740)
    page.eval_on_selector_all("details", "found => found.forEach(e => e.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    wide = page.locator("table").evaluate_all("found => found.filter(e => e.scrollWidth > 360"
                                              " && !e.closest('.scroll')).length")
    assert wide == 0


def brightness(page: Page, selector: str, what: str) -> float:  # noqa: F811
    colour = page.locator(selector).first.evaluate(f"e => getComputedStyle(e)['{what}']")
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


def test_dark_where_that_is_wanted_and_never_on_paper(made: dict[str, Made],
                                                      page: Page) -> None:  # noqa: F811
    letters, ground = ("figure svg[role=img] text", "fill"), ("body", "background-color")
    opened(page, made["sweep"])
    assert brightness(page, *ground) > 240 > 100 > brightness(page, *letters)
    page.emulate_media(color_scheme="dark")
    assert brightness(page, *ground) < 40 < 200 < brightness(page, *letters)
    page.emulate_media(media="print", color_scheme="dark")
    assert brightness(page, *ground) > 240 > 100 > brightness(page, *letters)
    assert not page.locator("nav").is_visible()


@pytest.mark.parametrize("kind", ["nn", "sweep"])
def test_paper_cuts_no_table(kind: str, made: dict[str, Made], page: Page) -> None:  # noqa: F811
    opened(page, made[kind], width=703, height=1000)  # A4 less its margins
    page.emulate_media(media="print")
    widths = page.locator("table").evaluate_all("f => f.map(e => e.getBoundingClientRect().right)")
    assert max(widths) <= 703
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_a_click_sorts(made: dict[str, Made], page: Page) -> None:  # noqa: F811
    opened(page, made["sweep"])
    caption = "Every trial; percent"
    before = column(page, caption, 0)
    grid = page.locator("table", has=page.get_by_text(caption))
    for way, order in (("descending", True), ("ascending", False)):
        grid.get_by_role("button", name="gamma1").click()
        assert grid.locator("th[aria-sort]").get_attribute("aria-sort") == way
        found = [float(v) for v in column(page, caption, 1)]
        assert found == sorted(found, reverse=order) and len(set(found)) == 2
    assert sorted(column(page, caption, 0)) == sorted(before)


def test_failed_trials_are_sorted_last(made: dict[str, Made], page: Page) -> None:  # noqa: F811
    opened(page, made["named"])
    caption = "Every trial; percent"
    grid = page.locator("table", has=page.get_by_text(caption))
    for _ in range(2):
        grid.get_by_role("button", name=re.compile("PCK@0.10.*box, by point")).click()
        assert column(page, caption, 0)[-1] == "hopeless & <b>lost</b>"


def test_all_is_there_without_scripts(made: dict[str, Made],
                                      browser: Browser) -> None:  # noqa: F811
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(made["sweep"].url)
        assert page.get_by_text("gamma1=0.5,gamma2=0.25,seed=1").first.is_visible()
        assert page.locator("button").count() == 0


def test_names_are_text(made: dict[str, Made], page: Page) -> None:  # noqa: F811
    opened(page, made["named"])
    assert page.evaluate("window.hacked") is None
    assert EVIL in column(page, "Every trial; percent", 0)
    assert page.locator("b", has_text="lost").count() == 0
    assert page.get_by_text("hopeless & <b>lost</b>: the loss is not finite").is_visible()


def test_the_grid_is_a_heat_map_with_its_numbers(made: dict[str, Made],
                                                 page: Page) -> None:  # noqa: F811
    opened(page, made["sweep"])
    means = {m["name"]: m["test"][SELECTED][0] for m in json.loads(
        (made["sweep"].folder / "results.json").read_text())["means"] if m["trained"]}
    shown = page.locator("section", has=page.get_by_role("heading", name="Grid"))
    texts = " ".join(shown.locator("svg text").all_text_contents())
    assert "γ1 (sparsity)" in texts
    assert len(means) == 4 and all(number(v) in texts for v in means.values())


# ------------------------------------------------------------------------------- what it tells


def plain(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html.partition("<body>")[2]))


def test_the_verdict_compares_on_the_same_pairs(made: dict[str, Made]) -> None:
    record = read_record(made["nn"].folder)
    found = verdict(record)
    assert found and found.gate.first.name == "GATE: 2 assigners + attention"
    assert found.baselines["baseline"].name == "single feature: noise-0"
    assert found.baselines["uniform"].name == "the same + attention"
    ours = found.gate.results[0].test[SELECTED]
    for role, over in found.gains.items():
        theirs = found.baselines[role].results[0].test[SELECTED]
        assert over.points == pytest.approx(ours - theirs)
        assert over.interval.low <= over.points <= over.interval.high
    told = plain(made["nn"].html)
    assert f"GATE reaches {number(ours)}" in told and "over the single feature (noise-0" in told
    low, high = json.loads((made["nn"].folder / "metrics.json").read_text())[
        "tables"][0]["rows"][-1]["interval"][SELECTED]
    assert f"interval {number(low)} to {number(high)}" in told


def result(name: str, test: float, val: float | None = None, role: Role = "gate") -> Result:
    return Result(Path("nowhere"), name, Method(role, "nn", ("x",)), role == "gate",
                  {SELECTED: test}, name, name.partition(",")[0],
                  {} if val is None else {SELECTED: val}, spec={"head": "nn"})


def record_of(results: Sequence[Result]) -> Record:
    return Record(Path("nowhere"), "sweep", {}, "nn", SELECTED, "", results, [], 1.0)


def test_val_chooses_and_not_test() -> None:
    found = verdict(record_of([
        result("a=1,seed=0", 90, 10), result("a=1,seed=1", 80, 20),
        result("a=2,seed=0", 50, 16), result("single", 40, role="baseline")]))
    assert found and found.chosen and found.gate.name == "a=2"
    assert found.gate.mean() == 50 and math.isnan(found.gate.spread())


def test_without_a_val_split_nothing_is_chosen() -> None:
    found = verdict(record_of([result("a=1", 50), result("a=2", 90)]))
    assert found and not found.chosen and found.gate.name == "a=1"
    record = record_of([result("a=1", 50), result("a=2", 90)])
    assert "that comes first, since there is no val split" in lead(record, verdict(record))
    failed = replace(result("a=1", 0), failed="diverged", test={})
    assert verdict(record_of([failed])) is None


def test_commands_versions_and_fingerprints_are_told(made: dict[str, Made]) -> None:
    for kind in KINDS:
        config = json.loads((made[kind].folder / (
            "sweep.json" if kind in ("sweep", "named") else "config.json")).read_text())
        told = plain(made[kind].html)
        for word in [*config["fingerprints"].values(), config["versions"]["torch"],
                     config["samples"]["checksum"], *config["commands"]]:
            assert word in told


def test_examples_say_what_the_metrics_say(made: dict[str, Made]) -> None:
    record = read_record(made["nn"].folder)
    items = record.results[-1].items
    assert items is not None
    told = plain(made["nn"].html)
    right = {f"GATE {h} of {n}" for h, n in items.units}
    shown = re.findall(r"GATE \d+ of \d+", told)
    assert len(shown) >= 4 and set(shown) <= right
    best = items.scores.max()
    assert any(int(a) / int(b) * 100 == pytest.approx(best) for a, b in
               (re.findall(r"\d+", s) for s in shown))


def test_confusions_add_up(made: dict[str, Made]) -> None:
    gate_row = read_record(made["classifier"].folder).results[-1]
    assert gate_row.items is not None
    right = (gate_row.items.more["true"] == gate_row.items.more["predicted"]).mean()
    assert 100 * right == pytest.approx(gate_row.test["accuracy"])
    assert "Most confidently wrong" in made["classifier"].html
    assert "data:image/png" in made["classifier"].html


def test_kept_masks_are_what_the_model_says(made: dict[str, Made]) -> None:
    items = read_record(made["upernet"].folder).results[-1].items
    assert items is not None and len(items.masks) == 8  # all of this small test split
    for sample_id, mask in items.masks.items():
        unit = items.units[[str(i) for i in items.ids[:, 0]].index(sample_id)]
        assert (np.bincount(mask.ravel(), minlength=unit.shape[1]) == unit[2]).all()


def test_a_report_without_the_images_says_so(made: dict[str, Made], tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> None:
        raise DataError("pf-willow: no folder data/x")

    monkeypatch.setattr("gate_cache.report.html.examples.dataset_near", gone)
    folder = Path(shutil.copytree(made["nn"].folder, tmp_path / "run"))
    told = plain(write_report(folder, made["nn"].roots).read_text())
    assert "images are not here: pf-willow: no folder data/x" in told


def test_a_folder_without_items_has_a_report_too(made: dict[str, Made], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made["nn"].folder, tmp_path / "run"))
    shutil.rmtree(folder / "items")
    told = plain(write_report(folder, made["nn"].roots).read_text())
    assert "GATE reaches" in told and "made by an earlier version" in told


# ------------------------------------------------------------------------------- when it cannot


@pytest.mark.parametrize(("files", "said"), [
    ({}, "is not a run's folder"),
    ({"config.json": "{}"}, "is not finished; run the same command again with --out"),
    ({"sweep.json": "{}"}, "is not finished; run the same command again to resume"),
    ({"config.json": "{}", "metrics.json": "[]"}, "cannot be read"),
    ({"config.json": "{}", "metrics.json": '{"tables": []}'}, "cannot be read"),
    ({"sweep.json": "{", "results.json": "{}"}, "cannot be read"),
])
def test_other_folders_are_refused_in_one_line(files: dict[str, str], said: str, tmp_path: Path,
                                               gate: Run) -> None:  # noqa: F811
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    found = gate("report", tmp_path)
    assert found.code == 2 and said in found.err and len(found.err.splitlines()) == 1
    assert not (tmp_path / "report.html").exists()


@pytest.mark.long
def test_a_report_needs_no_torch(made: dict[str, Made]) -> None:
    code = ("import sys\nfrom pathlib import Path\nfrom gate_cache.core.roots import Roots\n"
            "from gate_cache.report.html.write import write_report\n"
            f"write_report(Path({str(made['sweep'].folder)!r}), Roots())\n"
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_writes_it_anew(made: dict[str, Made], gate: Run) -> None:  # noqa: F811
    before = made["sweep"].html
    (made["sweep"].folder / "report.html").unlink()
    found = gate("report", made["sweep"].folder)
    assert found.code == 0 and found.out.strip().endswith("report.html")
    assert made["sweep"].html == before


def test_train_and_sweep_write_one(root: Path, tmp_path: Path,  # noqa: F811
                                   gate: Run) -> None:  # noqa: F811
    path = manifest(tmp_path, **SHORT).path
    (tmp_path / "trials.yaml").write_text("grid: {seed: [0, 1]}  # of a test\n")
    places = ("--stores", root / "stores", "--device", "cpu")
    found = gate("train", path, "--gamma1", 0.7, "--out", tmp_path / "one", *places)
    assert found.code == 0 and f"report: {tmp_path / 'one' / 'report.html'}" in found.out.replace(
        "\n", "")
    told = plain((tmp_path / "one" / "report.html").read_text())
    assert "gate-cache train toy.yaml --gamma1 0.7" in told
    assert gate("sweep", path, tmp_path / "trials.yaml", "--out", tmp_path / "two",
                *places).code == 0
    told = plain((tmp_path / "two" / "report.html").read_text())
    assert "gate-cache sweep toy.yaml trials.yaml" in told and "# of a test" in told


def test_a_report_that_fails_fails_no_training(root: Path, tmp_path: Path,  # noqa: F811
                                               gate: Run,  # noqa: F811
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no\nink")

    monkeypatch.setattr("gate_cache.report.html.write.read_record", broken)
    found = gate("train", manifest(tmp_path, **SHORT).path, "--stores", root / "stores",
                 "--out", tmp_path / "run", "--device", "cpu")
    assert found.code == 0 and "PCK" in found.out
    (warning,) = [line for line in found.err.splitlines() if "warning" in line]
    assert "RuntimeError: no ink" in warning and "gate-cache report" in warning


def test_a_folder_that_cannot_be_written_is_a_warning(made: dict[str, Made],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    said: list[str] = []
    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(Silent, "say", lambda _, line: said.append(line))
    assert try_report(made["nn"].folder, made["nn"].roots, Silent()) is None
    assert len(said) == 1 and said[0].startswith("warning: no report was written")


# ----------------------------------------------------------------------------- building blocks


def test_only_markup_is_markup() -> None:
    evil = '"><script>alert(1)</script>'
    assert paragraph(Html("<b>x</b>"), 1.5, None, "a & b") == "<p><b>x</b>1.5a &amp; b</p>"
    for made in (paragraph(evil), figure(evil, evil), fold(evil, evil), facts({evil: evil}),
                 code(evil), heading(evil), bullets([evil]), join([evil], "<wbr>")):
        assert "<script" not in made and "alert(1)" in made
    listing = table([Column(evil, note=evil)], [PageRow([evil])], evil)
    made = document(evil, [section(evil, evil, listing)], lead=evil, about=evil)
    assert "<script>alert" not in made and made.count("alert(1)") > 8


def test_sections_of_one_title_have_links_of_their_own() -> None:
    page = document("x", [section("Grid", "a"), section("Grid", "b"), section("γ", "c")])  # noqa: F811
    assert [f'id="{i}"' in page for i in ("grid", "grid-2", "section")] == [True] * 3


def test_runs_share_a_page_without_sharing_ids(made: dict[str, Made], page: Page,  # noqa: F811
                                               tmp_path: Path) -> None:
    record = read_record(made["nn"].folder)
    parts = sections(record, verdict(record), made["nn"].roots)
    (tmp_path / "all.html").write_text(document("Twice", [*parts, *parts]), encoding="utf-8")
    page.goto((tmp_path / "all.html").as_uri())
    assert page.locator("h2").count() == 2 * len(parts) and repeated(page) == []
    for use in page.locator("use").all():
        assert page.locator(str(use.get_attribute("href"))).count() == 1


def test_labels_of_an_axis_keep_their_digits() -> None:
    drawn = str(curves(Labels("loss", "loss", "Loss", "steps"),
                       [Curve("gate", [1.0, 2.0], [0.4401, 0.4712], SERIES[0])]))
    ticks = re.findall(r">(0\.\d+)<", drawn)
    assert len(ticks) == len(set(ticks)) > 3 and "0.445" in ticks
    assert not re.search(r' (?:d|points)="[^"]*\d\.\d{3}', drawn)  # places stay short


def test_metrics_and_numbers_for_people() -> None:
    assert metric_name(SELECTED) == "PCK@0.10 (box, by point)"
    assert metric_name("mIoU") == "mIoU"
    assert number(-1.25) == "−1.2" and number(None) == number(math.nan) == ""


# --------------------------------------------------------------------------------- item by item


def test_a_gain_is_over_the_same_items() -> None:
    rng = np.random.default_rng(0)
    a = np.stack([rng.integers(0, 8, 50), np.full(50, 8)], 1)
    b = np.stack([np.maximum(a[:, 0] - 1, 0), a[:, 1]], 1)
    assert gain([a], [a], share) == (0, (0, 0))
    points, (low, high) = gain([a], [b], share)
    assert points == pytest.approx(share(a.sum(0)) - share(b.sum(0)))
    assert 0 < low < points < high < 12.5
    assert gain([a, b], [b], share)[0] == pytest.approx(points / 2)  # seeds are averaged


def test_items_come_back_and_nothing_else_is_read(tmp_path: Path) -> None:
    given = Items(np.array([["a"], ["b"]]), np.array([1.0, np.nan]), np.ones((2, 2), int),
                  {"confidence": np.array([0.5, 1])}, {"b": np.eye(3, dtype=np.uint8)})
    path = items_file(tmp_path, "GATE: 2 / x")
    given.save(path)
    found = Items.load(path)
    assert found.ids.tolist() == [["a"], ["b"]] and list(found.masks) == ["b"]
    assert (found.masks["b"] == np.eye(3)).all() and found.more["confidence"][0] == 0.5
    np.savez(path, ids=np.array([{}], object), scores=1, units=1, masked=1)
    with pytest.raises(ValueError, match="pickle"):
        Items.load(path)
    np.savez(path, ids=np.zeros(1))
    with pytest.raises(ValueError, match="has no 'scores'"):
        Items.load(path)


def test_extremes_share_no_item() -> None:
    assert extremes([3.0, math.nan, 1.0, 2.0], 2) == ([2, 3], [0])
    assert extremes([math.nan], 2) == ([], []) and extremes([5.0], 3) == ([0], [])


def test_varied_examples_repeat_only_when_they_must() -> None:
    keys = [{"cat"}, {"cat"}, {"dog"}, {"cow"}]
    assert varied([0, 1, 2, 3], keys.__getitem__, 3) == [0, 2, 3]
    assert varied([0, 1], keys.__getitem__, 3) == [0, 1]


# ------------------------------------------------------------------------------------ commands


def test_commands_hold_what_was_given_and_no_place_of_this_machine(tmp_path: Path) -> None:
    loaded = manifest(tmp_path, **SHORT)
    spec = loaded.manifest.train.model_copy(update={"gamma1": 0.3, "seed": 4})
    changed = loaded.model_copy(update={
        "manifest": loaded.manifest.model_copy(update={"train": spec})})
    roots = Roots(Path("/secret/data"), Path("my models"), Path("stores"))
    extract, train = train_commands(Workspace(changed, roots, "cuda:1"))
    assert extract == "gate-cache extract toy.yaml --data DATA --models 'my models'"
    assert train == ("gate-cache train toy.yaml --gamma1 0.3 --seed 4 --data DATA --models"
                     " 'my models' --device cuda:1")
    assert sweep_commands(Workspace(loaded, Roots()), Path("sweeps/a b.yaml"))[1] == (
        "gate-cache sweep toy.yaml 'sweeps/a b.yaml'")


def test_other_versions_and_another_call_are_the_same_run(tmp_path: Path) -> None:
    config = {"seed": 1, "versions": {"zarr": "3"}, "commands": ["a"], "began": "today"}
    begun = RunDirectory(tmp_path / "run")
    with begun.begin(config), begun.begin({**config, "versions": {}, "commands": [], "began": ""}):
        pass
    with pytest.raises(UserError, match=r"other settings \(seed changed: 1 → 2\)"), \
            begun.begin({**config, "seed": 2}):
        pass
