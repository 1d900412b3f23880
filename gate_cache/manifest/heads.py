"""Heads of stage 2 as a manifest knows them: a name, options of their own, a task. No torch.

A head is one object, a `Head`. Ours are the files of ``gate_cache/learn/heads/``, others are named
by packages with an entry point of the group ``gate_cache.heads``. Either is imported by its name,
when a manifest asks for it: so this room needs none above it, and a new head changes no other file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from gate_cache.core.errors import TOLD, UserError, did_you_mean
from gate_cache.core.plugins import installed, load_plugin
from gate_cache.manifest.base import Spec, sides

GROUP = "gate_cache.heads"
_OURS = "gate_cache.learn.heads"
TaskName = Literal["correspondence", "segmentation", "pixels", "classification"]


class HeadSpec(Spec):
    """Base of a head's options, which a manifest gives below ``train.head``."""

    name: str

    @classmethod
    def of_data(cls, data: Any) -> type[HeadSpec]:
        """The options that a mapping means by its name; for messages."""
        try:
            return head_of(str(data["name"])).options if isinstance(data, dict) else cls
        except (KeyError, UserError):
            return cls

    @classmethod
    def why_unknown(cls, option: str, _data: Any) -> str:
        """Whose an option is that this head does not have."""
        return whose(option)


class CorrespondenceSpec(HeadSpec):
    """Options of heads that match points."""

    resolution: Annotated[int | list[int], sides(1, 4096)] | None = Field(
        None, description="side, or [height, width], to which maps are resized")
    matching: Literal["dense", "cells"] = Field(
        "dense", description="where matches are searched: between cells too, or at their centres")
    standardise: Literal["none", "image"] = Field(
        "none", description="channels before they are compared: as they are, or of mean 0 and"
        " variance 1 over each image's cells")
    temperature: Literal["learnt", "fixed"] = Field("learnt", description="of the loss")
    pose_align: bool = Field(False, description="match a source mirrored where that is nearer")


class PooledSpec(HeadSpec):
    """Options of heads that see an image as one vector."""

    pool: int = Field(2, ge=1, le=64, description="cells along a side of the grid to which each map"
                      " of an image is averaged; 1: one mean a map")


UPSAMPLERS, JOINT_BILATERAL = "gate_cache.upsamplers", "joint-bilateral"
"""Entry points that name other packages' up-samplers; and our own one."""


def _known_upsampler(name: str | None) -> str | None:
    known = [JOINT_BILATERAL, *installed(UPSAMPLERS)]
    if name is not None and name not in known:
        raise PydanticCustomError(TOLD, f"no up-sampler '{name}'{did_you_mean(name, known)}; there"
                                  f" are {', '.join(known)} (entry points '{UPSAMPLERS}')")
    return name


class DenseSpec(HeadSpec):
    """Options of heads that predict masks."""

    upsampler: Annotated[str | None, AfterValidator(_known_upsampler)] = Field(
        None, description="what makes maps sharper by the picture as they are read"
        " (joint-bilateral, or another package's) [they are interpolated]")
    upsampled: int = Field(2, ge=2, le=16, description="times as many cells a side behind the"
                           " up-sampler")


class PixelSpec(DenseSpec):
    """Options of heads that are trained on single pixels."""

    extra: list[str] | None = Field(None, min_length=1, description="combos that are concatenated"
                                    " as they are, of any model in the store")
    sampling: Literal["uniform", "balanced"] = Field(
        "uniform", description="pixels of an image: as they come, or as many of each class")
    min_pixels: int = Field(0, ge=0, description="of a class in a training image, below which it is"
                            " ignored there")
    reservoir_mb: int = Field(1024, ge=1, description="memory for the training pixels")
    members: int = Field(1, ge=1, description="of the ensemble, each with assigners of its own")


class PixelProbeSpec(PixelSpec):
    """Options of heads that are solved on pixels."""

    members: int = Field(1, ge=1, le=1, description="a probe is no ensemble")


class HeadTask(NamedTuple):
    """What heads of one task have in common.

    Attributes
    ----------
    needs : what the data set must have
    unit : what a batch counts
    metric : what is measured
    options : base of their options
    shared : options that decide which features are read: trials that differ there share no stream
    """

    needs: str
    unit: str
    metric: str
    options: type[HeadSpec]
    shared: tuple[str, ...] = ()


_IOU = ("IoU and accuracy in original pixels, one confusion matrix over all of a split; classes in"
        " neither truth nor predictions are left out")
TASKS: dict[str, HeadTask] = {
    "correspondence": HeadTask(
        "key points", "pairs", "PCK in original-image pixels; radius = α × longer side of image or"
        " box", CorrespondenceSpec, ("resolution", "matching", "standardise", "temperature",
                                      "pose_align")),
    "segmentation": HeadTask("masks", "images", _IOU, DenseSpec, ("upsampler", "upsampled")),
    "pixels": HeadTask(
        "masks", "pixels", f"{_IOU}; mIoU/ddpm-segmentation: at 256 × 256, with what is predicted"
        " where labels are ignored, and 0 for a class that is nowhere", PixelSpec,
        ("extra", "sampling", "min_pixels", "reservoir_mb", "upsampler", "upsampled")),
    "classification": HeadTask(
        "classes of images", "images",
        "top-1 accuracy; class accuracy is the mean over classes", HeadSpec, ("pool",)),
}


SHORT: Mapping[str, Any] = {"steps": 200, "validate_steps": 50, "batch": 64, "lr": 1e-3,
                            "schedule": "cosine", "warmup": 0.1}
"""Defaults of heads that are solved: only assigners need steps."""


@dataclass(frozen=True)
class Sizes:
    """What a head's module is made for.

    Attributes
    ----------
    assigners : n, weighted sums that it gets
    channels : C of each sum
    levels : of ``segmentation``: C of each level, coarse to fine
    tokens : T of the attention feature; 0 where it is not used
    level_tokens : of ``segmentation``: T at each level
    extra : E of combos that are never amalgamated
    classes : K; 0 of ``correspondence``
    """

    assigners: int
    channels: int
    levels: tuple[int, ...] = ()
    tokens: int = 0
    level_tokens: tuple[int, ...] = ()
    extra: int = 0
    classes: int = 0


@dataclass(frozen=True)
class Head:
    """A head: all that the rest of gate-cache asks about it.

    Parameters
    ----------
    name : in manifests
    task : what it learns, and on what: one of `TASKS`
    options : its own, with defaults and bounds; a subclass of the task's
    build : from options and `Sizes` to a ``torch.nn.Module``; torch is imported in here, not above,
        so that a manifest is checked without it
    defaults : of ``train``'s fields, where they differ from other heads'
    metric : what its metric says beyond the task's
    learns : whether it has weights of its own. Baselines of one that has none are not trained
    """

    name: str
    task: TaskName
    options: type[HeadSpec]
    build: Callable[[Any, Sizes], Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    metric: str = ""
    learns: bool = True

    def __post_init__(self) -> None:
        if self.task not in TASKS:  # other packages' heads are not type-checked here
            raise UserError(f"head '{self.name}': no task '{self.task}'"
                            f"{did_you_mean(self.task, TASKS)}; there are {', '.join(TASKS)}")
        if not issubclass(self.options, TASKS[self.task].options):
            raise UserError(f"head '{self.name}': its options must be a subclass of"
                            f" {TASKS[self.task].options.__name__}, as of all of '{self.task}'")

    @property
    def measured(self) -> str:
        """What is measured, in words."""
        return "; ".join(filter(None, (TASKS[self.task].metric, self.metric)))


def head_names() -> list[str]:
    """All heads by name: ours, then those of other packages."""
    return list(dict.fromkeys([*_ours(), *installed(GROUP)]))


@cache
def _ours() -> list[str]:  # by their files' names, without importing them
    folder = Path(__file__).parents[1] / "learn" / "heads"
    return [module.name.replace("_", "-") for module in pkgutil.iter_modules([str(folder)])]


@cache
def head_of(name: str) -> Head:
    """A head by its name.

    Raises
    ------
    UserError
        There is none, or its package cannot be imported.
    """
    if name in _ours():
        head = importlib.import_module(f"{_OURS}.{name.replace('-', '_')}").HEAD
    elif name in installed(GROUP):
        head = load_plugin(GROUP, name)
    else:
        known = head_names()
        raise UserError(f"unknown head '{name}'{did_you_mean(name, known)};"
                        f" known: {', '.join(known)}")
    if not isinstance(head, Head) or head.name != name:
        raise UserError(f"head '{name}': entry point '{name}' of '{GROUP}' must name a"
                        f" gate_cache.manifest.heads.Head of that name")
    return head


def heads_of(*tasks: TaskName) -> list[str]:
    """Names of the heads of some tasks; those that cannot be imported are left out."""
    return [name for name in head_names() if _task(name) in tasks]


def _task(name: str) -> str:
    try:
        return head_of(name).task
    except UserError:
        return ""


def option_names(name: str) -> list[str]:
    """Names of a head's options; none where there is no such head."""
    try:
        return [option for option in head_of(name).options.model_fields if option != "name"]
    except UserError:
        return []


def whose(option: str) -> str:
    """``; it is one of head 'conv'``, or nothing where no head has that option."""
    owners = [name for name in _ours() if option in option_names(name)]
    return f"; it is one of head {' or '.join(map(repr, owners))}" if owners else ""


def parse_head(value: Any) -> Any:
    """A name, or a mapping with a name, as that head's options, checked by its own spec.

    Raises
    ------
    ValueError
        There is no such head, or it refuses an option (as pydantic says it).
    """
    section = {"name": value} if isinstance(value, str) else value
    if not isinstance(section, dict) or "name" not in section:
        return section if isinstance(section, HeadSpec) else _refuse(
            "expected a head's name, or a mapping with 'name' and its options")
    try:
        options = head_of(str(section["name"])).options
    except UserError as error:
        return _refuse(str(error))
    return options.model_validate(section)


def _refuse(text: str) -> Any:
    raise PydanticCustomError(TOLD, "{text}", {"text": text})
