"""LoRA: one or several at once, each with its scale (paper, A.3)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate_cache.core.digest_cache import remembered_sha256
from gate_cache.core.errors import ModelError, UserError
from gate_cache.core.fingerprint import fingerprint
from gate_cache.diffusion.lora.file import read_lora
from gate_cache.diffusion.lora.fit import model_layers
from gate_cache.diffusion.lora.source import lora_path
from gate_cache.diffusion.techniques.base import Steering, Technique
from gate_cache.manifest.specs import LoraSpec

if TYPE_CHECKING:
    from gate_cache.core.roots import Roots
    from gate_cache.diffusion.lora.adapters import Loras
    from gate_cache.diffusion.models.backbone import Backbone
    from gate_cache.diffusion.models.sources import ModelFiles


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
            read_lora(lora.source, self._path(lora, roots, download))

    def digests(self, roots: Roots) -> Any:
        digests = [lora_digest(lora.source, self._path(lora, roots)) for lora in self.spec]
        if len(set(digests)) < len(digests):
            raise ModelError(f"{self.combo}.lora: two of its LoRAs have the same weights; give one,"
                             " with one scale")
        return digests

    def fits(self, files: ModelFiles, roots: Roots) -> None:
        if len(self.spec) > 1:
            self.digests(roots)  # which refuses one by two names
        layers = None if files.absent else model_layers(files)
        wrong = []
        for lora in self.spec:
            read = read_lora(lora.source, self._path(lora, roots))
            try:
                if layers:
                    layers.placed(read)
            except UserError as error:
                wrong.append(f"{self.combo}.lora.source: {error}")
        if wrong:
            raise ModelError("\n".join(wrong))

    def open(self, model: Backbone, roots: Roots) -> Steering:
        from gate_cache.diffusion.lora.adapters import Loras

        loras: Loras = model.once("loras", lambda: Loras(model))
        digests = self.digests(roots)
        for lora, digest in zip(self.spec, digests, strict=True):
            loras.load(digest, lora.source, self._path(lora, roots))
        return _Switched(loras, list(zip(digests, self.settings(), strict=True)))

    def _path(self, lora: LoraSpec, roots: Roots, download: bool = False) -> Path:
        return lora_path(lora.source, f"{self.combo}.lora.source", roots, download)


def lora_digest(source: str, path: Path) -> str:
    """What tells a LoRA from others: its file's sha256, and what else decides its strength.

    The sha256 alone stands for a file whose layers release 0.1 gave the strength that it says, so
    that what was extracted with it stays valid.
    """
    sha256, lora = remembered_sha256(path), read_lora(source, path)
    if lora.beside:
        return f"{sha256}:{fingerprint(lora.settings)}"
    return f"{sha256}:layers" if lora.uneven else sha256


class _Switched(Steering):
    """LoRAs, by digest with their scales, switched on together."""

    def __init__(self, loras: Loras, scales: list[tuple[str, float]]) -> None:
        self._loras = loras
        self._scales = scales

    def active(self) -> AbstractContextManager[object]:
        return self._loras.active(self._scales)
