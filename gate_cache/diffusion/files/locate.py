"""Finding the model that a manifest names: its folder, its single file, or its hub id. No torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gate_cache.core.errors import ModelError, NotThere, listed
from gate_cache.core.roots import Roots
from gate_cache.diffusion.files import single_file
from gate_cache.diffusion.files.hub import find_folder, model_from_hub
from gate_cache.diffusion.models import layouts
from gate_cache.diffusion.models.embedded import HOMES
from gate_cache.diffusion.models.layouts import UNET
from gate_cache.diffusion.models.published import HOME as PUBLISHED
from gate_cache.diffusion.models.published import SD_1_5, published_name
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.manifest.specs import ModelSpec


def locate(spec: ModelSpec, roots: Roots, download: bool = False) -> ModelFiles | None:
    """Find the model a manifest names: of several sources the first that can be used.

    A source is an embedded family's name, a .safetensors file or a folder below the models root,
    or a hub id, in this order.

    Parameters
    ----------
    spec : of the manifest: sources, revision, variant, configuration, expected digest
    download : fetch a hub id where no source is on this machine

    Returns
    -------
    ModelFiles, or None where only a hub id is left, not on this machine, and `download` is false

    Raises
    ------
    ModelError
        Not there, or with another digest, with the way out.
    """
    passed: dict[str, ModelError] = {}
    for fetch in (False, True) if download else (False,):
        for source in spec.sources:
            try:
                found = _located(spec, source, roots, fetch)
                files = _checked(spec, found and _with_unet(spec, found, roots))
            except ModelError as error:
                passed[source] = error
                continue
            if files:
                return replace(files, notes=tuple(
                    f"{spec.place}.source: '{name}' is passed over: {error}"
                    for name, error in passed.items() if not isinstance(error, NotThere)))
    if len(passed) < len(set(spec.sources)):
        return None
    if len(passed) == 1:
        raise passed[spec.sources[0]]
    reasons = "; ".join(f"({i}) {error}" for i, error in enumerate(passed.values(), 1))
    absent = all(isinstance(error, NotThere) for error in passed.values())
    raise (NotThere if absent else ModelError)(
        f"{spec.place}.source: none of {listed(passed)} can be used: {reasons}")


def _checked(spec: ModelSpec, files: ModelFiles | None) -> ModelFiles | None:
    """Refuse a model with another UNet or transformer than the manifest wants."""
    name = files.kind.denoiser if files and spec.digest else UNET
    if files and spec.digest and not files.digest(name).startswith(spec.digest):
        raise ModelError(f"{files.source}: the digest of its {name} is {files.digest(name)[:16]}…,"
                         f" the manifest wants {spec.digest[:16]}…; name the right weights, or"
                         f" correct {spec.place}.digest ('gate-cache layers' prints it)")
    return files


def _located(spec: ModelSpec, source: str, roots: Roots, download: bool) -> ModelFiles | None:
    if source in HOMES:
        return ModelFiles(source, HOMES[source])
    if Path(source).suffix.lower() in (single_file.SUFFIX, *single_file.PICKLED):
        return _single_file(source, spec, roots)
    folder = find_folder(source, roots, f"{spec.place}.source") or model_from_hub(
        source, spec.revision, spec.variant, download)
    if folder is None:
        return None
    kind = layouts.guessed_kind(folder)
    for component in kind.components:
        if not layouts.is_bare(folder) and not (folder / component).is_dir():
            raise ModelError(f"{folder}: no '{component}' in it; {kind.expected}")
    return ModelFiles(source, folder, spec.variant)


def _with_unet(spec: ModelSpec, files: ModelFiles, roots: Roots) -> ModelFiles:
    """The same with the weights of ``model.unet``, where the manifest names any."""
    if spec.unet is None:
        return files
    path = roots.below("models", spec.unet, f"{spec.place}.unet")
    if files.file or files.kind.denoiser != UNET:
        raise ModelError(f"{spec.place}.unet: is for a folder or a hub id with a UNet, and"
                         f" '{files.source}' is a single file, or has a transformer")
    _need_safetensors(path, f"{spec.place}.unet", "expected a .safetensors file; pickled weights"
                      " are not read")
    return replace(files, source=f"{files.source} with {spec.unet}", unet=path)


def _need_safetensors(file: Path, place: str, way_out: str) -> None:
    if file.suffix.lower() != single_file.SUFFIX:
        raise ModelError(f"{place}: {file}: {way_out}")
    if not file.is_file():
        raise NotThere(f"{place}: {file}: no such file; put it there, or name the models root with"
                       " --models")


def _single_file(source: str, spec: ModelSpec, roots: Roots) -> ModelFiles:
    place = spec.place
    file = roots.below("models", source, f"{place}.source")
    _need_safetensors(file, f"{place}.source", "pickled checkpoints are not read; convert it to"
                      " .safetensors, or to diffusers layout")
    if spec.config is None:
        raise ModelError(f"{place}.source: {file}: a single file has no tokenizer; put that into a"
                         f" folder below the models root, and name this folder as {place}.config")
    config, model = roots.below("models", spec.config, f"{place}.config"), \
        single_file.identified(file)
    single_file.check(file, config, model)
    return ModelFiles(source, config, None, model, file)


def assumed(spec: ModelSpec) -> ModelFiles:
    """A published model that stands in for one whose files are not here, for plans.

    The one that the hub id is known to hold, else Stable Diffusion 1.5; without weights.
    """
    names = [name for name in map(published_name, spec.sources) if name]
    return ModelFiles(spec.source, PUBLISHED, None, (names or [SD_1_5])[0], sure=bool(names))
