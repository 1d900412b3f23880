"""What is wrong across a manifest's fields: names that refer to others, settings that exclude."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gate_cache.core.errors import did_you_mean
from gate_cache.core.features import MANTISSA_BITS
from gate_cache.manifest.dataset_specs import Shared
from gate_cache.manifest.heads import PixelSpec, head_of
from gate_cache.manifest.specs import CAPTION, SINGLE_FILE, Combo, Manifest
from gate_cache.manifest.store_specs import StoreSpec
from gate_cache.manifest.yaml_source import Place

Problem = tuple[Place, str]


def problems_across(manifest: Manifest) -> list[Problem]:
    """Place and text of each problem of a manifest whose fields are sound one by one."""
    problems = list[Problem]()
    if not manifest.combos:
        problems.append(((), "no combo to extract: give at least one below 'conv' or 'attention'"))
    problems += [(("attention", n), "this name is also a combo of 'conv'")
                 for n in manifest.attention if n in manifest.conv]
    for section, combos in (("conv", manifest.conv), ("attention", manifest.attention)):
        for name, combo in combos.items():
            problems += _check_combo((section, name), combo)
            if combo.captioned and not manifest.captions:
                problems.append(((section, name, "prompt"), f"has {CAPTION}, but no 'captions' file"
                                 " is named at the top; 'gate-cache caption' writes one"))
        problems += _check_twins(section, {
            name: combo.model_copy(update={"model": manifest.model_name(combo)})
            for name, combo in combos.items()})
    data = manifest.dataset
    for name, model in manifest.every_model.items():
        if model.config and not any(s.lower().endswith(SINGLE_FILE) for s in model.sources):
            problems.append(((*(("models", name) if name else ("model",)), "config"),
                             f"is for a single {SINGLE_FILE} file, and 'source' names none"))
    if isinstance(data, Shared) and data.val + data.test >= 1:
        problems.append((("dataset", "test"), "val and test together leave nothing to train on"))
    return problems + _check_store(manifest.store) + _check_train(manifest)


def _check_store(store: StoreSpec) -> list[Problem]:
    place, bits = ("store", "keep_bits"), MANTISSA_BITS.get(store.dtype, 0)
    if store.keep_bits is None:
        return []
    if store.keep_bits >= bits:
        why = f"{store.dtype} has {bits} bits to keep some of" if bits else \
            f"is for float16 and float32, not for {store.dtype}"
        return [(place, why)]
    return [] if store.codec else [(place, "saves no bytes by itself: set 'codec: zstd' as well")]


def _check_combo(place: Place, combo: Combo) -> list[Problem]:
    problems: list[Problem] = []
    if combo.noise == "none":
        problems += [((*place, field), why) for field, why in _without_noise(combo)]
    if combo.denoise and combo.denoise.start - combo.t < combo.denoise.steps:
        problems.append(((*place, "denoise"), f"needs 'from' at least 'steps' above t = {combo.t}"))
    if combo.guidance and not combo.denoise:
        problems.append(((*place, "guidance"), "guides denoising steps, and there is no 'denoise'"))
    if combo.controlnet and combo.controlnet.low > combo.controlnet.high:
        problems.append(((*place, "controlnet", "low"), "Canny's low threshold is above the high"))
    if len({lora.source for lora in combo.lora}) < len(combo.lora):
        problems.append(((*place, "lora"), "a LoRA is named twice; give it once, with one scale"))
    own, other = ("up", "attn") if place[0] == "conv" else ("attn", "up")
    for i, name in enumerate(combo.maps or ()):
        if re.fullmatch(rf"{other}\d", name) or not re.fullmatch(r"[a-z]\w*(\.\w+)*", name):
            problems.append(((*place, "maps", i),
                             f"'{name}' is not a map of {place[0]} combos: {own}0, {own}1, …"))
    return problems


def _without_noise(combo: Combo) -> Iterator[tuple[str, str]]:
    """What is wrong with a combo whose latent is left as it is."""
    if "t" not in combo.model_fields_set:
        yield "t", "required with 'noise: none': the UNet's timestep (261 for CleanDIFT)"
    if "seed" in combo.model_fields_set:
        yield "seed", "has no effect with 'noise: none'; leave it out"
    if combo.ensemble > 1:
        yield "ensemble", "is a mean over noises, and 'noise: none' has none"
    if combo.denoise:
        yield "denoise", "takes noise away, and 'noise: none' has none"


def _check_twins(section: str, combos: dict[str, Combo]) -> list[Problem]:
    first: dict[str, str] = {}
    problems: list[Problem] = []
    for name, combo in combos.items():
        twin = first.setdefault(combo.model_dump_json(), name)
        if twin != name:
            problems.append(((section, name), f"has the same settings as '{twin}' and would yield"
                             " the same maps"))
    return problems


def _check_train(manifest: Manifest) -> list[Problem]:
    train, problems = manifest.train, list[Problem]()
    references: dict[Place, str | None] = {
        ("train", "combos", i): name for i, name in enumerate(train.combos or ())}
    references["train", "baseline"] = train.baseline
    for place, name in references.items():
        if name is not None and name not in manifest.conv:
            problems.append((place, f"'{name}' is not a combo of 'conv'"
                             f"{did_you_mean(name, manifest.conv)}"))
    if train.combos and len(set(train.combos)) < len(train.combos):
        problems.append((("train", "combos"), "a combo is named twice"))
    extra = train.head.extra if isinstance(train.head, PixelSpec) else None
    problems += [(("train", "head", "extra", i), f"'{name}' is among train.combos: a combo is"
                  " amalgamated or concatenated") for i, name in enumerate(extra or ())
                 if name in (train.combos or ())]
    if isinstance(train.attention, str) and train.attention not in manifest.attention:
        problems.append((("train", "attention"), f"'{train.attention}' is not a combo of"
                         f" 'attention'{did_you_mean(train.attention, manifest.attention)}"))
    if train.attention_in == "bucket":
        problems += [(("train", "attention_in"), why) for why in _not_inside(manifest)]
    return problems


def _not_inside(manifest: Manifest) -> Iterator[str]:
    """Why attention cannot be mixed."""
    name = manifest.train.head.name
    if not manifest.attention:
        yield "there is no combo of 'attention' to put into the bucket"
    if head_of(name).task == "segmentation":
        yield (f"head '{name}' is given attention level by level, behind what is mixed; leave it"
               " out, or choose 'head'")
