"""From a manifest to recipes: all that decides each combo's values, by digest. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import DataError, ModelError, NotThere, UserError
from gate_cache.core.features import CELLS
from gate_cache.core.fingerprint import Recipe, file_sha256, fingerprint
from gate_cache.core.size import SHAPE
from gate_cache.datasets.common.base import PREPROCESSING
from gate_cache.diffusion.models.encoders import normalisation
from gate_cache.diffusion.models.fitting import check_parts
from gate_cache.diffusion.models.layouts import FLUX, FLUX_SCHNELL
from gate_cache.diffusion.techniques.base import Technique, Use
from gate_cache.diffusion.techniques.registry import settings, techniques
from gate_cache.manifest.specs import TF32
from gate_cache.manifest.suits import check_combos, check_encoder_combos

if TYPE_CHECKING:
    from gate_cache.core.features import MapSpec
    from gate_cache.core.preprocessing import Preprocessing
    from gate_cache.core.roots import Roots
    from gate_cache.core.size import Size
    from gate_cache.diffusion.models.sources import ModelFiles
    from gate_cache.manifest.specs import Combo, Manifest


@dataclass(frozen=True)
class PlannedCombo:
    """One combo of a manifest, resolved against a model.

    Attributes
    ----------
    shapes : map name to (C, h, w)
    recipe : all that decides the values
    techniques : those it uses, with what tells them from others
    """

    name: str
    combo: Combo
    specs: tuple[MapSpec, ...]
    shapes: dict[str, tuple[int, ...]]
    recipe: Recipe
    techniques: dict[Use, Technique[Any]]

    def at(self, shape: Size) -> PlannedCombo:
        """Of images whose input has this one of several shapes."""
        shapes = ComboMaps(self.combo, self.specs, self.shapes).at(shape)
        return replace(self, shapes=shapes, recipe={**self.recipe, SHAPE: list(shape)})


@dataclass(frozen=True)
class ComboMaps:
    """The maps a combo yields: their specifications, and name to (C, h, w); and how it is run."""

    combo: Combo
    specs: tuple[MapSpec, ...]
    shapes: dict[str, tuple[int, ...]]

    def at(self, shape: Size) -> dict[str, tuple[int, ...]]:
        """`shapes`, for an input of this one."""
        return {s.name: s.shape(shape, self.shapes[s.name][0]) for s in self.specs}


def combo_maps(manifest: Manifest, files: ModelFiles,
               count_tokens: Callable[[str], int]) -> dict[str, ComboMaps]:
    """Combo name to its maps, for all combos of a manifest.

    Parameters
    ----------
    manifest : whose combos they are
    files : the model's
    count_tokens : a prompt to how many tokens its text has

    Raises
    ------
    ManifestError
        Combos that do not suit the model.
    ModelError
        A map the model lacks, or one of the whole image where that is cut into tiles.
    """
    layout, how = files.family, files.preprocessing(manifest.model)
    noised, maps = files.kind.noised, {}
    if noised:
        check_combos(manifest, layout, files.schedule(), _of_text, files.sure)
    else:
        check_encoder_combos(manifest)
    for name, combo in manifest.combos.items():
        if how.tiles:
            _need_cells(layout.select(manifest.kind(name), combo.maps))
        specs = layout.select(manifest.kind(name), combo.maps, combo.pooling)
        tokens = count_tokens(combo.prompt)
        run = combo if noised else combo.model_copy(update={"noise": "none", "t": 0})
        for shape in how.shapes:
            _need_alike(specs, shape)
        maps[name] = ComboMaps(run, specs, {s.name: s.shape(how.size, tokens) for s in specs})
    return maps


def _need_cells(specs: Iterable[MapSpec]) -> None:
    """Refuse maps that tiles cannot be put together to."""
    for spec in specs:
        if spec.channels == CELLS or spec.grid:
            raise ModelError(f"maps: {spec.name}: is of a whole image, and model.tiles cuts it into"
                             " pieces; name other maps, or leave tiles out")


def _need_alike(specs: Iterable[MapSpec], shape: Size) -> None:
    """Refuse maps that inputs of this shape have not, or have with other channels."""
    for spec in specs:
        spec.shape(shape, 1)
        if spec.channels == CELLS:
            raise ModelError(f"maps: {spec.name}: has a channel for each cell, and with model.fit:"
                             " keep images have different numbers of them; name other maps")


def latents_recipe(files: ModelFiles, preprocessing: Preprocessing, dtype: str) -> Recipe:
    """All that decides the latents: the VAE, the input's size and how it is made.

    Of several shapes, one is to be added (`SHAPE`).
    """
    alone = dtype.removesuffix(TF32)
    return {"kind": "latents", **_coder(files), "size": preprocessing.size.sides,
            "resize": preprocessing.fit, "preprocessing": PREPROCESSING,
            "compute": files.latents_dtype(alone) + dtype[len(alone):], **preprocessing.recipe}


def _coder(files: ModelFiles) -> Recipe:
    """What makes latents of pixels; without a VAE they are the pixels themselves."""
    if not files.kind.noised:
        return {"pixels": normalisation(files.path)}
    if not files.kind.vae:
        return {"pixels": [-1, 1]}
    config = files.config("vae")
    scaling = config.get("scaling_factor", 1.0 if "z_dim" in config else 0.18215)
    more = {k: config[k] for k in ("shift_factor", "latents_mean", "latents_std") if config.get(k)}
    return {"vae": files.weights["vae"], "scaling_factor": scaling, **more}


def plan_combos(manifest: Manifest, files: ModelFiles, roots: Roots) -> list[PlannedCombo]:
    """Resolve every combo of a manifest: its maps, shapes and recipe.

    Raises
    ------
    ModelError
        A map the model lacks, or a missing ControlNet or LoRA, or parts that do not fit together.
    """
    check_fit(manifest, files, roots)
    model, preprocessing = manifest.model, files.preprocessing(manifest.model)
    captions = _captions_digest(manifest, roots)
    latents = fingerprint(latents_recipe(files, preprocessing, model.compute))
    plans = []
    for name, maps in combo_maps(manifest, files, files.tokens.count).items():
        combo = maps.combo
        used = [(t, t.digests(roots)) for t in techniques(name, combo)]
        recipe: Recipe = {
            "kind": manifest.kind(name),
            "settings": settings(combo, files.kind.noised),
            "maps": list(maps.shapes),
            "size": preprocessing.size.sides,
            "latents": latents,
            "weights": _weights(files, used),
            "schedule": files.schedule(),
            "compute": model.compute,
        }
        if model.tiles:
            recipe["tiles"] = model.tiles.model_dump()
        if files.kind in (FLUX, FLUX_SCHNELL) and not model.compute.startswith("float32"):
            recipe["time"] = "rounded"  # as in its pipeline; 0.2.0 rounded σ
        if combo.pooling:
            recipe["pooling"] = combo.pooling
        if combo.captioned:
            recipe["captions"] = captions
        marks = _marks(manifest, combo, files, roots)
        if marks:
            recipe["marks"] = marks
        if model.fit != "squash":  # which is what a recipe that does not say means
            recipe["resize"] = model.fit
        recipe |= preprocessing.recipe
        plans.append(PlannedCombo(name, combo, maps.specs, maps.shapes, recipe,
                                  {Use.of(t, digests): t for t, digests in used}))
    return plans


def _marks(manifest: Manifest, combo: Combo, files: ModelFiles, roots: Roots) -> list[str]:
    """Begin, end and padding tokens (2.x's is '!') that are written out in this combo's texts.

    The first release took them for other words; its rows of such combos are not these.
    """
    marks = {mark for tokens in files.tokenizers for mark in tokens.marks}
    text = combo.prompt + (combo.guidance.negative if combo.guidance else "")
    if marks and combo.captioned:
        text += roots.below("data", str(manifest.captions), "captions").read_text(encoding="utf-8")
    return sorted(mark for mark in marks if mark in text)


def _of_text(combo: Combo) -> list[str]:
    """The fields of a combo that only a model with text has."""
    named = [t.name for t in techniques("", combo) if t.needs_text]
    return [*named, *(["guidance"] if combo.guidance else [])]


def check_fit(manifest: Manifest, files: ModelFiles, roots: Roots) -> None:
    """Check that the model's parts, and what its techniques put beside it, fit together.

    Raises
    ------
    ModelError
        With a line for everything that does not fit. What is not on this machine is passed over.
    """
    check_parts(files)
    problems: list[str] = []
    every = [t for name, combo in manifest.combos.items() for t in techniques(name, combo)]
    for technique in every if files.sure and files.family.text else ():
        try:
            technique.fits(files, roots)
        except NotThere:
            continue
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise ModelError("\n".join(dict.fromkeys(problems)))


def _captions_digest(manifest: Manifest, roots: Roots) -> str:
    """sha256 of the file that captions come from; empty where none are asked for."""
    if not any(combo.captioned for combo in manifest.combos.values()):
        return ""
    path = roots.below("data", str(manifest.captions), "captions")
    if not path.is_file():
        raise DataError(f"captions: {path}: no such file; 'gate-cache caption' writes one")
    return file_sha256(path)


def _weights(files: ModelFiles, used: list[tuple[Technique[Any], Any]]) -> dict[str, Any]:
    weights: dict[str, Any] = {k: v for k, v in files.weights.items() if k != "vae"}
    return weights | {technique.name: digests for technique, digests in used if digests}


def missing_inputs(manifest: Manifest, roots: Roots, download: bool = False) -> list[str]:
    """One line for everything that a manifest's techniques need and that is not there.

    Parameters
    ----------
    download : fetch what is named by hub id
    """
    absent, wrong = input_problems(manifest, roots, download)
    return absent + wrong


def input_problems(manifest: Manifest, roots: Roots,
                   download: bool = False) -> tuple[list[str], list[str]]:
    """As `missing_inputs`: what is not there (yet), and what is there and cannot be used."""
    absent: dict[str, None] = {}
    wrong: dict[str, None] = {}
    try:
        _captions_digest(manifest, roots)
    except UserError as error:
        absent[str(error)] = None
    for technique in (t for name, c in manifest.combos.items() for t in techniques(name, c)):
        try:
            technique.check(roots, download)
        except NotThere as error:
            absent[str(error)] = None
        except UserError as error:
            wrong[str(error)] = None
    return list(absent), list(wrong)
