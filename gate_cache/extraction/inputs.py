"""What passes need of a store's rows: images, captions, control images, latents."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import DataError
from gate_cache.core.geometry import Frame
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.datasets.common.captions import read_captions
from gate_cache.datasets.common.files import by_stem, stem_of
from gate_cache.datasets.common.images import file_input
from gate_cache.datasets.common.model_input import model_input
from gate_cache.diffusion.passes.schedule import PassGroup, Wanted, schedule
from gate_cache.manifest.specs import CAPTION

if TYPE_CHECKING:
    import torch

    from gate_cache.core.roots import Roots
    from gate_cache.core.size import Sides, Size
    from gate_cache.datasets.common.base import ImageDataset
    from gate_cache.diffusion.models.sources import ModelFiles
    from gate_cache.diffusion.passes.recipes import PlannedCombo
    from gate_cache.manifest.specs import Manifest
    from gate_cache.store.format.samples import Samples
    from gate_cache.text.tokens import Tokens
    from gate_cache.workspace.workspace import Workspace

Pixels = npt.NDArray[np.uint8]


@dataclass
class ImageSource:
    """Where a store's rows come from.

    Attributes
    ----------
    preprocessing : how images become the model's input
    captions : by sample id
    """

    dataset: ImageDataset
    samples: Samples
    preprocessing: Preprocessing
    tokens: Tokens
    roots: Roots
    captions: Mapping[str, str]
    _folders: dict[str, Mapping[str, Path]] = field(default_factory=dict, init=False)

    @cached_property
    def frame(self) -> Frame:
        """Where images lie in the model's input."""
        how = self.preprocessing
        return Frame(how.size, how.fit, how.shapes)

    def prompt(self, row: int, prompt: str) -> str:
        """A combo's prompt for one image: its caption filled in."""
        if CAPTION not in prompt:
            return prompt
        return prompt.replace(CAPTION, self.captions[self.samples[row]])

    def passes(self, wanted: Iterable[tuple[PlannedCombo, Collection[int]]]) -> list[PassGroup]:
        """The passes that combos with their rows need, in an order that shares what can be."""
        return schedule([(Wanted.of(plan), rows) for plan, rows in wanted],
                        lambda prompt, row: self.tokens.seen(self.prompt(row, prompt)),
                        self.preprocessing.tiles)

    def image(self, row: int) -> Pixels:
        """(H, W, 3) uint8."""
        return model_input(self.dataset, self.samples[row], self.preprocessing)

    def mask(self, row: int, resolution: Sides | None = None) -> npt.NDArray[np.bool_]:
        """(h, w) bool: the cells that show any of the image, not padding alone.

        Parameters
        ----------
        resolution : by default the input's own, so that cells are its pixels
        """
        height, width = map(int, self.samples.sizes[row])
        return self.frame.place(height, width).mask(resolution or self.frame.size)

    def from_folder(self, folder: str, row: int) -> Pixels:
        """As `image`, of the file of a folder that is called as the sample is."""
        path = self._folder(folder).get(stem_of(self.samples[row]))
        if path is None:
            raise DataError(f"{folder}: no control image for '{self.samples[row]}'; put one there,"
                            " with the same name and any image suffix")
        return file_input(path, self.preprocessing)

    def _folder(self, folder: str) -> Mapping[str, Path]:
        if folder not in self._folders:
            root = self.roots.below("data", folder, "controlnet.images")
            self._folders[folder] = by_stem(root)
        return self._folders[folder]


def open_source(work: Workspace, dataset: ImageDataset, samples: Samples,
                files: ModelFiles, gone: Collection[int] = (),
                shape: Size | None = None) -> ImageSource:
    """Images of a manifest's model, and captions where a combo of the manifest asks for them.

    Parameters
    ----------
    samples : of a store, or images of `dataset` that are in none
    gone : rows that need no caption: their image is not there any more, or nobody asks for it
    shape : of the input, which the samples' images have; None where there are not several

    Raises
    ------
    DataError
        An image has no caption, or has changed since, or its caption is too long for an attention
        combo, whose maps have one channel a token.
    """
    manifest, captions = work.manifest, dict[str, str]()
    if manifest.captions and any(c.captioned for c in manifest.combos.values()):
        found = read_captions(work.roots.below("data", manifest.captions, "captions"))
        captions = {name: found.check(name, samples.sha256[row])
                    for row, name in enumerate(samples) if row not in gone}
        _check_lengths(manifest, captions, files.tokens, found.path)
    how = files.preprocessing(manifest.model)
    return ImageSource(dataset, samples, how.at(shape) if shape else how, files.tokens, work.roots,
                       captions)


def _check_lengths(manifest: Manifest, captions: Mapping[str, str], tokens: Tokens,
                   path: Path) -> None:
    for combo, spec in manifest.attention.items():
        for name, caption in captions.items() if spec.captioned else ():
            if tokens.count(spec.prompt.replace(CAPTION, caption)) > tokens.count(""):
                raise DataError(f"{path}: '{name}': with this caption the prompt of"
                                f" attention.{combo} has over 75 tokens; shorten the caption")


class BlockInputs:
    """Rows for passes; see `gate_cache.diffusion.techniques.base.Inputs`.

    Parameters
    ----------
    readers : threads that read images
    """

    def __init__(self, source: ImageSource, readers: Executor) -> None:
        self._source = source
        self._readers = readers
        self._latents: dict[int, torch.Tensor] = {}
        self._kept: dict[tuple[object, int], Any] = {}

    def take_latents(self, rows: Sequence[int], latents: torch.Tensor) -> None:
        """These rows' latents, (N, 4, h, w) float32 on the device, once they are known."""
        self._latents.update(zip(rows, latents, strict=True))

    def id(self, row: int) -> str:
        """The sample's id."""
        return str(self._source.samples[row])

    def prompt(self, row: int, prompt: str) -> str:
        """A combo's prompt for one image."""
        return self._source.prompt(row, prompt)

    def latents(self, rows: Sequence[int]) -> torch.Tensor:
        """(N, 4, h, w) float32, x_0, on the device."""
        import torch

        return torch.stack([self._latents[r] for r in rows])

    def images(self, rows: Sequence[int]) -> Pixels:
        """(N, H, W, 3) uint8."""
        def read(missing: list[int]) -> Iterable[Pixels]:
            return self._readers.map(self._source.image, missing)

        return np.asarray(self.cached("images", rows, read))

    def masks(self, rows: Sequence[int]) -> npt.NDArray[np.bool_]:
        """(N, H, W) bool: the pixels that are the image's, not padding."""
        return np.stack([self._source.mask(r) for r in rows])

    def from_folder(self, folder: str, rows: Sequence[int]) -> Pixels:
        """As `images`, of a folder's files."""
        return np.stack(list(self._readers.map(partial(self._source.from_folder, folder), rows)))

    def cached(self, key: object, rows: Sequence[int], make: Callable[[list[int]], Any]) -> Any:
        """Arrays, or tensors, made once a row, (N, …)."""
        missing = list(dict.fromkeys(r for r in rows if (key, r) not in self._kept))
        if missing:
            self._kept |= {(key, r): v for r, v in zip(missing, make(missing), strict=True)}
        found = [self._kept[key, r] for r in rows]
        if isinstance(found[0], np.ndarray):
            return np.stack(found)
        import torch

        return torch.stack(found)
