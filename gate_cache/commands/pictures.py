"""Pictures of what features are good for: matches, masks, content shift."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gate_cache.commands.options import (
    HERE,
    Computes,
    Json,
    Last,
    ManifestPath,
    RunPath,
    Trial,
    print_result,
    refuse,
)
from gate_cache.core.errors import UserError
from gate_cache.core.places import is_manifest
from gate_cache.diffusion.models.embedded import PHOTOS

Out = Annotated[Path | None, typer.Option(
    help="Folder for the PNG files [<store>-pictures beside the store].")]


def match(images: Annotated[list[str], typer.Argument(
              metavar="[MANIFEST] SOURCE TARGET", help="Two images of a manifest, by id or a part"
              " of it; or two image files, and nothing else is needed.")],
          at: Annotated[list[str] | None, typer.Option(
              help="A pixel of the source to look for, as X,Y; may be repeated [key points that are"
              " known, else a grid].")] = None,
          combo: Annotated[str | None, typer.Option(
              help="The combo that describes points [train.baseline, else the first].")] = None,
          run: Annotated[Path | None, typer.Option(
              help="A run, or a sweep's folder, whose trained feature describes points.")] = None,
          trial: Trial = None, last: Last = False,
          grid: Annotated[int | None, typer.Option(
              min=1, max=40, help="Match a grid of this many points per side.")] = None,
          model: Annotated[str | None, typer.Option(
              help=f"Model for two files: a hub id, a folder or a file [{PHOTOS}].")] = None,
          prompt: Annotated[str | None, typer.Option(help="For two files [a photo].")] = None,
          out: Annotated[Path | None, typer.Option(
              help="A PNG file, or its folder [<store>-pictures; here for two files].")] = None,
          on: Computes = HERE, as_json: Json = False) -> None:
    """Find one image's points in another; a PNG file with right and wrong matches."""
    from gate_cache.analysis.describe import of_combo, of_run
    from gate_cache.analysis.match import match_images
    from gate_cache.extraction.extract import extract
    from gate_cache.report.figures.match import draw_match, show_match
    from gate_cache.report.figures.show import beside, is_file_name
    from gate_cache.report.terminal.console import console_progress
    from gate_cache.workspace.own_images import Features, passing

    refuse(run and combo, "--combo and --run: a run brings its own combos; give one of the two")
    refuse((trial or last) and not run, "--trial and --last say which weights of --run RUN")
    refuse(at and grid, "--at and --grid: give one of the two")
    points = [_point(text) for text in at or []] or None
    if out:
        is_file_name(out)  # refused before anything is extracted
    own = is_manifest(Path(images[0]))
    if len(images) == 2 and not own:
        refuse(run or combo, "--combo and --run are for two images of a manifest")
        features = Features(model or PHOTOS, {"plain": prompt or "a photo"})
        # into a store of its own that is removed again
        with passing(images, features, on.roots, on.device, console_progress()) as (work, ids):
            extract(work)
            matches = match_images(work, of_combo(work), (ids[0], ids[1]), grid, points)
        folder = Path()
    elif len(images) == 3 and own:
        refuse(model or prompt,
               "--model and --prompt are for two image files; a manifest has its own")
        work = on.open(Path(images[0]))
        describer = of_run(work, run, trial=trial, last=last) if run else of_combo(work, combo)
        matches = match_images(work, describer, (images[1], images[2]), grid, points)
        folder = beside(work.store_path)
    else:
        raise UserError("match takes a manifest and two of its images, or two image files:"
                        " gate-cache match a.jpg b.jpg --at 120,80")
    path = draw_match(matches, out or folder)
    print_result(matches, show_match, as_json, picture=path)


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--at {text}: expected X,Y in pixels, such as --at 120,80") from None
    return x, y


def predict(run: RunPath,
            manifest: Annotated[Path, typer.Option("--manifest", help="Whose images to show.")],
            image: Annotated[list[str] | None, typer.Option(
                help="An image's id, or a part of it; may be repeated [a few of test].")] = None,
            trial: Trial = None, last: Last = False,
            out: Annotated[Path | None, typer.Option(
                help="Folder for the PNG files [pictures/ in the run].")] = None,
            on: Computes = HERE) -> None:
    """Draw masks that a trained upernet or pixel-mlp predicts, with the truth and uncertainty."""
    from gate_cache.report.figures.predict import draw_predictions
    from gate_cache.training.predict import predict as stage

    predictions = stage(on.open(manifest), run, images=image or [], trial=trial, last=last)
    for path in draw_predictions(predictions, out or run / "pictures"):
        typer.echo(str(path))


Combos = Annotated[list[str] | None, typer.Option(
    "--combo", help="A combo; may be repeated [all of conv].")]
Chosen = Annotated[list[str] | None, typer.Option(
    "--image", help="An image's id, or a part of it; may be repeated [drawn at random].")]
Prompt = Annotated[str | None, typer.Option(
    help="Prompt of the reference, which uses no technique [a photo].")]
Batch = Annotated[int | None, typer.Option(min=1, help="Images per pass [the manifest's].")]


def score(manifest: ManifestPath, combo: Combos = None, image: Chosen = None,
          images: Annotated[int, typer.Option(min=1, help="Images drawn at random.")] = 32,
          anchor_t: Annotated[int, typer.Option(
              min=1, max=999, help="Timestep of the anchor, which has shifted a lot.")] = 500,
          own: Annotated[bool, typer.Option(
              "--own-reference", help="Compare each combo with itself at t = 0, not with the"
              " feature without techniques.")] = False,
          prompt: Prompt = None, batch: Batch = None, out: Out = None, on: Computes = HERE,
          as_json: Json = False) -> None:
    """Measure content shift of each combo: a table and a plot (Equations 1, 2). Stores nothing."""
    from gate_cache.analysis.score import Selection, score_combos
    from gate_cache.report.figures.content_shift import draw_scores, show_scores
    from gate_cache.report.figures.show import beside

    work = on.open(manifest)
    scores = score_combos(work, Selection(combo or [], image or [], images, prompt, batch),
                          anchor_t=anchor_t, own=own)
    path = draw_scores(scores, out or beside(work.store_path))
    print_result(scores, show_scores, as_json, picture=path)


def guideline(manifest: ManifestPath, combo: Combos = None, image: Chosen = None,
              images: Annotated[int, typer.Option(min=1, help="Images drawn at random.")] = 4,
              strength: Annotated[float, typer.Option(
                  min=0.01, max=1.0, help="Fraction of the timesteps that are denoised.")] = 0.7,
              steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 20,
              seeds: Annotated[int, typer.Option(min=1, help="Results per image.")] = 3,
              prompt: Prompt = None, batch: Batch = None, out: Out = None,
              on: Computes = HERE, as_json: Json = False) -> None:
    """Apply GATE's guideline before extracting: Img2Img with and without each technique."""
    from gate_cache.analysis.guideline import Img2Img
    from gate_cache.analysis.guideline import guideline as stage
    from gate_cache.analysis.score import Selection
    from gate_cache.report.figures.content_shift import draw_guideline, show_guideline
    from gate_cache.report.figures.show import beside

    work = on.open(manifest)
    results = stage(work, Img2Img(strength, steps, seeds),
                    Selection(combo or [], image or [], images, prompt, batch))
    path = draw_guideline(results, out or beside(work.store_path))
    print_result(results, show_guideline, as_json, picture=path)
