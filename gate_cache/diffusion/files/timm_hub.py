"""timm, where it is installed, and what it knows of its models on the hub."""

from __future__ import annotations

import json
from typing import Any

from gate_cache.core.errors import ModelError, did_you_mean


def library() -> Any:
    """timm; `ModelError` where it is not installed."""
    try:
        import timm
    except ImportError:
        raise ModelError("timm's models need the library: pip install 'gate-cache[timm]'") from None
    return timm


def known_config(hub_id: str) -> dict[str, Any]:
    """What timm itself knows of one of its models on the hub, as its config.json has it.

    Raises
    ------
    ModelError
        timm is not installed, or has no such model.
    """
    timm, name = library(), hub_id.partition("/")[2]
    if not timm.is_model(name) or name.partition(".")[2] not in ("", *_tags(timm, name)):
        raise ModelError(f"{hub_id}: timm {timm.__version__} has no such model"
                         f"{did_you_mean(name, timm.list_pretrained())}")
    cfg = timm.get_pretrained_cfg(name).to_dict()
    config: dict[str, Any] = json.loads(json.dumps(
        {"architecture": name.partition(".")[0], "pretrained_cfg": cfg}))
    return config


def _tags(timm: Any, name: str) -> list[str]:
    whole = timm.list_pretrained(f"{name.partition('.')[0]}.*")
    return [other.partition(".")[2] for other in whole]
