"""The command line of recipes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from gate_cache.core.errors import GateCacheError
from gate_cache.core.places import parse_place
from gate_cache.core.roots import Roots
from pipelines.recipe import SEEDS, Options, Recipe
from pipelines.run import run


def parser(about: str) -> argparse.ArgumentParser:
    """Options of every recipe."""
    found = argparse.ArgumentParser(description=about,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--data", type=Path, help="the paper's data sets; without: toyworld, tiny")
    found.add_argument("--model", help="model.source instead of the manifest's")
    found.add_argument("--manifest", type=Path, help="another one, with combos of the same names")
    found.add_argument("--dtype", help="float32 without a GPU")
    found.add_argument("--models", type=Path, default=Path("models"))
    found.add_argument("--stores", type=parse_place, default=Path("stores"))
    found.add_argument("--runs", type=Path, default=Path("runs"))
    found.add_argument("--seeds", type=int, default=SEEDS)
    found.add_argument("--device")
    return found


def options_of(args: argparse.Namespace) -> Options:
    """From the command line."""
    roots = Roots(args.data or Path("data"), args.models, args.stores, args.runs)
    return Options(roots, args.data is not None and args.manifest is None, args.manifest,
                   args.model, args.dtype, args.seeds, args.device, getattr(args, "part", None))


def main(recipe: Recipe) -> None:
    """One recipe from the command line."""
    about = f"{recipe.title}\n\n{recipe.about}"
    given = parser(about)
    if len(recipe.parts) > 1:
        given.add_argument("--part", choices=[p.title for p in recipe.parts],
                           help="the only table to make")
    sys.exit(guarded(lambda: run(recipe, options_of(given.parse_args()))))


def guarded(work: Callable[[], object]) -> int:
    """Do it; errors are a line."""
    try:
        work()
    except GateCacheError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130
    return 0
