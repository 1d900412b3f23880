"""ControlNet on the Canny edges of the input itself (paper, A.2), or on images from a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gate_cache.core.digest_cache import tree_sha256
from gate_cache.core.errors import ModelError, NotThere
from gate_cache.core.headers import read_config
from gate_cache.core.hub import controlnet_from_hub
from gate_cache.core.weights import digest, folder_digest, shapes_in, weight_files
from gate_cache.datasets.common.files import by_stem
from gate_cache.diffusion.files.control_file import inferred_config, plain_names, shape_problems
from gate_cache.diffusion.files.hub import find_folder
from gate_cache.diffusion.files.single_file import PICKLED, SUFFIX
from gate_cache.diffusion.models import fields
from gate_cache.diffusion.models.embedded import CONTROLNETS
from gate_cache.diffusion.models.fitting import controlnet_problems
from gate_cache.diffusion.models.layouts import TRANSFORMER, UNET, class_of
from gate_cache.diffusion.techniques.base import Inputs, Steering, Technique
from gate_cache.manifest.specs import ControlNetSpec

if TYPE_CHECKING:
    from gate_cache.core.roots import Roots
    from gate_cache.diffusion.models.backbone import Backbone
    from gate_cache.diffusion.models.conditioning import Extra
    from gate_cache.diffusion.models.sources import ModelFiles
    from gate_cache.diffusion.techniques.base import Images


class ControlNet(Technique[ControlNetSpec]):
    """``controlnet`` of a combo."""

    name = "controlnet"
    place = "tail"
    needs_text = True

    def title(self) -> str:
        return f"ControlNet {self.spec.scale:g}"

    def settings(self) -> Any:
        if self.spec.images:
            return {"images": True, "scale": self.spec.scale}
        return {"canny": [self.spec.low, self.spec.high], "scale": self.spec.scale}

    def sources(self) -> Any:
        if self.spec.images:
            return {"net": self.spec.source, "images": self.spec.images}
        return self.spec.source

    def check(self, roots: Roots, download: bool = False) -> None:
        self._net(roots, download)
        self._images(roots)

    def fits(self, files: ModelFiles, roots: Roots) -> None:
        place = self._net(roots)
        if files.kind.denoiser == TRANSFORMER:
            if problems := [*_transformer_problems(place, self._config(place, roots), files)]:
                raise ModelError("\n".join(problems))
            return
        paths = [place] if place.is_file() else self._weights(place)
        shapes, unet = plain_names(shapes_in(paths)), files.config(UNET)
        config = self._config(place, roots)
        name = str(place if place.is_file() else place / "config.json")
        by_shape = [*shape_problems(str(place), shapes, unet)]
        problems = by_shape if by_shape and not config else [*controlnet_problems(
            name, config or inferred_config(shapes, unet), files)] or by_shape
        if problems:
            raise ModelError("\n".join(problems))

    def digests(self, roots: Roots) -> Any:
        place, images = self._net(roots), self._images(roots)
        net = digest(self._config(place, roots), [place]) if place.is_file() else \
            folder_digest(place, self.spec.variant, self._field("variant"))
        return {"net": net, "images": tree_sha256(images)} if images else net

    def _field(self, name: str) -> str:
        return f"{self.combo}.controlnet.{name}"

    def _weights(self, folder: Path) -> list[Path]:
        return weight_files(folder, self.spec.variant, self._field("variant"))

    def _config(self, place: Path, roots: Roots) -> dict[str, Any]:
        """A folder's configuration, or that given for a single file; empty where none is."""
        if place.is_dir():
            return read_config(place / "config.json")
        if self.spec.config is None:
            return {}
        return read_config(roots.below("models", self.spec.config, self._field("config"))
                           / "config.json")

    def _images(self, roots: Roots) -> Path | None:
        """The folder of control images, where they are not found by Canny."""
        if not self.spec.images:
            return None
        where = self._field("images")
        folder = roots.below("data", self.spec.images, where)
        if not folder.is_dir():
            raise NotThere(f"{where}: {folder}: no such folder; put the control images there,"
                             " called as the data set's own")
        by_stem(folder)  # which refuses two files for one sample
        return folder

    def _net(self, roots: Roots, download: bool = False) -> Path:
        """The network: a folder in diffusers layout, or a single file."""
        source, where = self.spec.source, self._field("source")
        if source in CONTROLNETS:
            return CONTROLNETS[source]
        if Path(source).suffix.lower() in (SUFFIX, *PICKLED):
            return self._file(roots.below("models", source, where))
        if self.spec.config:
            raise ModelError(f"{self._field('config')}: is for a single {SUFFIX} file, and 'source'"
                             " names none")
        folder = find_folder(source, roots, where) or controlnet_from_hub(
            source, self.spec.revision, self.spec.variant, download)
        if folder is None:
            raise NotThere(f"{where}: '{source}' is not on this machine; put its config.json and"
                           f" safetensors into {roots.models / source}")
        return folder

    def _file(self, path: Path) -> Path:
        where = self._field("source")
        if path.suffix.lower() != SUFFIX:
            raise ModelError(f"{where}: {path}: pickled weights are not read; convert it to"
                             f" {SUFFIX}")
        if not path.is_file():
            raise NotThere(f"{where}: {path}: no such file; put it there, or name the models root"
                           " with --models")
        if "shuffle" in path.stem.lower() and not self.spec.config:
            raise ModelError(f"{where}: {path}: a ControlNet on shuffled images averages what it"
                             " adds (global_pool_conditions), which only a configuration says;"
                             f" give {self._field('config')}, the folder of its config.json")
        return path

    def open(self, model: Backbone, roots: Roots) -> Steering:
        from gate_cache.diffusion.models.modules import load_controlnet

        place, variant = self._net(roots), self.spec.variant
        config = self._config(place, roots)
        if place.is_file() and not config:
            config = inferred_config(plain_names(shapes_in([place])), model.unet.config)
        net = model.once(("controlnet", place, variant, self.spec.config),
                         lambda: load_controlnet(place, model, config, variant))
        return Control(model, net, self.spec)


def _transformer_problems(place: Path, net: Mapping[str, Any],
                          files: ModelFiles) -> Iterator[str]:
    """One line for the first thing in which a ControlNet does not suit a transformer, if any."""
    config = files.config(TRANSFORMER)
    table = fields.CONTROLNETS.get(class_of(config))
    if table is None or place.is_file():
        yield (f"{place}: no ControlNet is read for {files.kind.name}; leave it out"
               if table is None else f"{place}: a transformer's ControlNet is read from a folder in"
               " diffusers layout, with its config.json")
        return
    place /= "config.json"
    if problems := list(fields.field_problems(str(place), net, table)):
        yield from problems
        return
    for field in ("num_attention_heads", "attention_head_dim", "in_channels", "joint_attention_dim",
                  "pooled_projection_dim"):
        if net.get(field) != config.get(field):
            yield (f"{place}: this ControlNet is for another model ({field} {net.get(field)}, the"
                   f" transformer's is {config.get(field)})")
            return


class Control(Steering):
    """A ControlNet with its settings.

    Parameters
    ----------
    net : of the class that the model says
    """

    def __init__(self, model: Backbone, net: Any, spec: ControlNetSpec) -> None:
        self._model = model
        self._net = net
        self._spec = spec

    def ahead(self, inputs: Inputs, rows: Sequence[int]) -> None:
        self.images(inputs, rows)

    def batch(self, inputs: Inputs, rows: Sequence[int]) -> Extra:
        images = self._model.place(self.images(inputs, rows)).expand(-1, 3, -1, -1)
        condition = self._model.condition(self._net, images.contiguous())
        return lambda call: self._model.controlled(self._net, call, condition, self._spec.scale)

    def images(self, inputs: Inputs, rows: Sequence[int]) -> Images:
        """(N, 1 or 3, H, W) uint8 control images, each made once."""
        spec, folder = self._spec, self._spec.images
        if folder:
            images = inputs.cached(("folder", folder), rows,
                                   lambda r: inputs.from_folder(folder, r))
            return cast("Images", images.transpose(0, 3, 1, 2))
        images = inputs.cached(
            ("canny", spec.low, spec.high), rows,
            lambda r: canny(inputs.images(r), spec.low, spec.high) * inputs.masks(r))
        return cast("Images", images[:, None])


def canny(images: Images, low: int, high: int) -> Images:
    """Edge maps of RGB images.

    Parameters
    ----------
    images : (B, H, W, 3) uint8
    low, high : hysteresis thresholds, 100 and 200 in the paper's tools

    Returns
    -------
    (B, H, W) uint8, 0 or 255
    """
    import cv2
    import numpy as np

    return np.stack([cv2.Canny(np.ascontiguousarray(i), low, high) for i in images]).astype(
        np.uint8)
