"""The page beside a store that says what is in it: a data set's card, made from the store alone."""

from __future__ import annotations

import json
import re

from gate_cache.core.places import Place
from gate_cache.store.check.inspect import GroupReport, inspect
from gate_cache.store.format.layout import CARD
from gate_cache.store.opening import open_folder
from gate_cache.store.places.disk import human

_PAGE = """---
tags: [gate-cache, diffusion-features]
viewer: false
---

# {name}

Feature maps of {images} images of the data set {dataset}, {bytes} in all: a
[Zarr](https://zarr.dev) store written by gate-cache {version}.

| combo | model | maps | images | bytes | fingerprint |
|---|---|---|---|---|---|
{rows}

## Load

```bash
gate-cache pull {url} {local}    # --combos, --maps and --images take a part of it
```

```python
from gate_cache import FeatureStore
store = FeatureStore.open("{local}")
features = store["{combo}"]["{map}"][0]    # (C, h, w), of store.samples.ids[0]
```

## Settings

{settings}
"""


def write_card(place: Place) -> str:
    """Write the card of a store into its folder, and return it.

    Raises
    ------
    StoreError
        There is no store.
    """
    report = inspect(place)
    name = place.name
    combos = [g for g in report.groups if g.kind != "latents"] or report.groups
    local = name if name.endswith(".zarr") else f"{name}.zarr"
    text = _PAGE.format(
        name=name, images=report.images, dataset=_cell(report.dataset), bytes=human(report.bytes),
        version=_cell(report.versions.get("gate-cache", "of an earlier release")), url=place,
        local=local,
        rows="\n".join(map(_row, report.groups)), settings="\n\n".join(map(_settings, combos)),
        combo=combos[0].combo if combos else "combo", map=next(iter(combos[0].maps), "map")
        if combos else "map")
    folder = open_folder(place)
    folder.write(CARD, [text.encode()])
    folder.flush()
    return text


def _row(group: GroupReport) -> str:
    maps = ", ".join(f"{name} {tuple(shape[1:])} {stored}"
                     for name, (shape, stored) in group.maps.items())
    return (f"| `{group.combo}` | {_cell(group.model)} | {maps} | {group.done} | "
            f"{human(group.bytes)} | `{group.fingerprint[:16]}` |")


def _settings(group: GroupReport) -> str:
    """Indented, not fenced: no text of a stranger ends it."""
    text = json.dumps(group.settings, indent=2, ensure_ascii=False)
    return f"`{group.name}`\n\n" + "\n".join(f"    {line}" for line in text.splitlines())


def _cell(text: str) -> str:
    """A stranger's text: it makes no link, picture, HTML or cell."""
    return re.sub(r"[\\`*_\[\]<>|&!]", r"\\\g<0>", text)
