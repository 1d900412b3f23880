"""IP-Adapter: the input image itself as a prompt (Ye et al. 2023), plain, Plus or Full."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate_cache.core.digest_cache import remembered_sha256
from gate_cache.core.errors import ModelError, NotThere
from gate_cache.core.headers import read_config, read_header
from gate_cache.core.weights import folder_digest, weight_files
from gate_cache.diffusion.models.fitting import text_config
from gate_cache.diffusion.models.layouts import TRANSFORMER, UNET
from gate_cache.diffusion.models.unets import cross_attentions
from gate_cache.diffusion.techniques.base import Inputs, Steering, Technique
from gate_cache.manifest.specs import IPAdapterSpec

if TYPE_CHECKING:
    from gate_cache.core.roots import Roots
    from gate_cache.diffusion.models.backbone import Backbone
    from gate_cache.diffusion.models.conditioning import Extra
    from gate_cache.diffusion.models.sources import ModelFiles

_PLAIN, _PLUS, _FULL = "proj.weight", "latents", "proj.3.weight"
_VISION_TYPES = (None, "clip_vision_model", "clip")


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

    def fits(self, files: ModelFiles, roots: Roots) -> None:
        if files.kind.denoiser == TRANSFORMER:
            raise ModelError(f"{self.combo}.ip_adapter: is for UNets, and '{files.source}' has a"
                             " transformer; leave it out")
        file, encoder = self._files(roots)
        weight_files(encoder, self.spec.variant, f"{self.combo}.ip_adapter.variant")
        if whole := read_header(file).whole:
            raise ModelError(f"{file}: '{whole[0]}' holds whole numbers: a quantised file, which is"
                             " not read; take one in float16 or float32")
        problem = _adapter_problem(read_header(file).shapes, files.config(UNET))
        if problem:
            raise ModelError(f"{file}: {problem}")
        problem = _encoder_problem(read_header(file).shapes, read_config(encoder / "config.json"))
        if problem:
            raise ModelError(f"{encoder}: {problem}")

    def digests(self, roots: Roots) -> Any:
        file, encoder = self._files(roots)
        return [remembered_sha256(file), folder_digest(
            encoder, self.spec.variant, f"{self.combo}.ip_adapter.variant")]

    def _files(self, roots: Roots) -> tuple[Path, Path]:
        """The adapter's file and its image encoder's folder."""
        where = f"{self.combo}.ip_adapter"
        file = roots.below("models", self.spec.source, f"{where}.source")
        encoder = roots.below("models", self.spec.image_encoder, f"{where}.image_encoder")
        if file.suffix.lower() != ".safetensors" or not file.is_file():
            kind = ModelError if file.is_file() else NotThere
            raise kind(f"{where}.source: {file}: no such .safetensors file; put the adapter"
                       " there (pickled ones are not read)")
        if not encoder.is_dir():
            raise NotThere(f"{where}.image_encoder: {encoder}: no such folder; put config.json"
                           " and safetensors of its CLIP image encoder there")
        return file, encoder

    def open(self, model: Backbone, roots: Roots) -> Steering:
        files = self._files(roots)
        variant = self.spec.variant
        loaded = model.once(("ip_adapter", *files, variant),
                            lambda: _Loaded(model, *files, variant))
        return _Prompted(model, loaded, self.spec.scale)


class _Loaded:
    """An adapter's attention processors and image projection beside a UNet that is not changed."""

    def __init__(self, model: Backbone, file: Path, encoder: Path, variant: str | None) -> None:
        from transformers import CLIPVisionModelWithProjection

        from gate_cache.diffusion.files.tensors import read_safetensors
        from gate_cache.diffusion.models.modules import need_finite, pretrained

        tensors = read_safetensors(file)
        need_finite(file, tensors.items())
        state = _grouped(file, tensors)
        self.patches = _PLAIN not in state["image_proj"]
        net = pretrained(CLIPVisionModelWithProjection, encoder, variant)
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
        """(B, 1, D) embeddings of (B, H, W, 3) images; (B, 1, T, D) of their patches if asked."""
        import torch
        from torch.nn.functional import interpolate
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        net, place = self._loaded.encoder, self._model.place
        pixels = place(images).permute(0, 3, 1, 2).float() / 255
        side = (net.config.image_size,) * 2
        pixels = interpolate(pixels, side, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (place(torch.tensor(v)).view(1, 3, 1, 1)
                     for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        out = net(((pixels - mean) / std).to(self._model.dtype),
                  output_hidden_states=self._loaded.patches)
        return (out.hidden_states[-2] if self._loaded.patches else out.image_embeds)[:, None]


def _grouped(file: Path, state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``image_proj.…`` and ``ip_adapter.…`` apart, as diffusers takes them."""
    tensors: dict[str, dict[str, Any]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        tensors.setdefault(part, {})[rest] = value
    if not _is_known(state):
        raise ModelError(f"{file}: {_OTHER}")
    return tensors


_OTHER = ("not an IP-Adapter of the plain, the Plus or the Full variant (FaceID needs a face's"
          " embedding, which is not made here)")


def _is_known(names: Iterable[str]) -> bool:
    names = list(names)
    kinds = {f"image_proj.{k}" for k in (_PLAIN, _PLUS, _FULL)}
    return bool(kinds.intersection(names)) and not any(
        "lora" in k or k.split(".")[0] not in ("image_proj", "ip_adapter") or "perceiver" in k
        for k in names)


def _adapter_problem(shapes: Mapping[str, tuple[int, ...]], unet: Mapping[str, Any]) -> str | None:
    """Why an adapter's tensors do not fit a UNet, by its cross-attention layers in order."""
    if not _is_known(shapes):
        return _OTHER
    width = unet.get("cross_attention_dim", 1280)
    expected = {f"ip_adapter.{2 * i + 1}.to_{part}_ip.weight": (channels, width)
              for i, channels in enumerate(cross_attentions(unet)) for part in "kv"}
    got = {k: v for k, v in shapes.items() if k.startswith("ip_adapter.")}
    fit = sum(expected.get(k) == v for k, v in got.items())
    if got != expected:
        return (f"{fit} of its {len(got)} tensors fit this model, which takes {len(expected)}"
                "; is it made for another one?")
    outputs = {_PLAIN: 4, "proj_out.weight": 1, _FULL: 1}  # by layer, how many tokens it gives
    for name, tokens in outputs.items():
        out = shapes.get(f"image_proj.{name}", (tokens * width,))[0]
        if out != tokens * width:
            return f"its image tokens have width {out / tokens:g}, the UNet's text {width}"
    return None


def _encoder_problem(shapes: Mapping[str, tuple[int, ...]],
                     config: Mapping[str, Any]) -> str | None:
    """Why an image encoder does not suit an adapter."""
    if config.get("model_type") not in _VISION_TYPES:
        return f"a {config['model_type']} as image encoder, which is not read; CLIP's are"
    vision = text_config(config, "vision_config")
    if f"image_proj.{_PLAIN}" in shapes:
        got, what = vision.get("projection_dim", 512), "projection_dim"
        width = shapes[f"image_proj.{_PLAIN}"][1]
    else:
        got, what = vision.get("hidden_size", 768), "hidden_size"
        width = shapes.get("image_proj.proj_in.weight", shapes.get("image_proj.proj.0.weight",
                                                                    (0, 0)))[1]
    return None if got == width else (f"its {what} is {got}, the adapter takes {width}: the image"
                                       " encoder of another IP-Adapter")


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
