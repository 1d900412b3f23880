"""Looking at stores, checking and repairing them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gate_cache.commands.options import HERE, Computes, Json, Reads, print_result, refuse
from gate_cache.core.errors import Interrupted, UserError

if TYPE_CHECKING:
    from gate_cache.core.places import Place

Combos = Annotated[str, typer.Option(help="Combos to copy, as in a,b [all, and the latents].")]
Maps = Annotated[str, typer.Option(help="Maps to copy, as in up1,up2 [all of each combo].")]
Images = Annotated[str, typer.Option(
    help="So many of the first images, or a file with an id a line [all].")]


def inspect(store: Annotated[str, typer.Argument(help="The store: a .zarr folder, or a URL.")],
            as_json: Json = False) -> None:
    """Show what a store holds: tree, shapes, bytes, combos with settings, what is missing."""
    from gate_cache.report.terminal.store_tables import show_store
    from gate_cache.store.check.inspect import inspect as stage

    print_result(stage(store), show_store, as_json)


def show(target: Annotated[str, typer.Argument(
             help="A store, or a manifest (whose data set's pictures are shown too).")],
         image: Annotated[list[str] | None, typer.Option(
             help="An image's id, or a part of it; may be repeated [a few].")] = None,
         combo: Annotated[list[str] | None, typer.Option(
             help="A combo; may be repeated [all].")] = None,
         token: Annotated[list[str] | None, typer.Option(
             help="A word whose attention is shown; may be repeated [the first few].")] = None,
         activations: Annotated[bool, typer.Option(
             "--activations", help="With a manifest: run its model and show every level's output"
             " along one pass.")] = False,
         out: Annotated[Path | None, typer.Option(
             help="Folder for the PNG files [<store>-pictures beside the store].")] = None,
         on: Computes = HERE) -> None:
    """Draw feature maps: PCA as colours, attention by word; one PNG file per image."""
    from gate_cache.analysis.show import open_shown
    from gate_cache.core.places import parse_place
    from gate_cache.report.figures.show import draw
    from gate_cache.report.terminal.console import console_progress

    if activations:
        from gate_cache.report.figures.show import draw_activations

        refuse(token, "--token is for attention maps, which --activations does not show")
        work = on.open(_manifest_of(target))
        for path in draw_activations(work, image or [], combo or [], out):
            typer.echo(str(path))
        return
    source = open_shown(parse_place(target), on.roots, console_progress())
    for path in draw(source, image or [], combo or [], token or [], out):
        typer.echo(str(path))


def _manifest_of(target: str) -> Path:
    """The manifest that running a model needs."""
    from gate_cache.core.places import is_manifest, parse_place

    place = parse_place(target)
    if not is_manifest(place):
        raise UserError(f"{target}: --activations runs the model, so it needs the manifest:"
                        " gate-cache show MANIFEST --activations")
    return place


def verify(target: Annotated[str, typer.Argument(help="A store, or a manifest for its store.")],
           repair: Annotated[bool, typer.Option(
               "--repair", help="Repair what can be; damaged blocks are marked undone.")] = False,
           recompute: Annotated[int, typer.Option(
               min=0, help="With a manifest: extract this many rows again and compare them; read"
               " nothing else.")] = 0,
           seed: Annotated[int, typer.Option(min=0, help="Random seed of their choice.")] = 0,
           tolerance: Annotated[float | None, typer.Option(
               min=0, help="Of --recompute, as a share of a map's largest value [0 with the same"
               " device and software].")] = None,
           threads: Annotated[int | None, typer.Option(
               min=1, help="Threads that read [one per core, at most 8].")] = None,
           on: Computes = HERE, as_json: Json = False) -> None:
    """Check a store against its checksums. Exit code 1 if anything is damaged or differs."""
    from gate_cache.core.places import is_manifest, parse_place
    from gate_cache.report.terminal.console import console_progress
    from gate_cache.report.terminal.store_tables import show_recomputed, show_verified
    from gate_cache.store.check.verify import verify as stage
    from gate_cache.workspace.workspace import store_at

    place = parse_place(target)
    if recompute:
        from gate_cache.extraction.recompute import recompute as compare

        if repair or not is_manifest(place):
            raise UserError("--recompute needs the manifest, and excludes --repair:"
                            " gate-cache verify MANIFEST --recompute 8")
        again = compare(on.open(place), recompute, seed=seed, tolerance=tolerance)
        print_result(again, show_recomputed, as_json, equal=again.equal, agrees=again.agrees)
        if not again.agrees:
            raise typer.Exit(1)
        return
    verdict = stage(store_at(place, on.roots), repair=repair, threads=threads,
                    progress=console_progress())
    print_result(verdict, show_verified, as_json, sound=verdict.sound)
    if not verdict.sound:
        raise typer.Exit(1)


def diff(a: Annotated[str, typer.Argument(help="A manifest or a store.")],
         b: Annotated[str, typer.Argument(help="Another one.")],
         values: Annotated[bool, typer.Option(
             "--values", help="With two stores: read and compare all maps.")] = False,
         on: Reads = HERE, as_json: Json = False) -> None:
    """Show what differs between manifests and stores. Exit code 1 if anything does."""
    from gate_cache.core.places import parse_place
    from gate_cache.extraction.diff import diff as stage
    from gate_cache.report.terminal.store_tables import show_diff

    differences = stage(parse_place(a), parse_place(b), on.roots, values)
    print_result(differences, show_diff, as_json, same=differences.same)
    if not differences.same:
        raise typer.Exit(1)


def prune(targets: Annotated[list[str], typer.Argument(
              help="Manifests whose combos to keep; stores, to clear what was cut off.")],
          yes: Annotated[bool, typer.Option("--yes", help="Remove it.")] = False,
          on: Reads = HERE, as_json: Json = False) -> None:
    """Show what no given manifest names in a store; with --yes, remove it."""
    from gate_cache.core.places import parse_place
    from gate_cache.extraction.prune import prune as stage
    from gate_cache.report.terminal.store_tables import show_pruned

    pruned = stage([parse_place(t) for t in targets], on.roots, yes=yes)
    print_result({"stores": pruned}, lambda _: show_pruned(pruned), as_json)


def push(store: Annotated[str, typer.Argument(help="The store.")],
         url: Annotated[str, typer.Argument(
             help="s3://bucket/prefix (gs://, az://), or hf://datasets/owner/name.")],
         combos: Combos = "", maps: Maps = "", images: Images = "", as_json: Json = False) -> None:
    """Copy a store to a bucket or the Hugging Face Hub, with a page that says what it holds.

    What is there with the same rows is passed over. A new data set of the Hub is private.
    """
    from gate_cache.core.places import Url, parse_place
    from gate_cache.extraction.sharing.card import write_card

    target = parse_place(url)
    if not isinstance(target, Url):
        raise UserError(f"{url}: is not a URL; to copy to a folder: gate-cache pull {store} {url}")
    _copy(parse_place(store), target, (combos, maps, images), as_json)
    write_card(target)


def pull(url: Annotated[str, typer.Argument(help="The store: a URL, or a folder.")],
         store: Annotated[Path, typer.Argument(help="The folder to copy it to.")],
         combos: Combos = "", maps: Maps = "", images: Images = "", as_json: Json = False) -> None:
    """Copy a store, or a part of it, to a folder. What is there with the same rows stays."""
    from gate_cache.core.places import parse_place

    _copy(parse_place(url), store, (combos, maps, images), as_json)


def _copy(source: Place, target: Place, asked: tuple[str, str, str], as_json: bool) -> None:
    from gate_cache.extraction.sharing.copy import Selection, copy_store
    from gate_cache.report.terminal.console import console_progress
    from gate_cache.report.terminal.store_tables import show_copied

    combos, maps, images = asked
    selection = Selection(_listed(combos), _listed(maps), _images(images))
    try:
        copied = copy_store(source, target, selection, console_progress())
    except KeyboardInterrupt:
        typer.echo("error: interrupted; what is copied is kept, run the same command again to"
                   " resume", err=True)
        os._exit(Interrupted.exit_code)  # threads may be waiting for a server
    print_result(copied, show_copied, as_json)


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _images(text: str) -> int | list[str] | None:
    """A count, or the ids in a file."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    if not text:
        return None
    try:
        ids = [line.strip() for line in Path(text).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        raise UserError(f"--images {text}: neither a number of images nor a file with an id a"
                        " line") from None
    if not any(ids):
        raise UserError(f"--images {text}: names no image")
    return [name for name in ids if name]
