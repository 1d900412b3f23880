"""How far what is stored is from the peers' own way to the same features.

    python -m benchmarks.peers                 the embedded model, pictures of toyworld; seconds

Diffusers' pipeline as it is published, its modules read by plain hooks, is what DIFT's and GATE's
code do; the noise is ours, since theirs is not seeded. For matches: `benchmarks.matching`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

import gate_cache
from gate_cache.core.roots import Roots
from gate_cache.datasets.toy import ToyWorld
from gate_cache.diffusion.models.embedded import HOME
from gate_cache.diffusion.passes.noise import noise
from gate_cache.workspace.workspace import Workspace

COUNT, T, PROMPT = 8, 50, "a photo"
MANIFEST = (f"dataset: {{name: toyworld, train: 0, val: 0, test: {COUNT}}}\n"
            "model: {source: tiny}\n"
            f"conv: {{plain: {{prompt: {PROMPT}, t: {T}}}}}\n"
            "store: {block: 8}\n")


def main() -> None:
    """Print relative L2 distances as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peers.yaml"
        path.write_text(MANIFEST)
        work = Workspace.open(path, Roots(stores=Path(folder)), "cpu")
        store = gate_cache.extract(work)
        world = work.dataset()
        assert isinstance(world, ToyWorld)
        latents, maps = plain(world, store.samples.ids)
        (group,) = store.latents()
        stored = {name: store["plain"][name][:].astype(np.float32) for name in store["plain"]}
        print(json.dumps({"latents": distance(group["x0"][:], latents),
                          **{name: distance(stored[name], maps[name]) for name in stored}},
                         indent=2))


@torch.no_grad()
def plain(world: ToyWorld, ids: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """Latents and maps of the up-sampling levels, by the unmodified library."""
    pipe = StableDiffusionPipeline.from_pretrained(HOME)
    maps: dict[str, Any] = {}
    for level, block in enumerate(pipe.unet.up_blocks):
        block.register_forward_hook(
            lambda _module, _inputs, output, level=level: maps.update({f"up{level}": output}))
    pixels = np.stack([world.image(sample_id) for sample_id in ids])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = pipe.vae.encode(images).latent_dist.mean * pipe.vae.config.scaling_factor
    draws = torch.stack([noise(0, sample_id, latents.shape[1:]) for sample_id in ids])
    noised = pipe.scheduler.add_noise(latents, draws, torch.tensor([T]))
    text, _ = pipe.encode_prompt(PROMPT, "cpu", 1, False)
    pipe.unet(noised, T, text.expand(len(ids), -1, -1))
    return latents.numpy(), {name: value.numpy() for name, value in maps.items()}


def distance(ours: Any, theirs: Any) -> float:
    """Relative L2."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


if __name__ == "__main__":
    main()
