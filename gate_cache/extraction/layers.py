"""``layers``: what a model offers, by its configurations. No torch, no zarr, no weights loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gate_cache.core.errors import ModelError
from gate_cache.core.features import MapSpec, nbytes
from gate_cache.diffusion.files.locate import assumed, locate
from gate_cache.diffusion.models.published import published_name
from gate_cache.diffusion.models.sources import ModelFiles

if TYPE_CHECKING:
    from gate_cache.core.roots import Roots
    from gate_cache.core.size import Sides, Size
    from gate_cache.manifest.specs import ModelSpec


@dataclass(frozen=True)
class ModelMap:
    """One feature map that a model offers.

    Attributes
    ----------
    channels : of an attention map, tokens for every 75 tokens of the prompt or part of them
    stride : input pixels per cell
    shape : (C, h, w) at the asked size
    bytes : of one image's, in float16
    """

    name: str
    kind: str
    channels: int
    stride: int
    shape: tuple[int, int, int]
    bytes: int


@dataclass(frozen=True)
class ModelMaps:
    """What a model offers.

    Attributes
    ----------
    size, default_size : of the input in pixels: asked for, and the model's own; one number of a
        square
    size_multiple : every side that the model allows is one of it
    latent : (C, h, w) of what is noised, at the asked size
    predicts : what the UNet or transformer predicts; empty of a vision encoder
    digests : sha256 by component, none where the weights are not here; the first one is what
        ``model.digest`` of a manifest means
    notes : what limits this report, a line each
    """

    model: str
    kind: str
    size: Sides
    default_size: int
    size_multiple: int
    latent: tuple[int, int, int]
    predicts: str
    layers: list[ModelMap]
    digests: dict[str, str]
    notes: list[str]


def layers(spec: ModelSpec, roots: Roots, size: Sides | None = None,
           every: bool = False) -> ModelMaps:
    """Describe a model.

    Parameters
    ----------
    size : of the input in pixels, a square's side or (height, width); by default the model's own
    every : also the maps that combos have only by name, behind the others

    Raises
    ------
    ModelError
        Neither here nor one whose configurations are built in, or a size it does not allow.
    """
    files, notes = _files(spec, roots)
    layout = files.family
    pixels = layout.check_size(size or layout.default_size, "--size")
    digests, why = _digests(files)
    offered = [*layout.maps, *(m for m in layout.more if every and m.is_small(pixels))]
    return ModelMaps(
        model=spec.source, kind=files.title, size=pixels.sides, default_size=layout.default_size,
        size_multiple=layout.size_multiple, latent=layout.latent_shape(pixels),
        predicts=str(files.schedule().get("prediction_type", "epsilon")) * files.kind.noised,
        layers=[_layer(m, pixels, files.kind.tokens) for m in offered], digests=digests,
        notes=[*notes, *why])


def _files(spec: ModelSpec, roots: Roots) -> tuple[ModelFiles, list[str]]:
    files = locate(spec, roots)
    if files:
        return files, []
    stand_in = assumed(spec)
    if not published_name(spec.source):
        raise ModelError(f"{spec.source}: not on this machine, and not a model whose configurations"
                         f" are built in; put its files into {roots.models / spec.source}")
    return stand_in, [f"{spec.source} is not on this machine: this is from the published"
                      f" configurations of {stand_in.title}, which are built in; no digests"]


def _digests(files: ModelFiles) -> tuple[dict[str, str], list[str]]:
    """Digests, or why there are none."""
    if files.absent:
        return {}, []
    try:
        return files.weights, []
    except ModelError as error:
        return {}, [f"no digests: {error}"]


def _layer(spec: MapSpec, size: Size, tokens: int) -> ModelMap:
    shape = spec.shape(size, tokens)
    return ModelMap(spec.name, spec.kind, shape[0], spec.stride, shape, nbytes(shape, "float16"))
