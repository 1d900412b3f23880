"""IP-Adapter: the input image itself as a prompt (Ye et al. 2023), plain or Plus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import ModelError
from gate_cache.core.roots import Roots
from gate_cache.diffusion.models.digest_cache import remembered_sha256
from gate_cache.diffusion.models.sources import folder_digest
from gate_cache.diffusion.techniques.base import Extra, Inputs, Steering, Technique
from gate_cache.manifest.specs import IPAdapterSpec

if TYPE_CHECKING:
    from gate_cache.diffusion.models.backbone import Backbone

_PLAIN, _PLUS = "proj.weight", "latents"


class IPAdapter(Technique[IPAdapterSpec]):
    """``ip_adapter`` of a combo."""

    name = "ip_adapter"
    place = "model"
    needs_text = True

    def title(self) -> str:
        return f"IP-Adapter {self.spec.scale:g}"

    def settings(self) -> Any:
        return {"scale": self.spec.scale}

    def sources(self) -> Any:
        return [self.spec.source, self.spec.image_encoder]

    def check(self, roots: Roots, download: bool = False) -> None:
        self._files(roots)

    def digests(self, roots: Roots) -> Any:
        file, encoder = self._files(roots)
        return [remembered_sha256(file), folder_digest(encoder, None)]

    def _files(self, roots: Roots) -> tuple[Path, Path]:
        """The adapter's file and its image encoder's folder."""
        where = f"{self.combo}.ip_adapter"
        file = roots.below("models", self.spec.source, f"{where}.source")
        encoder = roots.below("models", self.spec.image_encoder, f"{where}.image_encoder")
        if file.suffix != ".safetensors" or not file.is_file():
            raise ModelError(f"{where}.source: {file}: no such .safetensors file; put the adapter"
                             " there (pickled ones are not read)")
        if not encoder.is_dir():
            raise ModelError(f"{where}.image_encoder: {encoder}: no such folder; put config.json"
                             " and safetensors of its CLIP image encoder there")
        return file, encoder

    def open(self, model: Backbone, roots: Roots) -> Steering:
        files = self._files(roots)
        loaded = model.once(("ip_adapter", *files), lambda: _Loaded(model, *files))
        return _Prompted(model, loaded, self.spec.scale)


class _Loaded:
    """An adapter's attention processors and image projection beside a UNet that is not changed."""

    def __init__(self, model: Backbone, file: Path, encoder: Path) -> None:
        from transformers import CLIPVisionModelWithProjection

        from gate_cache.diffusion.lora.adapters import read_safetensors
        from gate_cache.diffusion.models.backbone import pretrained

        state = _grouped(file, read_safetensors(file))
        self.plus = _PLUS in state["image_proj"]
        net = pretrained(CLIPVisionModelWithProjection, encoder, None, None)
        self.encoder = net.to(model.device, model.dtype).requires_grad_(False).eval()
        with _restored(model.unet):
            try:
                model.unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
            except Exception as error:
                reason = " ".join(str(error).split())[:200]
                raise ModelError(f"{file}: this IP-Adapter does not fit the model: {reason}"
                                 ) from error
            self.projection, model.unet.encoder_hid_proj = model.unet.encoder_hid_proj, None
            self.processors = dict(model.unet.attn_processors)
        used = sum(len(p.state_dict()) for p in self.processors.values() if _is_adapted(p))
        if used != len(state["ip_adapter"]):
            raise ModelError(f"{file}: only {used} of its {len(state['ip_adapter'])} tensors fit"
                             " this model; is it made for another one?")
        for part in (self.projection, *filter(_is_adapted, self.processors.values())):
            part.to(model.device, model.dtype).requires_grad_(False)


class _Prompted(Steering):
    """The adapter with a scale."""

    def __init__(self, model: Backbone, loaded: _Loaded, scale: float) -> None:
        self._model = model
        self._loaded = loaded
        self._scale = scale

    @contextmanager
    def active(self) -> Iterator[None]:
        unet, loaded = self._model.unet, self._loaded
        with _restored(unet):
            for processor in filter(_is_adapted, loaded.processors.values()):
                processor.scale = [self._scale]
            unet.set_attn_processor(dict(loaded.processors))
            unet.encoder_hid_proj = loaded.projection
            unet.config.encoder_hid_dim_type = "ip_image_proj"
            yield

    def batch(self, inputs: Inputs, rows: Sequence[int]) -> Extra:
        embeds = self._embeds(inputs.images(rows))
        return lambda _call: {"added_cond_kwargs": {"image_embeds": [embeds]}}

    def _embeds(self, images: Any) -> Any:
        """(B, 1, D) embeddings of (B, H, W, 3) images, for Plus (B, 1, T, D) of the patches."""
        import torch
        from torch.nn.functional import interpolate
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        net, place = self._loaded.encoder, self._model.device
        pixels = torch.from_numpy(images).to(place).permute(0, 3, 1, 2).float() / 255
        side = (net.config.image_size,) * 2
        pixels = interpolate(pixels, side, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(v, device=place).view(1, 3, 1, 1)
                     for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        out = net(((pixels - mean) / std).to(self._model.dtype),
                  output_hidden_states=self._loaded.plus)
        return (out.hidden_states[-2] if self._loaded.plus else out.image_embeds)[:, None]


def _grouped(file: Path, state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``image_proj.…`` and ``ip_adapter.…`` apart, as diffusers takes them."""
    found: dict[str, dict[str, Any]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        found.setdefault(part, {})[rest] = value
    kind = found["image_proj"].keys() & {_PLAIN, _PLUS}
    if len(found) > 2 or not kind or any("lora" in k for k in found["ip_adapter"]):
        raise ModelError(f"{file}: not an IP-Adapter of the plain or the Plus variant")
    return found


def _is_adapted(processor: Any) -> bool:
    return hasattr(processor, "to_k_ip")


@contextmanager
def _restored(unet: Any) -> Iterator[None]:
    """Leave a UNet's processors and projection as they are."""
    processors, projection = dict(unet.attn_processors), unet.encoder_hid_proj
    kind = unet.config.encoder_hid_dim_type
    try:
        yield
    finally:
        unet.encoder_hid_proj = projection
        unet.config.encoder_hid_dim_type = kind
        unet.set_attn_processor(processors)
