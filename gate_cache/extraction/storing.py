"""How a manifest wants its maps to be stored. No torch, no zarr."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gate_cache.core.codecs import Codec
from gate_cache.store.format.encodings import Encoding
from gate_cache.store.format.layout import Shapes, block_rows

if TYPE_CHECKING:
    from gate_cache.diffusion.models.sources import ModelFiles
    from gate_cache.manifest.specs import Manifest

AUTO_BATCH = 16
"""More images a pass are hardly faster, and most cards hold fewer."""


def store_block(manifest: Manifest, shapes: Iterable[Shapes]) -> int:
    """Rows of a block in a new store: as the manifest says, or by the largest map."""
    if manifest.store.block:
        return manifest.store.block
    every = [s for maps in shapes for s in maps.values()]
    return block_rows(every, encoding_asked(manifest))


def store_batch(manifest: Manifest) -> int:
    """Images a pass in a new store; where the manifest leaves it open, to begin with."""
    return AUTO_BATCH if manifest.store.batch == "auto" else manifest.store.batch


def keeps_latents(manifest: Manifest, files: ModelFiles) -> bool:
    """Whether a model's latents are kept; a vision encoder's are the images themselves."""
    return manifest.store.latents and files.kind.noised


def encoding_asked(manifest: Manifest) -> Encoding:
    """How a manifest wants the maps of new groups to be stored."""
    options = manifest.store
    codec = Codec.parse(options.codec) if options.codec else None
    return Encoding(options.dtype, options.keep_bits, codec)
