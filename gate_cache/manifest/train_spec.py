"""The ``train`` section of a manifest, typed. No torch, numpy or zarr.

What the first release called otherwise is accepted for one release: options of heads beside the
others (``train: {head: upernet, decoder_channels: 64}``), and ``pairs`` and ``validate_every``,
which counted items (pairs, images or pixels), not steps. These are kept as they are where they are
no whole number of batches, so that the same batches are trained on.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from gate_cache.core.errors import TOLD, UserError, did_you_mean
from gate_cache.manifest.base import Spec, sides
from gate_cache.manifest.heads import HeadSpec, head_of, option_names, parse_head, whose

FLAT = ("conv_channels", "resolution", "decoder_channels", "classifier_hidden", "members", "extra",
        "sampling", "reservoir_mb")
"""Options of heads that were fields of ``train``."""
COUNTS = {"pairs": "steps", "validate_every": "validate_steps"}
"""Fields that counted items, and those that count steps."""
SEEDS = ("seed", "shuffle")
"""Settings in which trials of one configuration differ."""
TWO_FINEST = "two finest"
"""Maps of an attention combo that were read where ``attention_maps`` named none."""
FEWEST = 4
"""Validations at least, where the manifest does not say how often."""
BATCH, HEAD = 4, "nn"
"""Defaults of ``train`` that conversion depends on."""
WERE = {"schedule": "constant", "warmup": 0}
"""What newer fields of ``train`` would have said."""
HEADS_WERE = {"matching": "cells", "pool": 1, "classifier_hidden": 0}
"""And newer options of heads."""
UNTIL = "this spelling of the first release is accepted for one release"
AttentionMaps = Annotated[list[str], Field(min_length=1)] | Literal["two finest"] | None
"""Maps of an attention combo by name, all, or those that the first release read by default."""
OF_A_RUN = "of a run"
"""Validation context of settings that a run's files hold, be it one of the first release."""


class MixSpec(Spec):
    """How maps of several models come together in a bucket; ``concat`` for all defaults."""

    unit: bool = Field(True, description="every combo's maps of unit length at each position")
    shares: dict[str, float] = Field(default_factory=dict, description="of models by name, what"
                                     " their maps are multiplied with [1]")
    projection: int | None = Field(None, ge=1, description="width to which each model's maps are"
                                   " brought by a learnt 1×1 projection [they are concatenated]")
    pca: int | None = Field(None, ge=1, exclude_if=lambda pca: pca is None, description="the same"
                            " by principal components of the training images, which are not learnt")

    @model_validator(mode="after")
    def _one_width(self) -> Self:
        if self.projection and self.pca:
            raise PydanticCustomError(TOLD, "gives projection and pca; give one of them")
        return self


def _as_mix(value: Any) -> Any:
    if isinstance(value, str) and value != "concat":
        raise PydanticCustomError(TOLD, f"expected concat, or a mapping, got '{value}'")
    return {} if value == "concat" else value


class TrainSpec(Spec):
    """Stage 2: amalgamator, head and optimisation (paper, A.4 and C.1).

    What a head's own defaults say counts where the manifest says nothing. Options of a head are in
    `head`. A step is one of the optimiser, on one batch.
    """

    head: SerializeAsAny[Annotated[HeadSpec, BeforeValidator(parse_head)]] = Field(
        default_factory=lambda: cast(HeadSpec, parse_head(HEAD)))
    combos: list[str] | None = Field(None, min_length=1)
    attention: str | Literal[False] | None = None
    attention_maps: AttentionMaps = None
    attention_in: Literal["head", "bucket"] = Field(
        "head", description="attention is concatenated behind the mixture, or to all that is mixed")
    mix: Annotated[MixSpec | None, BeforeValidator(_as_mix)] = Field(
        None, exclude_if=lambda mix: mix is None, description="concat, or how models are joined")
    baseline: str | None = None
    assigners: int = Field(2, ge=1)
    assigner_resolution: Annotated[int | list[int], sides(1, 4096)] | None = Field(
        None, description="side, or [height, width], to which maps are averaged for the assigners"
        " [as they are]")
    weights: Literal["map", "channel"] = Field("map", description="what an assigner weighs")
    gamma1: float = Field(0.1, ge=0)
    gamma2: float = Field(0.1, ge=0)
    steps: int = Field(2500, ge=1, description="of the optimiser")
    batch: int = Field(BATCH, ge=1, description="pairs, images or pixels of a step")
    lr: float = Field(5e-4, gt=0)
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="of lr after the warm-up: as it is, or half a cosine down to 0")
    warmup: float = Field(0, ge=0, lt=1, description="share of the steps in which lr rises first")
    weight_decay: float = Field(0.01, ge=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    hidden: int = Field(128, ge=1)
    seed: int = Field(0, ge=0, lt=2**63)
    shuffle: int | None = Field(None, ge=0, lt=2**63,
                                description="seed of the order alone [seed]")
    validate_steps: int = Field(125, ge=1, description="between validations [a quarter of the steps"
                                " where those are fewer than four times the default]")
    patience: int | None = Field(None, ge=1, description="validations without gain before it stops")
    amp: bool = Field(False, description="bfloat16 autocast where there is a GPU")
    pairs: int | None = Field(None, ge=1, repr=False, description="first release: in items")
    validate_every: int | None = Field(None, ge=1, repr=False,
                                       description="first release: in items")

    @property
    def items(self) -> int:
        """Items that training sees, repeats included."""
        return self.pairs or self.steps * self.batch

    @property
    def validate_items(self) -> int:
        """Items between validations."""
        return self.validate_every or self.validate_steps * self.batch

    @model_validator(mode="before")
    @classmethod
    def _spelling(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, dict):
            return data
        return in_steps(options_in_head(of_a_run(data) if info.context == OF_A_RUN else data))

    @model_validator(mode="after")
    def _of_head(self) -> Self:
        defaults = {k: v for k, v in head_of(self.head.name).defaults.items()
                    if k not in self.model_fields_set}
        if strange := defaults.keys() - type(self).model_fields.keys():
            raise PydanticCustomError(TOLD, f"head '{self.head.name}' has a default for"
                                      f" '{min(strange)}', which is no field of train")
        if self.assigner_resolution and head_of(self.head.name).task in ("pixels",
                                                                         "classification"):
            raise PydanticCustomError(TOLD, f"assigner_resolution: head '{self.head.name}' weighs"
                                      " no maps, but pixels or means of them")
        if self.mix and (self.mix.projection or self.mix.pca) and \
                head_of(self.head.name).task == "segmentation":
            raise PydanticCustomError(TOLD, f"mix: head '{self.head.name}' projects every map"
                                      " itself; leave projection and pca out")
        # Not by assignment: it is frozen, and what the manifest itself says is to stay known as set
        self.__dict__.update(defaults)
        for items, steps in COUNTS.items():
            if count := getattr(self, items):
                number = -(-count // self.batch)
                if steps in self.model_fields_set and getattr(self, steps) != number:
                    raise PydanticCustomError(
                        TOLD, f"gives {items} and {steps}; give {steps} alone")
                self.__dict__[steps] = number
        if not {"validate_steps", "validate_every"} & self.model_fields_set:  # of the final steps
            self.__dict__["validate_steps"] = min(self.validate_steps, -(-self.steps // FEWEST))
        return self

    @model_serializer(mode="wrap")
    def _without_old(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {k: v for k, v in plain(self).items() if v is not None or k not in COUNTS}

    @classmethod
    def why_unknown(cls, field: str, data: Any) -> str:
        """Where a field that is none belongs; for messages."""
        name = head_name(data) if isinstance(data, dict) else HEAD
        if field in option_names(name):
            return f"; it is an option of the head: write head: {{name: {name}, {field}: …}}"
        near = did_you_mean(field, option_names(name))
        owners = whose(field)
        return f"; head '{name}' has no such option{near}{owners}" if near or owners else ""


def in_todays_words(train: Any) -> Any:
    """The plain data of ``train`` in a run's files, whatever release wrote them.

    Raises
    ------
    ValueError
        It is no such section.
    """
    return TrainSpec.model_validate(train, context=OF_A_RUN).model_dump(mode="json")


def options_in_head(train: dict[str, Any]) -> dict[str, Any]:
    """The same with flat options of the chosen head inside ``head``; others are left to refuse."""
    head = train.get("head", HEAD)
    name = head_name(train)
    flat = {k: v for k, v in train.items() if k in FLAT and k in option_names(name)}
    if not flat or not isinstance(head, str | dict):
        return train
    inside = head if isinstance(head, dict) else {"name": head}
    rest = {k: v for k, v in train.items() if k not in flat or k in inside}
    return {**rest, "head": {**flat, **inside}}


def of_a_run(train: dict[str, Any]) -> dict[str, Any]:
    """A section as runs of the first release hold it, without the options of all other heads.

    That release searched matches at cells' centres and read other attention maps; its figures stay
    so.
    """
    own, head = option_names(head_name(train)), train.get("head", HEAD)
    section = {**WERE, **{k: v for k, v in train.items() if k not in FLAT or k in own}}
    inside = head if isinstance(head, dict) else {"name": head}
    given = {*inside, *train}
    if newer := {k: v for k, v in HEADS_WERE.items() if k in own and k not in given}:
        section["head"] = {**inside, **newer}
    if "attention_in" not in train and not train.get("attention_maps"):
        section["attention_maps"] = TWO_FINEST
    return section


def in_steps(train: dict[str, Any]) -> dict[str, Any]:
    """The same with numbers of items as numbers of steps, where they are whole batches."""
    batch = _batch(train)
    section = dict(train)
    for items, steps in COUNTS.items():
        count = train.get(items)
        if type(count) is int and count > 0 and count % batch == 0 and steps not in train:
            section[steps] = count // batch
            del section[items]
    return section


def old_spellings(train: dict[str, Any]) -> dict[str, str]:
    """What to write instead of the first release's spelling, by field."""
    batch, name, advice = _batch(train), head_name(train), dict[str, str]()
    flat = {k: v for k, v in train.items() if k in FLAT and k in option_names(name)}
    if flat:
        written = ", ".join(f"{k}: {_plain(v)}" for k, v in flat.items())
        advice[next(iter(flat))] = f"write head: {{name: {name}, {written}}}; {UNTIL}"
    for items, steps in COUNTS.items():
        count = train.get(items)
        if type(count) is int and count > 0:
            advice[items] = (f"counts items, in batches of {batch}; write {steps}:"
                             f" {-(-count // batch)}; {UNTIL}")
    return advice


def head_name(train: dict[str, Any]) -> str:
    """The head of a section that need not be sound."""
    head = train.get("head", HEAD)
    return str(head.get("name", "") if isinstance(head, dict) else head)


def _batch(train: dict[str, Any]) -> int:
    try:
        batch = train.get("batch", head_of(head_name(train)).defaults.get("batch", BATCH))
    except UserError:
        batch = BATCH
    return batch if type(batch) is int and batch > 0 else BATCH


def _plain(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
