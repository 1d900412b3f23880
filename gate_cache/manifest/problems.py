"""pydantic's validation errors as lines for a person: place, what is wrong, what was meant."""

from __future__ import annotations

import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from gate_cache.core.errors import TOLD, did_you_mean
from gate_cache.core.plugins import installed
from gate_cache.manifest.dataset_specs import GROUP, installed_spec
from gate_cache.manifest.yaml_source import Place

_TEXTS = {
    "missing": "required, but not given",
    "model_type": "expected a mapping, got {got}",
    "model_attributes_type": "expected a mapping, got {got}",
    "dict_type": "expected a mapping, got {got}",
    "list_type": "expected a list, got {got}",
    "string_type": "expected text, got {got} (quote it if it is meant as text)",
    "int_type": "expected a whole number, got {got}",
    "bool_type": "expected true or false, got {got}",
    "float_type": "expected a number, got {got}",
    "int_from_float": "expected a whole number, got {got}",
    "greater_than_equal": "must be at least {ge}, got {got}",
    "greater_than": "must be more than {gt}, got {got}",
    "less_than_equal": "must be at most {le}, got {got}",
    "less_than": "must be less than {lt}, got {got}",
    "finite_number": "must be a finite number, got {got}",
    "too_short": "must not be empty", "string_too_short": "must not be empty",
}


def explain(error: ValidationError, model: type[BaseModel], data: Any) -> list[tuple[Place, str]]:
    """List every problem as (place in the document, message)."""
    messages: dict[Place, str] = {}
    for item in error.errors(include_url=False):
        place, holder, there = _place(item["loc"], model, data)
        # pydantic lists an error for each branch of a union: one a place is shown
        messages.setdefault(place, _text(dict(item), place, holder, there))
    return list(messages.items())


def _text(item: dict[str, Any], place: Place, holder: Any, there: Any) -> str:
    kind, got = item["type"], _shown(item.get("input"))
    ctx = item.get("ctx") or {}
    if kind == TOLD:
        return str(item["msg"])
    if kind == "extra_forbidden":
        field, fields = str(place[-1]), _field_names(holder)
        about = getattr(holder, "why_unknown", None)
        why = about(field, there) if about else ""
        near = "" if why else did_you_mean(field, fields)
        return f"unknown field{near}{why}; known: {', '.join(fields)}"
    if kind == "literal_error":
        choices = str(ctx.get("expected", ""))
        near = did_you_mean(str(item.get("input")), re.findall(r"'([^']*)'", choices))
        return f"expected {choices}, got {got}{near}"
    if kind == "union_tag_invalid":
        tags = ", ".join([str(ctx.get("expected_tags", "")).replace("'", ""), *installed(GROUP)])
        near = did_you_mean(str(ctx.get("tag", "")), tags.split(", "))
        return f"unknown name '{ctx.get('tag')}'{near}; known: {tags}"
    if kind == "union_tag_not_found":
        return "needs a 'name'"
    template = _TEXTS.get(kind)
    return template.format(got=got, **ctx) if template \
        else f"{item['msg'].removeprefix('Value error, ')} (got {got})"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return repr(value) if len(repr(value)) <= 40 else repr(value)[:37] + "…'"


def _place(loc: tuple[Any, ...], model: Any, data: Any) -> tuple[Place, Any, Any]:
    """Drop what pydantic adds to a place (union tags); the type that holds it, and its data."""
    place: list[str | int] = []
    kind: Any = model
    holder, there = model, data
    for part in loc:
        tag = _tagged(kind) and isinstance(data, dict) and part == data.get("name")
        kind = _bare(kind, data)
        if tag:
            continue  # a tag may be called like a field
        if isinstance(part, int) and isinstance(data, dict) and part not in data:
            kind = _inner(kind, part)  # one mapping given where a list of them is allowed
            continue
        if isinstance(data, dict) and part not in data and part not in _field_names(kind):
            continue  # a union's tag or branch
        if not isinstance(data, dict | list) or (
                isinstance(data, list) and not isinstance(part, int)):
            break  # a scalar has no parts: what follows names a union's branch
        place.append(part if isinstance(data, list) else str(part))
        holder, there, kind, data = kind, data, _inner(kind, part), _item(data, part)
    return tuple(place), holder, there


def _item(data: Any, part: Any) -> Any:
    if isinstance(data, dict):
        return data.get(part)
    if isinstance(data, list) and isinstance(part, int) and part < len(data):
        return data[part]
    return None


def _sections(kind: Any) -> list[type[BaseModel]]:
    """The kinds of section that a type may be."""
    members = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return [m for m in members if isinstance(m, type) and issubclass(m, BaseModel)]


def _field_names(kind: Any) -> list[str]:
    """Names in manifests, but for those of an earlier release (``repr=False``)."""
    return list(dict.fromkeys(field.alias or name for section in _sections(kind)
                              for name, field in section.model_fields.items() if field.repr))


def _inner(kind: Any, part: Any) -> Any:
    """The type found at `part` of a value of type `kind`."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is dict:
        return args[1]
    if origin is list:
        return args[0]
    return next((field.annotation for section in _sections(kind)
                 for name, field in section.model_fields.items() if part in (name, field.alias)),
                None)


def _tagged(kind: Any) -> bool:
    """Whether a type is one of several kinds of sections."""
    return len(_sections(get_args(kind)[0] if get_origin(kind) is Annotated else kind)) > 1


def _bare(kind: Any, data: Any) -> Any:
    """Strip Annotated and Optional; choose a tagged union's member by the data's tag."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if hasattr(kind, "of_data"):  # options of a head, which its name chooses
        return kind.of_data(data)
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    members = [m for m in get_args(kind) if m is not type(None)]
    if isinstance(data, dict):
        for member in members:
            tag = getattr(member, "model_fields", {}).get("name")
            if tag and get_origin(tag.annotation) is Literal \
                    and data.get("name") in get_args(tag.annotation):
                return member
        if other := installed_spec(data.get("name")):  # no union but that of data sets has names
            return other
    return members[0] if len(members) == 1 else kind
