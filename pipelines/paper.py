"""All recipes, one after the other or side by side, and one report of them.

    python -m pipelines.paper [--jobs 2] [--only table7 figure12] [options of every recipe]

Recipes share stores: each extracts only what none before it has. Finished trainings are not done
again. Leaves <runs>/paper/report.html and results.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path

from gate_cache.core.errors import GateCacheError, UserError
from pipelines.command_line import guarded, options_of, parser
from pipelines.page import write_page
from pipelines.recipe import Options, Outcome, Recipe, markdown, reused
from pipelines.run import run

RECIPES = ("table1_left", "table1_right", "table2", "table3", "table4", "table5", "table6",
           "table7", "figure3", "figure8", "figure11", "figure12")
LONG_FIRST = ("table1_left", "figure11", "table6", "table5", "table4", "figure12")
"""Started first, so that side by side none is left alone at the end."""


def recipe_of(name: str) -> Recipe:
    """A recipe by its file's name."""
    found: Recipe = importlib.import_module(f"pipelines.{name}").RECIPE
    return found


def run_all(names: list[str], options: Options, jobs: int) -> dict[str, list[Outcome]]:
    """Every recipe's outcomes; what they print goes to <runs>/paper/<recipe>.log."""
    folder = options.roots.runs / "paper"
    folder.mkdir(parents=True, exist_ok=True)
    if jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by the processes that are started
    order = sorted(names, key=lambda n: LONG_FIRST.index(n) if n in LONG_FIRST else len(names))
    found: dict[str, list[Outcome]] = {}
    began = time.monotonic()
    with _stopped_with_us(ProcessPoolExecutor(jobs, get_context("spawn"))) as pool:
        waiting = {pool.submit(logged, name, options, folder / f"{name}.log"): name
                   for name in order}
        for done in as_completed(waiting):
            name = waiting[done]
            outcomes, failed = done.result()
            if failed:
                raise UserError(failed)
            found[name] = outcomes
            head = f"[{len(found)}/{len(names)}, {clock(time.monotonic() - began)}]"
            print(f"{head} {told(name, outcomes)}", flush=True)
    return {name: found[name] for name in names}


@contextlib.contextmanager
def _stopped_with_us(pool: ProcessPoolExecutor) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes end at the first error or interrupt; checkpoints are kept."""
    try:
        yield pool
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in active_children():
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise UserError("a recipe's process was ended from outside (out of memory?); the same"
                            " command goes on, with --jobs 1 perhaps") from None
        raise
    pool.shutdown()


def logged(name: str, options: Options, log: Path) -> tuple[list[Outcome], str]:
    """One recipe, in a process of its own; errors as text, which every process can read."""
    with log.open("w", encoding="utf-8", buffering=1) as file, _into(file):
        try:
            return run(recipe_of(name), options), ""
        except GateCacheError as error:
            return [], f"{name}: {error}"


@contextlib.contextmanager
def _into(file: object) -> Iterator[None]:
    with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):  # type: ignore[type-var]
        yield


def told(name: str, outcomes: list[Outcome]) -> str:
    """A recipe's title and tables."""
    parts = [f"{recipe_of(name).title}"]
    parts += [f"{reused(o.extracted)}; {clock(o.seconds)} of processor time\n\n{markdown(o)}\n"
              for o in outcomes]
    return "\n".join(parts)


def clock(seconds: float) -> str:
    """``12:03``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def results(found: dict[str, list[Outcome]]) -> str:
    """All tables as Markdown."""
    lines = []
    for name, outcomes in found.items():
        recipe = recipe_of(name)
        lines += [f"## {recipe.title}", "", recipe.about, ""]
        for outcome in outcomes:
            lines += [markdown(outcome), ""]
    return "\n".join(lines)


def main(args: argparse.Namespace) -> None:
    """Run, print, write."""
    options = options_of(args)
    began = time.monotonic()
    found = run_all(args.only or list(RECIPES), options, args.jobs)
    folder = options.roots.runs / "paper"
    (folder / "results.md").write_text(results(found), encoding="utf-8")
    page = write_page(folder / "report.html",
                      [(recipe_of(name), outcomes) for name, outcomes in found.items()])
    work = sum(o.seconds for outcomes in found.values() for o in outcomes)
    print(f"{len(found)} recipes in {clock(time.monotonic() - began)}, {clock(work)} of processor"
          f" time; report: {page}")


if __name__ == "__main__":
    given = parser(__doc__ or "")
    given.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1),
                       help="recipes side by side; 1 on a GPU")
    given.add_argument("--only", nargs="+", choices=RECIPES, metavar="RECIPE")
    sys.exit(guarded(lambda: main(given.parse_args())))
