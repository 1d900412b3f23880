"""The manifest: one YAML file that names a data set, a model, the combos and the store.

Typed and validated without torch, numpy or zarr, so that ``validate`` and ``plan`` are instant.
All problems are reported at once (`gate_cache.manifest.problems`), each with its line and place.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from gate_cache.core.errors import ManifestError, OldSpelling, UserError, did_you_mean
from gate_cache.manifest.checks import Problem, problems_across
from gate_cache.manifest.heads import head_of, option_names
from gate_cache.manifest.problems import explain
from gate_cache.manifest.specs import Manifest
from gate_cache.manifest.train_spec import COUNTS, FLAT, head_name, old_spellings
from gate_cache.manifest.yaml_source import Parsed, Place, dotted, read_yaml

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


class Loaded(BaseModel):
    """A manifest and the file it came from."""

    model_config = ConfigDict(frozen=True)
    path: Path
    manifest: Manifest

    @property
    def store_path(self) -> str:
        """The store's path below the stores root: given, or the manifest's own name."""
        return self.manifest.store.path or f"{self.path.stem}.zarr"


def load(path: Path, overrides: dict[str, Any] | None = None) -> Loaded:
    """Read and check a manifest.

    Parameters
    ----------
    path : of the YAML file
    overrides : fields of ``train`` given on the command line, by name

    Raises
    ------
    ManifestError
        With every problem found, one line each.
    """
    return checked(path, read_yaml(path), overrides)


def checked(path: Path, parsed: Parsed, overrides: dict[str, Any] | None = None) -> Loaded:
    """As `load`, of a file that is read already."""
    data = parsed.data
    if not isinstance(data, dict):
        raise ManifestError([f"{path.name}: expected a mapping with dataset, model, conv …"])
    data = {k: v for k, v in data.items() if not str(k).startswith("x-")}  # the user's, for anchors
    places = parsed.lines
    if isinstance(data.get("train") or {}, dict) and (overrides or data.get("train")):
        file, options = data.get("train") or {}, overrides or {}
        _tell_old(path, places, {**file, **options}, options)
        data["train"] = overridden(file, options)
        places = {**{_moved(place): line for place, line in places.items()}, **places}
    manifest, problems = _validated(data)
    lines = parsed.problems + [_line(path, places, place, text) for place, text in problems]
    if lines or manifest is None:
        raise ManifestError(lines)
    return Loaded(path=path, manifest=manifest)


def overridden(train: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """A ``train`` section with what a command line or a sweep says.

    Another head brings its own options: those of the section's head go with it. So do numbers of
    steps, where the other head has its own: 100 steps of 4 pairs are few pixels.

    Parameters
    ----------
    train : as the file has it
    given : fields of ``train``; ``head.option`` is one option of the head
    """
    old, new = head_name(train), head_name({**train, **given})
    own, file = option_names(new), train.get("head")
    base = {k: v for k, v in train.items() if new == old or k not in FLAT or k in own
            or k not in option_names(old)}
    replaced = given.keys() | (_defaults(new).keys() if new != old else set())
    for pair in COUNTS.items():  # two spellings of one setting
        if replaced & set(pair):
            base = {k: v for k, v in base.items() if k not in pair}
    heads = [h for h in (file if new == old else None, given.get("head")) if isinstance(h, dict)]
    twice = file if isinstance(file, dict) else ()  # in the file: refused
    parts = [  # later ones win: flat options of the file, heads, flat options given, head.option
        {k: v for k, v in base.items() if k in FLAT and k in own and k not in twice}, *heads,
        {k: v for k, v in given.items() if k in FLAT and k in own},
        {k.removeprefix("head."): v for k, v in given.items() if k.startswith("head.")}]
    options = {k: v for part in parts for k, v in part.items() if k != "name"}
    rest = {k: v for k, v in {**base, **given}.items()
            if k not in parts[0] and k not in parts[-2] and not k.startswith("head.")}
    head = rest.get("head")
    if new and (head is None or isinstance(head, str | dict)):  # else it is refused as it is
        head = {"name": new, **options} if options else head and new
    return {**rest, "head": head} if head is not None else rest


def _defaults(head: str) -> Mapping[str, Any]:
    try:
        return head_of(head).defaults
    except UserError:  # told where the head is checked
        return {}


def _tell_old(path: Path, lines: dict[Place, int], train: dict[str, Any],
              overrides: dict[str, Any]) -> None:
    """Warn of each spelling of the first release, in the file or `overrides`; once a process."""
    for field, text in old_spellings(train).items():
        place: Place = ("train", field)
        line = f"{dotted(place)}: {text}" if field in overrides else _line(path, lines, place, text)
        warnings.warn(line, OldSpelling, stacklevel=1)


def _moved(place: Place) -> Place:
    """Where a field of the first release is now."""
    if len(place) > 1 and place[0] == "train" and place[1] in FLAT:
        return ("train", "head", *place[1:])
    return place


def _validated(data: dict[str, Any]) -> tuple[Manifest | None, list[Problem]]:
    plain = _check_names(data) + _check_models(data)
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        return None, explain(error, Manifest, data) + plain
    return manifest, plain + (problems_across(manifest) if manifest.only or manifest.models else [])


def _line(path: Path, lines: dict[Place, int], place: Place, text: str) -> str:
    nearest = place  # a field that is missing has no line: that of the section it is missing in
    while nearest and nearest not in lines:
        nearest = nearest[:-1]
    at = f":{lines[nearest]}" if nearest in lines else ""
    where = f" {dotted(place)}:" if place else ""
    return f"{path.name}{at}:{where} {text}"


def _check_names(data: dict[str, Any]) -> list[Problem]:
    """Checks that need no typed manifest, so that they show beside typing problems."""
    problems = list[Problem]()
    for section in ("conv", "attention", "models"):
        for name, _ in _items(data.get(section)):
            if not NAME.fullmatch(name):
                what = "model" if section == "models" else "combo"
                problems.append(((section, name), f"a {what}'s name is lower-case letters, digits,"
                                 " '-', '_' and '.', starting with a letter or digit"))
            elif name in ("samples", "latents") or name.startswith("latents-"):
                problems.append(((section, name), "this name is taken by the store itself"))
    return problems


def _check_models(data: dict[str, Any]) -> list[Problem]:
    """As `_check_names`: one model, or several by name, and which a combo is of."""
    models, problems = data.get("models") or {}, list[Problem]()
    if bool(models) == bool(data.get("model")):
        problems.append((("model",), "give 'models' or 'model', not both") if models else
                         (("model",), "required, but not given; 'models' names several"))
    combos = {(section, name): combo for section in ("conv", "attention")
              for name, combo in _items(data.get(section)) if isinstance(combo, dict)}
    known = dict(_items(models))
    named = {place: model for place, combo in combos.items()
             if isinstance(model := combo.get("model") or next(iter(known), ""), str)}
    problems += [((*place, "model"), f"'{model}' is not a model of this manifest"
                  f"{did_you_mean(model, known)}")
                 for place, model in named.items() if model not in ("", *known)]
    used = set(named.values())
    problems += [(("models", name), "no combo is of this model; leave it out, or say 'model:"
                  f" {name}' in one") for name in known if name not in used]
    return problems


def _items(section: Any) -> list[tuple[str, Any]]:
    return [(str(k), v) for k, v in section.items()] if isinstance(section, dict) else []
