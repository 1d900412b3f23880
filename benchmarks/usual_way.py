"""How features are usually extracted, with plain diffusers: a run for each combo.

Every run reads and encodes the images again, finds edges again and passes through the whole UNet;
maps are resized to one size, concatenated and saved as one .npy an image. Kept fair: same dtype,
noise and steps as ours, batches of several images too, the prompt encoded once a run, no time for
loading models, and attention by diffusers' own processor with the map computed beside it, as ours.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

from gate_cache.core.size import Size
from gate_cache.diffusion.passes.noise import noise
from gate_cache.manifest.specs import Combo, Manifest


class Recorded(AttnProcessor2_0):
    """diffusers' processor; keeps softmax(QKᵀ/√d), heads averaged, of cross-attention."""

    def __init__(self, found: list[torch.Tensor]) -> None:
        super().__init__()
        self._found = found

    def __call__(self, attn: Any, hidden_states: torch.Tensor,
                 encoder_hidden_states: torch.Tensor | None = None, *args: Any,
                 **kwargs: Any) -> Any:
        if encoder_hidden_states is not None:
            q, k = (attn.head_to_batch_dim(m) for m in (
                attn.to_q(hidden_states), attn.to_k(encoder_hidden_states)))
            p = (q.float() @ k.float().transpose(1, 2) * attn.scale).softmax(-1)
            self._found.append(p.unflatten(0, (-1, attn.heads)).mean(1))
        return super().__call__(attn, hidden_states, encoder_hidden_states, *args, **kwargs)


class UsualWay:
    """A pipeline, its ControlNet and its LoRAs, loaded once for all runs."""

    def __init__(self, models: Path, manifest: Manifest) -> None:
        self._dtype = getattr(torch, manifest.model.dtype)
        self._pipe: Any = StableDiffusionPipeline.from_pretrained(
            models / "sd15", dtype=self._dtype, safety_checker=None)
        self._net: Any = ControlNetModel.from_pretrained(models / "canny", dtype=self._dtype)
        self._size = Size.of(manifest.model.size or 512)
        for source in {lora.source for c in manifest.combos.values() for lora in c.lora}:
            self._pipe.load_lora_weights(models, weight_name=source, adapter_name=Path(source).stem)
        self._pipe.disable_lora()

    @torch.inference_mode()
    def run(self, name: str, combo: Combo, attention: bool, images: dict[str, Path],
            out: Path, batch: int) -> None:
        """One combo: ``<out>/<name>/<image>.npy``, (channels, side, side) float16."""
        (out / name).mkdir(parents=True)
        if combo.lora:
            self._pipe.enable_lora()
            self._pipe.set_adapters([Path(combo.lora[0].source).stem], [combo.lora[0].scale])
        text = self._pipe.encode_prompt(combo.prompt, "cpu", 1, False)[0]
        ids = list(images)
        for i in range(0, len(ids), batch):
            part = ids[i : i + batch]
            maps = self._maps(combo, attention, part, [images[n] for n in part], text)
            side = max(m.shape[-1] for m in maps)
            whole = torch.cat([F.interpolate(m.float(), (side, side), mode="bilinear")
                               for m in maps], 1).half().numpy()
            for key, array in zip(part, whole, strict=True):
                np.save(out / name / f"{Path(key).stem}.npy", array)
        if combo.lora:
            self._pipe.disable_lora()

    def _maps(self, combo: Combo, attention: bool, ids: list[str], files: list[Path],
              text: torch.Tensor) -> list[torch.Tensor]:
        pipe, dtype = self._pipe, self._dtype
        rgb = np.stack([self._read(f) for f in files])
        pixels = torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 127.5 - 1
        x0 = pipe.vae.encode(pixels.to(dtype)).latent_dist.mode().float()
        x0 = x0 * pipe.vae.config.scaling_factor
        start = combo.denoise.start if combo.denoise else combo.t
        alphas = pipe.scheduler.alphas_cumprod
        eps = torch.stack([noise(combo.seed, i, x0.shape[1:]) for i in ids])
        x = alphas[start].sqrt() * x0 + (1 - alphas[start]).sqrt() * eps
        states = text.expand(len(ids), -1, -1)
        predict = self._predictor(combo, rgb, states)
        if combo.denoise:
            steps = combo.denoise.steps
            times = [round(start + (combo.t - start) * i / steps) for i in range(steps + 1)]
            for now, then in pairwise(times):
                e = predict(x, now).float()
                clean = (x - (1 - alphas[now]).sqrt() * e) / alphas[now].sqrt()
                x = alphas[then].sqrt() * clean + (1 - alphas[then]).sqrt() * e
        return self._read_maps(attention, lambda: predict(x, combo.t))

    def _read(self, file: Path) -> np.ndarray[Any, Any]:
        image: Any = cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)
        small = cv2.resize(image, self._size[::-1], interpolation=cv2.INTER_AREA)
        return np.asarray(small)

    def _predictor(self, combo: Combo, rgb: np.ndarray[Any, Any],
                   states: torch.Tensor) -> Callable[[torch.Tensor, int], torch.Tensor]:
        edges = None
        if combo.controlnet:
            found = np.stack([cv2.Canny(i, combo.controlnet.low, combo.controlnet.high)
                              for i in rgb])
            edges = torch.from_numpy(found)[:, None].expand(-1, 3, -1, -1).to(states.dtype) / 255

        def predict(x: torch.Tensor, t: int) -> torch.Tensor:
            x, extra = x.to(states.dtype), {}
            if edges is not None:
                down, mid = self._net(x, t, encoder_hidden_states=states, controlnet_cond=edges,
                                      return_dict=False)
                extra = {"down_block_additional_residuals": down,
                         "mid_block_additional_residual": mid}
            return torch.as_tensor(self._pipe.unet(x, t, encoder_hidden_states=states,
                                                   return_dict=False, **extra)[0])
        return predict

    def _read_maps(self, attention: bool, run: Callable[[], object]) -> list[torch.Tensor]:
        unet = self._pipe.unet
        if not attention:
            found: list[torch.Tensor] = []
            hooks = [b.register_forward_hook(lambda _m, _a, out: found.append(out))
                     for b in unet.up_blocks]
            run()
            for hook in hooks:
                hook.remove()
            return found
        levels: list[list[torch.Tensor]] = [[] for _ in unet.up_blocks]
        before = dict(unet.attn_processors)
        unet.set_attn_processor({
            n: Recorded(levels[int(n.split(".")[1])])
            if n.startswith("up_blocks") and n.endswith("attn2.processor") else p
            for n, p in before.items()})
        run()
        unet.set_attn_processor(before)
        maps = [torch.stack(level).mean(0) for level in levels if level]
        return [m.transpose(1, 2).reshape(len(m), m.shape[2], *(round(m.shape[1] ** 0.5),) * 2)
                for m in maps]
