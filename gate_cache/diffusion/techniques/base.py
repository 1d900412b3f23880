"""The one interface of techniques: what one needs, what it changes, what a fingerprint has of it.

Importing a technique is instant (no torch): `plan` and `validate` use the first half of the
interface. `Technique.open` begins the second half, beside a loaded model. docs/techniques.md shows
how to add one from another package.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from gate_cache.core.roots import Roots
    from gate_cache.diffusion.models.backbone import Backbone
    from gate_cache.diffusion.models.conditioning import Extra
    from gate_cache.diffusion.models.sources import ModelFiles

    Images = npt.NDArray[np.uint8]
Place = Literal["model", "tail"]
"""What a technique changes: ``model``: all passes, weights and inputs included; ``tail``: only what
is added to the UNet behind its down and mid blocks, which combos that differ there can share."""
Spec = TypeVar("Spec")


class Inputs(Protocol):
    """What passes need of a store's rows."""

    def id(self, row: int) -> str:
        """The sample's id: it decides the noise."""

    def prompt(self, row: int, prompt: str) -> str:
        """A combo's prompt for one image: its caption filled in."""

    def latents(self, rows: Sequence[int]) -> torch.Tensor:
        """(N, 4, h, w) float32, x_0, on the device."""

    def images(self, rows: Sequence[int]) -> Images:
        """(N, H, W, 3) uint8, RGB, at the model's size."""

    def masks(self, rows: Sequence[int]) -> npt.NDArray[np.bool_]:
        """(N, H, W) bool: the pixels that are the image's, not padding."""

    def from_folder(self, folder: str, rows: Sequence[int]) -> Images:
        """As `images`, of files below the data root that are called as the samples are."""

    def cached(self, key: object, rows: Sequence[int], make: Callable[[list[int]], Any]) -> Any:
        """Arrays that `make` yields for rows, (N, …), made once a row whoever asks."""


class Steering:
    """A technique beside a loaded model. Overwrite what it needs."""

    def active(self) -> AbstractContextManager[object]:
        """Change the model for the passes of the ``with`` block, and change it back."""
        return nullcontext()

    def ahead(self, inputs: Inputs, rows: Sequence[int]) -> None:
        """Prepare rows on the CPU; called from a thread, while the device works on others."""

    def batch(self, inputs: Inputs, rows: Sequence[int]) -> Extra | None:
        """What these images add to their passes."""
        return None


class Technique(ABC, Generic[Spec]):
    """A technique with the settings that one combo gives it.

    Attributes
    ----------
    name : its field in a combo, or below ``extra``
    place : what it changes
    needs_text : whether only models that take prompts have what it changes

    Parameters
    ----------
    combo : name of the combo, for messages
    spec : its settings: a section of the manifest; a mapping for techniques of other packages,
        which should check it here and raise `gate_cache.core.errors.ManifestError`
    """

    name: ClassVar[str]
    place: ClassVar[Place]
    needs_text: ClassVar[bool] = False

    def __init__(self, combo: str, spec: Spec) -> None:
        self.combo = combo
        self.spec = spec

    @abstractmethod
    def settings(self) -> Any:
        """What decides values and is in the manifest, as plain JSON; part of the fingerprint."""

    def title(self) -> str:
        """What it is in a few words, for tables; by default its name."""
        return self.name

    def sources(self) -> Any:
        """Names of its files, for people and for a plan without them; not in the fingerprint."""
        return None

    def check(self, roots: Roots, download: bool = False) -> None:
        """Look for its files, without reading them.

        Parameters
        ----------
        download : fetch what is named by hub id and not on this machine

        Raises
        ------
        ModelError
            A file cannot be used; `gate_cache.core.errors.NotThere` where it is only missing.
        """

    def fits(self, files: ModelFiles, roots: Roots) -> None:
        """Check its files against the model's, by configurations and headers alone; no torch.

        Raises
        ------
        ModelError
            They do not fit, with the place and the way out; `gate_cache.core.errors.NotThere` where
            a file is missing.
        """

    def digests(self, roots: Roots) -> Any:
        """What tells its files from others, by content, as plain JSON; part of the fingerprint.

        Raises
        ------
        ModelError
            A file is missing.
        """
        return None

    @abstractmethod
    def open(self, model: Backbone, roots: Roots) -> Steering:
        """Load it beside a model. What several combos share: `Backbone.once`."""


@dataclass(frozen=True, order=True)
class Use:
    """A technique with its settings and files, as a key: equal ones steer alike."""

    place: Place
    technique: str
    key: str

    @classmethod
    def of(cls, technique: Technique[Any], files: Any) -> Use:
        """The key of a technique whose files are known by digest, or by name."""
        key = json.dumps([technique.settings(), files], sort_keys=True)
        return cls(technique.place, technique.name, key)
