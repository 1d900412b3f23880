"""What techniques are compared with: the same model without any (paper, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import UserError
from gate_cache.diffusion.techniques.registry import techniques
from gate_cache.manifest.specs import Combo

if TYPE_CHECKING:
    from gate_cache.diffusion.models.sources import ModelFiles

PROMPT = "a photo"
"""Of the reference, unless it is given: it says nothing of what the image shows."""
ONE_PASS: dict[str, Any] = {"t": 0, "seed": 0, "ensemble": 1, "noise": "gaussian", "mirror": False,
                            "maps": None}
"""What a combo says of the pass that is read, and not of what the model is given beside x_t."""


@dataclass(frozen=True)
class Selection:
    """What is measured, and on which images.

    Attributes
    ----------
    combos : names; by default all of ``conv``
    images : ids, or parts of them; by default some are drawn from the data set
    count : how many are drawn; None for the usual number
    prompt : of the reference, which has no technique; None for `PROMPT`
    batch : images per pass; None for what the manifest says
    """

    combos: Sequence[str] = ()
    images: Sequence[str] = ()
    count: int | None = None
    prompt: str | None = None
    batch: int | None = None


def plain(files: ModelFiles, prompt: str | None, **read: Any) -> Combo:
    """A combo without techniques.

    Parameters
    ----------
    files : of the model
    prompt : of the reference; `PROMPT` where none is given
    read : what of `ONE_PASS` is otherwise

    Raises
    ------
    UserError
        A prompt is given, and the model takes no text.
    """
    if not files.kind.noised:
        raise UserError(f"{files.source}: a vision encoder adds no noise, so its maps have no shift"
                        " to measure")
    if files.family.text:
        return Combo(prompt=PROMPT if prompt is None else prompt, **{**ONE_PASS, **read})
    if prompt is not None:
        raise UserError(f"--prompt: {files.source} takes no text")
    return Combo(**{**ONE_PASS, **read})


def techniques_of(combo: Combo) -> str:
    """A combo's techniques in a few words; its prompt is not among them."""
    titles = [technique.title() for technique in techniques("", combo)]
    if combo.guidance:
        titles.append(f"guidance {combo.guidance.scale:g}")
    return ", ".join(titles) or "prompt"
