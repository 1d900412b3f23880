"""`gate-cache show`: a page for each image, its maps in rows; or one for each pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gate_cache.analysis.show import ImageMaps, ShownImages, show
from gate_cache.core.errors import UserError
from gate_cache.report.figures.pictures import (
    Picture,
    PictureCell,
    PictureRow,
    fitted,
    heat,
    save,
    sheet,
)
from gate_cache.store.places.disk import disk_errors
from gate_cache.training.run_files import trial_file

if TYPE_CHECKING:
    from gate_cache.analysis.activations import Activations, Level
    from gate_cache.core.places import Place
    from gate_cache.workspace.workspace import Workspace


def draw(source: ShownImages, images: Sequence[str], combos: Sequence[str], tokens: Sequence[str],
         out: Path | None) -> Iterator[Path]:
    """Write one PNG file for each image; yields their paths.

    By default a few images, all combos and the first few words of the prompt are shown, beside the
    store; a `UserError` where there is no such image, combo or word, or the folder
    cannot be written.
    """
    one = out if len(images) == 1 else need_folder(out) if out else None
    taken: Counter[str] = Counter()
    for sample in show(source, images, combos, tokens):
        name = _numbered(file_name(sample.id), taken)
        yield written(page(sample), one or beside(source.store.path), name)


def _numbered(name: str, taken: Counter[str]) -> str:
    """A picture's name, with a number where another one has it: of x.jpg beside x.png."""
    taken[name] += 1
    return f"{name}-{taken[name]}" if taken[name] > 1 else name


def written(picture: Picture, out: Path, name: str) -> Path:
    """Write a PNG file into the folder of ``--out``, or to the file that it names, if it can be."""
    if len(name.encode()) > 200:  # of 255 bytes that file systems take
        name = trial_file(name)
    path = out if is_file_name(out) else out / f"{name}.png"
    try:
        with disk_errors(path.parent, "--out", "and run the same command again"):
            return save(picture, path)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{out}: a file is in the way; give --out another name") from None


def is_file_name(out: Path) -> bool:
    """Whether ``--out`` names a PNG file, not a folder; pictures of other kinds are refused."""
    if out.suffix.lower() in (".jpg", ".jpeg", ".svg", ".pdf", ".webp"):
        raise UserError(f"--out {out}: pictures are PNG files; give x.png, or a folder")
    return out.suffix.lower() == ".png" and not out.is_dir()


def need_folder(out: Path) -> Path:
    """The folder of several pictures; a `UserError` where it names a file."""
    if is_file_name(out):
        raise UserError(f"--out {out}: is a file, but there may be several pictures; give a folder")
    return out


def file_name(sample_id: str) -> str:
    """A sample's id as a file's name, without a suffix and what cannot be printed."""
    name = sample_id.replace("/", "_").rsplit(".", 1)[0]
    return "".join(letter if letter.isprintable() else "_" for letter in name)


def page(sample: ImageMaps) -> Picture:
    """The image, then each combo's maps coarse to fine, then attention by word."""
    rows = []
    if sample.image is not None:
        h, w = sample.image.shape[:2]
        rows.append(PictureRow("image", [_photograph(sample.image, f"{w} x {h} pixels")]))
    titles = {combo: f"{combo}  {about}".rstrip() for combo, about in sample.about.items()}
    for combo, maps in sample.conv.items():
        rows.append(PictureRow(titles.get(combo, combo), [
            PictureCell(m, f"{n}  {m.shape[1]} x {m.shape[0]}") for n, m in maps.items()]))
    for combo, words in sample.attention.items():
        if words:
            rows.append(PictureRow(titles.get(combo, combo), [PictureCell(heat(v), word)
                                                              for word, v in words]))
    if not rows:
        raise UserError(f"'{sample.id}': nothing to draw: its combos have attention maps alone, and"
                        " no word; name combos with --combo")
    return sheet(rows, sample.id).done()


def beside(store: Place) -> Path:
    """Where a store's pictures are put by default."""
    home = store.parent if isinstance(store, Path) else Path.cwd()
    return home / f"{store.name.removesuffix('.zarr')}-pictures"


STAGES = {"down, mid": ("down", "mid"), "up": ("up",)}
"""Rows between what goes in and what comes out, with what the names of their levels begin with."""


def draw_activations(work: Workspace, images: Sequence[str], combos: Sequence[str],
                     out: Path | None) -> Iterator[Path]:
    """Write one PNG file for each image and combo; yields their paths.

    By default the first image and the first combo are drawn, beside the store; a `UserError` where
    there is no such image or combo, or the folder cannot be written.
    """
    from gate_cache.analysis.activations import activations  # runs a model, so it loads torch

    folder, taken = need_folder(out or beside(work.store_path)), Counter[str]()
    for trace in activations(work, images, combos):
        name = f"{file_name(trace.id)}-{trace.combo}-activations"
        yield written(pass_page(trace), folder, _numbered(name, taken))


def pass_page(trace: Activations) -> Picture:
    """Along the pass: what goes in, down and mid, up, and what comes out."""
    t = f"t = {trace.t}"
    rows = [PictureRow("input", [_photograph(trace.image, "image"),
                                 _photograph(trace.noised, f"noised, {t}, decoded"),
                                 _level("noised latent", trace.latents)])]
    for title, starts in STAGES.items():
        rows.append(PictureRow(title, [_level(n, level) for n, level in trace.levels.items()
                                       if n.startswith(starts)]))
    rows.append(PictureRow("output", [_level("predicted noise", trace.noise),
                                      _photograph(trace.clean, "denoised at once, decoded")]))
    return sheet(rows, f"{trace.id}, {trace.combo}: one pass; maps as the colours of their first"
                       " three components").done()


def _level(name: str, level: Level) -> PictureCell:
    return PictureCell(level.colours, f"{name}  {' x '.join(map(str, level.shape))}")


def _photograph(picture: Picture, caption: str) -> PictureCell:
    return PictureCell(fitted(picture, smooth=max(picture.shape) > 200), caption)
