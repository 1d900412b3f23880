"""The list of a store's groups and arrays in its own ``zarr.json``: Zarr's consolidated metadata.

For readers where folders cannot be listed, as on most web servers. A writer that ends brings it up
to date; until then, or after a kill, it says what was there before, which is still there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gate_cache.store.format.attrs import META, read_array, read_meta
from gate_cache.store.format.documents import Document, dumped
from gate_cache.store.format.layout import DONE

if TYPE_CHECKING:
    from gate_cache.store.places.folders import Folder

LISTING = "consolidated_metadata"


def collected(folder: Folder) -> Document:
    """The list as the store is now."""
    nodes: dict[str, Document] = {}
    for name in folder.names():
        group = read_meta(folder, name)
        if name == META or group is None or group.get("node_type") != "group":
            continue
        nodes[name] = group
        for array in folder.names(name):
            if array != META and (document := read_meta(folder, f"{name}/{array}")):
                nodes[f"{name}/{array}"] = document
    return {"kind": "inline", "must_understand": False, "metadata": nodes}


def write_listing(folder: Folder) -> None:
    """Bring the list up to date; nothing is written where it is."""
    own, now = read_meta(folder), collected(folder)
    if own is not None and own.get(LISTING) != now:
        folder.write(META, [dumped({**own, LISTING: now})])


def listed_names(folder: Folder, key: str) -> list[str] | None:
    """What is directly below a key by the list; None where there is none, or it does not say."""
    listing = (read_meta(folder) or {}).get(LISTING)
    nodes = listing.get("metadata") if isinstance(listing, dict) else None
    if not isinstance(nodes, dict):
        return None
    group, _, rest = key.partition("/")
    if rest == f"{DONE}/c":
        marks = read_array(folder, f"{group}/{DONE}")
        return [str(i) for i in range(-(-marks.shape[0] // marks.block))] if marks else []
    if rest:
        return None
    start = f"{key}/" if key else ""
    below = {name.removeprefix(start).partition("/")[0] for name in nodes if name.startswith(start)}
    return sorted(filter(str.isprintable, {META, *below}))
