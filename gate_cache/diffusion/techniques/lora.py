"""LoRA: one or several at once, each with its scale (paper, A.3)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import ModelError, did_you_mean
from gate_cache.core.roots import Roots
from gate_cache.diffusion.models.digest_cache import remembered_sha256
from gate_cache.diffusion.models.embedded import LORAS
from gate_cache.diffusion.techniques.base import Steering, Technique
from gate_cache.manifest.specs import LoraSpec

if TYPE_CHECKING:
    from gate_cache.diffusion.lora.adapters import Loras
    from gate_cache.diffusion.models.backbone import Backbone


class Lora(Technique[list[LoraSpec]]):
    """``lora`` of a combo."""

    name = "lora"
    place = "model"
    needs_text = True

    def title(self) -> str:
        names = [lora.source.rsplit("/", 1)[-1].removesuffix(".safetensors") for lora in self.spec]
        return ", ".join(f"LoRA {name} {lora.scale:g}"
                         for name, lora in zip(names, self.spec, strict=True))

    def settings(self) -> Any:
        return [lora.scale for lora in self.spec]

    def sources(self) -> Any:
        return [lora.source for lora in self.spec]

    def check(self, roots: Roots, download: bool = False) -> None:
        for lora in self.spec:
            self._file(lora, roots)

    def digests(self, roots: Roots) -> Any:
        return [remembered_sha256(self._file(lora, roots)) for lora in self.spec]

    def open(self, model: Backbone, roots: Roots) -> Steering:
        from gate_cache.diffusion.lora.adapters import Loras

        loras: Loras = model.once("loras", lambda: Loras(model))
        digests = self.digests(roots)
        for lora, digest in zip(self.spec, digests, strict=True):
            loras.load(digest, lora.source, self._file(lora, roots))
        return _Switched(loras, list(zip(digests, self.settings(), strict=True)))

    def _file(self, lora: LoraSpec, roots: Roots) -> Path:
        if lora.source in LORAS:
            return LORAS[lora.source]
        where = f"{self.combo}.lora.source"
        path = roots.below("models", lora.source, where)
        if not path.is_file():
            raise ModelError(f"{where}: {path}: no such LoRA file"
                             f"{did_you_mean(lora.source, LORAS)}; put it there, or name the models"
                             " root with --models")
        if path.suffix != ".safetensors":
            raise ModelError(f"{where}: {path}: not a .safetensors file; pickled weights are not"
                             " read")
        return path


class _Switched(Steering):
    """LoRAs, by digest with their scales, switched on together."""

    def __init__(self, loras: Loras, wanted: list[tuple[str, float]]) -> None:
        self._loras = loras
        self._wanted = wanted

    def active(self) -> AbstractContextManager[object]:
        return self._loras.active(self._wanted)
