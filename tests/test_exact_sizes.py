"""Models of published sizes, with random weights: one pass with taps equals plain hooks."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import pytest
import torch
import transformers

from gate_cache.diffusion.models import dit
from gate_cache.diffusion.models.conditioning import Text
from gate_cache.diffusion.models.encoders import encoder_type, family, prefix_tokens
from gate_cache.diffusion.models.published import published
from gate_cache.diffusion.models.transformers import family as transformer_family
from gate_cache.diffusion.models.vision import Patches
from gate_cache.diffusion.passes.hooks import tapped

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


@contextmanager
def in_bfloat16() -> Iterator[None]:
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def plainly_hooked(model: Any) -> Iterator[dict[str, Any]]:
    """What modules give, by plain hooks."""
    seen: dict[str, Any] = {}
    hooks = [m.register_forward_hook(lambda _m, _a, out, n=n: seen.__setitem__(n, out))
             for n, m in model.named_modules() if n.count(".") == 1 or n.endswith(
                 (".to_q", ".to_k", ".to_v"))]
    yield seen
    for hook in hooks:
        hook.remove()


def report(name: str, began: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name}: {(time.monotonic() - began) / 60:.1f} minutes, peak {peak:.1f} GiB")


@pytest.mark.parametrize(("name", "cls", "length"), [
    ("pixart-alpha", dit.PixArt, 120), ("sd-3", dit.StableDiffusion3, 333)])
@torch.inference_mode()
def test_a_transformer(name: str, cls: Any, length: int) -> None:
    """Of 256×256 pixels."""
    began, parts = time.monotonic(), published(name)
    config = parts["transformer"]
    with in_bfloat16():
        unet = getattr(diffusers, config["_class_name"]).from_config(config).eval()
        states = torch.randn(1, length, config.get("caption_channels")
                             or config["joint_attention_dim"])
        pooled = torch.randn(1, config.get("pooled_projection_dim") or 1)
    added = {"pooled_projections": pooled} if name == "sd-3" else {
        "encoder_attention_mask": torch.ones(1, length, dtype=torch.int64)}
    more: dict[str, Any] = {"sigmas": torch.linspace(0.001, 1, 1000)} if name == "sd-3" else {
        "alphas_cumprod": torch.linspace(1, 0, 1000)}
    with torch.device("meta"):
        vae = diffusers.AutoencoderKL.from_config(parts["vae"])
    model = cls(unet=unet, vae=vae, tokens=None, encoders={}, tokenizers={}, length=length,
                prediction_type="epsilon", device=CPU, dtype=torch.bfloat16, **more)
    layout = transformer_family(config, parts["vae"])
    x = torch.randn(1, layout.latent_channels, 32, 32)
    with plainly_hooked(unet) as seen:
        plain = model.predict(x, 260, Text(states, added))
    specs = [m for m in (*layout.maps, *layout.more) if ".12." in m.name]
    with tapped(unet, specs) as taps:
        assert torch.equal(model.predict(x, 260, Text(states, added)), plain)
        found = taps.take()
    for spec in specs:
        assert tuple(found[spec.name].shape[1:]) == spec.shape(256, length)
        assert found[spec.name].isfinite().all()
        if spec.kind == "conv" and not spec.name.endswith("modulated"):
            out = seen[spec.modules[0]]
            tokens = out[-1] if isinstance(out, tuple) else out
            assert torch.equal(found[spec.name].flatten(2).mT, tokens), spec.name
    report(name, began)


@torch.inference_mode()
def test_dinov2_large() -> None:
    began = time.monotonic()
    config = {**published("facebook/dinov2-large")["encoder"], "num_attention_heads": 16}
    with in_bfloat16():
        encoder = transformers.Dinov2Model(transformers.Dinov2Config(**config)).eval()
        pixels = torch.randn(1, 3, 518, 518)
    expected = encoder(pixels, output_hidden_states=True)
    layout = family(config)
    specs = [m for m in (*layout.maps, *layout.more) if m.name in ("layer11", "layer23", "cls")]
    model = Patches(encoder, prefix_tokens(config), encoder_type(config).class_token, lambda _: {})
    with tapped(model, specs) as taps:
        model(pixels)
        found = taps.take()
    for name, tokens in (("layer11", expected.hidden_states[12][:, 1:]),
                         ("layer23", expected.last_hidden_state[:, 1:])):
        assert found[name].shape == (1, 1024, 37, 37)
        assert torch.equal(found[name].flatten(2).mT, tokens)
    assert torch.equal(found["cls"][..., 0, 0], expected.last_hidden_state[:, 0])
    report("dinov2-large", began)
