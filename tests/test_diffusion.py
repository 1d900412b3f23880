"""The diffusion side against plain diffusers: noise, taps, text, ControlNet, LoRA, denoising."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from gate_cache.core.errors import ModelError
from gate_cache.diffusion.lora.adapters import Loras
from gate_cache.diffusion.models.backbone import Backbone
from gate_cache.diffusion.models.conditioning import Call, Text
from gate_cache.diffusion.models.embedded import CONTROLNETS, HOME, LORAS
from gate_cache.diffusion.models.loading import load
from gate_cache.diffusion.models.modules import load_controlnet
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.passes.hooks import tapped
from gate_cache.diffusion.passes.noise import add_noise, noise
from gate_cache.diffusion.passes.shared_encoder import shared_half
from gate_cache.diffusion.techniques.controlnet import Control, canny
from gate_cache.diffusion.techniques.denoise import Walk, ddim
from gate_cache.manifest.specs import ControlNetSpec

TINY = ModelFiles("tiny", HOME)
MODERATE, OVERFIT = LORAS["tiny/moderate"], LORAS["tiny/overfit"]
SPECS = TINY.family.maps


@pytest.fixture(scope="module")
def model() -> Backbone:
    return load(TINY, torch.device("cpu"), torch.float32)


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def run(model: Backbone, text: str = "a photo of a horse", **extra: Any) -> torch.Tensor:
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    states = model.embed(text).states.expand(2, -1, -1)
    return model.unet(x, torch.tensor(50), encoder_hidden_states=states, **extra).sample


def fingerprint(module: torch.nn.Module) -> str:
    parts = [f"{k}{v.shape}".encode() + v.numpy().tobytes() for k, v in module.state_dict().items()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


class Edges:
    """Inputs of which a ControlNet asks nothing but edge maps."""

    def __init__(self, edges: np.ndarray[Any, Any]) -> None:
        self.edges = edges

    def cached(self, key: object, rows: list[int], make: Any) -> Any:
        return self.edges[rows]


def residuals(model: Backbone, net: Any, edges: np.ndarray[Any, Any], scale: float,
              x: torch.Tensor, states: torch.Tensor) -> dict[str, Any]:
    control = Control(model, net, ControlNetSpec(source="tiny", scale=scale))
    extra = control.batch(Edges(edges), range(len(edges)))
    return dict(extra(Call(x, torch.tensor(50), Text(states))))


def test_noise_is_its_definition() -> None:
    digest = hashlib.sha256(b"7/train/horse/00001").digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    expected = torch.randn((4, 16, 16), generator=generator, dtype=torch.float32)
    assert torch.equal(noise(7, "train/horse/00001", (4, 16, 16)), expected)
    assert not torch.equal(noise(8, "train/horse/00001", (4, 16, 16)), expected)


def test_noised_latents_follow_the_schedule() -> None:
    abar = DDIMScheduler(**TINY.schedule()).alphas_cumprod
    x0 = torch.ones(2, 4, 8, 8)
    eps = torch.stack([noise(3, name, (4, 8, 8)) for name in "ab"])
    found = add_noise(x0, eps, 50, abar)
    for i, name in enumerate("ab"):
        expected = abar[50].sqrt() * x0[i] + (1 - abar[50]).sqrt() * noise(3, name, (4, 8, 8))
        assert torch.equal(found[i], expected)


def test_capture_leaves_the_output_equal_to_the_bit(model: Backbone) -> None:
    plain = run(model)
    with tapped(model.unet, SPECS) as taps:
        assert torch.equal(run(model), plain)
        taps.take()
    assert torch.equal(run(model), plain)


def test_conv_maps_are_what_plain_hooks_give(model: Backbone) -> None:
    seen: dict[str, torch.Tensor] = {}
    hooks = [b.register_forward_hook(lambda _m, _a, out, i=i: seen.update({f"up{i}": out}))
             for i, b in enumerate(model.unet.up_blocks)]
    run(model)
    for hook in hooks:
        hook.remove()
    with tapped(model.unet, [s for s in SPECS if s.kind == "conv"]) as taps:
        run(model)
        found = taps.take()
    assert list(found) == ["up0", "up1", "up2", "up3"]
    for name, value in found.items():
        assert torch.equal(value, seen[name])


def test_attention_maps_are_softmax_of_the_layers_queries_and_keys(model: Backbone) -> None:
    """Recomputed from the layers' projections, as plain hooks on to_q and to_k see them."""
    seen: dict[str, list[torch.Tensor]] = {}
    hooks = []
    for path, module in model.unet.up_blocks.named_modules():
        if path.endswith(("attn2.to_q", "attn2.to_k")):
            keep = seen.setdefault(path, [])
            hooks.append(module.register_forward_hook(lambda _m, _a, out, k=keep: k.append(out)))
    run(model)
    for hook in hooks:
        hook.remove()
    with tapped(model.unet, [s for s in SPECS if s.kind == "attention"]) as taps:
        run(model)
        found = taps.take()
    for level, side in ((1, 4), (2, 8), (3, 16)):
        layers = []
        for path in seen:
            if path.startswith(f"{level}.") and path.endswith("to_q"):
                q, k = seen[path][0], seen[path.replace("to_q", "to_k")][0]
                heads = model.unet.get_submodule(f"up_blocks.{path.removesuffix('.to_q')}").heads
                width = q.shape[-1] // heads
                q, k = (z.view(2, -1, heads, width).permute(0, 2, 1, 3) for z in (q, k))
                layers.append((q @ k.mT / width**0.5).softmax(-1).mean(1))
        expected = torch.stack(layers).mean(0).mT.reshape(2, 77, side, side)
        assert len(layers) == 2
        torch.testing.assert_close(found[f"attn{level}"], expected, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(found[f"attn{level}"].sum(1), torch.ones(2, side, side))


def test_the_model_is_restored_even_after_an_error(model: Backbone) -> None:
    before = dict(model.unet.attn_processors)
    with pytest.raises(RuntimeError, match="on purpose"), tapped(model.unet, SPECS):
        run(model)
        raise RuntimeError("on purpose")
    after = model.unet.attn_processors
    assert all(after[k] is before[k] for k in before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.unet.modules())


def test_a_map_that_was_not_seen_is_an_error(model: Backbone) -> None:
    with tapped(model.unet, SPECS) as taps, pytest.raises(ModelError, match="did not run"):
        taps.take()


@pytest.mark.parametrize(("wanted", "last", "beyond"), [
    (["up1"], "up_blocks.1.upsamplers.0", "up_blocks.2.resnets.0"),
    (["attn2"], "up_blocks.2.attentions.1.transformer_blocks.0.attn2",
     "up_blocks.2.attentions.1.transformer_blocks.0.ff"),
    (["attn2", "up2"], "up_blocks.2.upsamplers.0", "up_blocks.3.resnets.0"),
    (["up3", "attn1"], "up_blocks.3.attentions.1", "conv_norm_out")])
def test_a_pass_ends_behind_the_last_wanted_map(model: Backbone, wanted: list[str], last: str,
                                                beyond: str) -> None:
    with tapped(model.unet, SPECS) as taps:
        run(model)
        whole = taps.take()
    ran: set[str] = set()
    hooks = [m.register_forward_hook(lambda *_, n=n: ran.add(n))
             for n, m in model.unet.named_modules()]
    with tapped(model.unet, [s for s in SPECS if s.name in wanted]) as taps:
        found = taps.read(lambda: run(model))
    for hook in hooks:
        hook.remove()
    assert set(found) == set(wanted) and all(torch.equal(found[k], whole[k]) for k in found)
    assert last in ran and beyond not in ran


def test_a_shared_half_is_run_once_and_changes_no_bit(model: Backbone) -> None:
    net = load_controlnet(CONTROLNETS["tiny"], model)
    edges = np.zeros((2, 64, 64), np.uint8)
    edges[:, 30:34] = 255
    x, text = torch.randn(2, 4, 16, 16), model.embed("a photo").states.expand(2, -1, -1)
    added = residuals(model, net, edges, 1.0, x, text)

    def outputs() -> list[torch.Tensor]:
        return [model.unet(x, 50, text, **extra).sample for extra in ({}, added, {})]

    before, ran = outputs(), list[str]()
    blocks = [*model.unet.down_blocks, model.unet.mid_block]
    hooks = [b.resnets[0].register_forward_hook(lambda *_: ran.append("")) for b in blocks]
    with shared_half(model.unet):
        shared = outputs()
    for hook in hooks:
        hook.remove()
    assert len(ran) == len(blocks)
    assert all(torch.equal(a, b) for a, b in zip(before, shared, strict=True))
    assert not torch.equal(before[0], before[1])
    assert not any("forward" in vars(block) for block in blocks)


def test_maps_of_an_earlier_pass_do_not_leak(model: Backbone) -> None:
    with tapped(model.unet, SPECS) as taps:
        run(model, "a photo of a car")
        taps.take()
        run(model)
        second = taps.take()
        run(model)
        third = taps.take()
    assert all(torch.equal(second[k], third[k]) for k in second)


def test_text_is_the_encoders_last_state(model: Backbone) -> None:
    ids = torch.tensor(model.tokens.encode("a red car").ids)
    expected = model.text_encoder(ids).last_hidden_state
    assert torch.equal(model.embed("a red car").states, expected)


def test_a_long_prompt_is_encoded_in_pieces_and_joined(model: Backbone) -> None:
    words = "horse car bird " * 40
    found = model.embed(words).states
    assert found.shape == (1, 2 * 77, model.text_encoder.config.hidden_size)
    first = model.text_encoder(torch.tensor(model.tokens.encode(words).ids[:1]))[0]
    torch.testing.assert_close(found[:, :77], first)


def test_canny_finds_the_edge_of_a_square() -> None:
    image = np.zeros((1, 64, 64, 3), np.uint8)
    image[:, 16:48, 16:48] = 255
    edges = canny(image, 100, 200)
    assert edges.shape == (1, 64, 64)
    assert set(np.unique(edges)) == {0, 255}
    assert not edges[0, 24:40, 24:40].any()
    assert edges[0, 14:18, 20:44].any(0).all()


def test_controlnet_is_added_as_diffusers_does(model: Backbone) -> None:
    net = load_controlnet(CONTROLNETS["tiny"], model)
    edges = np.zeros((2, 64, 64), np.uint8)
    edges[:, 30:34] = 255
    x = torch.randn(2, 4, 16, 16)
    states = model.embed("a photo").states.expand(2, -1, -1)
    found = residuals(model, net, edges, 0.5, x, states)
    image = torch.from_numpy(edges)[:, None].repeat(1, 3, 1, 1).float() / 255
    down, mid = net(x, 50, encoder_hidden_states=states, controlnet_cond=image,
                    conditioning_scale=0.5, return_dict=False)
    assert all(torch.equal(a, b) for a, b in zip(
        found["down_block_additional_residuals"], down, strict=True))
    assert torch.equal(found["mid_block_additional_residual"], mid)
    assert float(mid.abs().max()) > 0


def test_timesteps_are_even_and_whole() -> None:
    assert Walk(60, 50, 5).timesteps() == [60, 58, 56, 54, 52, 50]
    assert Walk(60, 50, 4).timesteps() == [60, 58, 55, 52, 50]
    assert Walk(51, 50, 1).timesteps() == [51, 50]


def test_ddim_agrees_with_diffusers() -> None:
    scheduler = DDIMScheduler(**TINY.schedule(), clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(100)  # a step is 10 timesteps
    x, eps = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    expected = scheduler.step(eps, 60, x, eta=0.0).prev_sample
    found = ddim(x, [60, 50], lambda *x: add_noise(*x, scheduler.alphas_cumprod), lambda x, t: (
        (x - (1 - scheduler.alphas_cumprod[t]).sqrt() * eps) / scheduler.alphas_cumprod[t].sqrt(),
        eps))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_ddim_with_the_true_noise_walks_along_the_schedule() -> None:
    abar = DDIMScheduler(**TINY.schedule()).alphas_cumprod
    x0, eps = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)

    def at(t: int) -> torch.Tensor:
        return abar[t].sqrt() * x0 + (1 - abar[t]).sqrt() * eps

    found = ddim(at(60), [60, 57, 53, 50], lambda *x: add_noise(*x, abar), lambda _x, _t: (x0, eps))
    torch.testing.assert_close(found, at(50), rtol=1e-4, atol=1e-5)


@pytest.fixture
def loras(model: Backbone) -> Iterator[Loras]:
    found = Loras(model)
    yield found
    found.close()


def test_a_lora_changes_the_output_only_while_it_is_on(model: Backbone, loras: Loras) -> None:
    plain = run(model)
    loras.load("d1", "tiny/moderate", MODERATE)
    assert torch.equal(run(model), plain)
    with loras.active([("d1", 1.0)]):
        changed = run(model)
    assert not torch.allclose(changed, plain, atol=1e-3)
    assert torch.equal(run(model), plain)


def test_after_unloading_the_modules_are_what_they_were(model: Backbone) -> None:
    before = fingerprint(model.unet), fingerprint(model.text_encoder)
    loras = Loras(model)
    for digest, source in (("d1", "tiny/moderate"), ("d2", "tiny/overfit")):
        loras.load(digest, source, LORAS[source])
    with pytest.raises(RuntimeError, match="on purpose"), loras.active([("d2", 0.7)]):
        run(model)
        raise RuntimeError("on purpose")
    loras.close()
    assert (fingerprint(model.unet), fingerprint(model.text_encoder)) == before


def test_a_lora_is_its_low_rank_product(model: Backbone, loras: Loras) -> None:
    """Against weights merged by hand: W + scale · B·A, convolutions included."""
    state = load_file(MODERATE)
    merged = load(TINY, torch.device("cpu"), torch.float32)
    for key, a in state.items():
        if ".lora_A." not in key:
            continue
        module = merged.unet.get_submodule(key.removeprefix("unet.").removesuffix(".lora_A.weight"))
        b = state[key.replace("lora_A", "lora_B")]
        module.weight += 0.5 * torch.einsum("or,r...->o...", b.flatten(1).float(), a.float())
    loras.load("d1", "tiny/moderate", MODERATE)
    with loras.active([("d1", 0.5)]):
        torch.testing.assert_close(run(model), run(merged), rtol=1e-3, atol=1e-4)


def test_scale_zero_is_no_lora(model: Backbone, loras: Loras) -> None:
    plain = run(model)
    loras.load("d1", "tiny/overfit", OVERFIT)
    with loras.active([("d1", 0.0)]):
        torch.testing.assert_close(run(model), plain, rtol=1e-5, atol=1e-6)


def test_a_lora_file_in_diffusers_format_is_the_same(model: Backbone, loras: Loras,
                                                    tmp_path: Path) -> None:
    save_file(load_file(MODERATE), tmp_path / "style.safetensors")
    loras.load("built-in", "tiny/moderate", MODERATE)
    loras.load("file", "style.safetensors", tmp_path / "style.safetensors")
    outputs = []
    for digest in ("built-in", "file"):
        with loras.active([(digest, 1.0)]):
            outputs.append(run(model))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("layout", ["pipeline", "unet"])
def test_alphas_saved_by_diffusers_count(model: Backbone, loras: Loras, tmp_path: Path,
                                         layout: str) -> None:
    """LoCon with alpha 1 and rank 4, saved both ways that diffusers has."""
    trained = load(TINY, torch.device("cpu"), torch.float32).unet
    trained.add_adapter(LoraConfig(r=4, lora_alpha=1, target_modules=["to_q", "conv1"]), "style")
    for name, weight in trained.named_parameters():
        if "lora_B" in name:
            weight.normal_(0, 0.3)
    if layout == "unet":
        trained.save_lora_adapter(tmp_path, adapter_name="style", weight_name="a.safetensors")
    else:
        StableDiffusionPipeline.save_lora_weights(
            tmp_path, weight_name="a.safetensors",
            unet_lora_layers=get_peft_model_state_dict(trained, adapter_name="style"),
            unet_lora_adapter_metadata=trained.peft_config["style"].to_dict())
    x, text = torch.randn(1, 4, 16, 16), model.embed("a photo").states
    loras.load("file", "a.safetensors", tmp_path / "a.safetensors")
    with loras.active([("file", 1.0)]):
        found = model.unet(x, 50, encoder_hidden_states=text).sample
    expected = trained(x, 50, encoder_hidden_states=text).sample
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prefix", ["text_encoder.text_model.encoder", "text_encoder.encoder"])
def test_a_lora_may_change_the_text_encoder(model: Backbone, loras: Loras, tmp_path: Path,
                                            prefix: str) -> None:
    key = f"{prefix}.layers.0.self_attn.q_proj"
    state = {f"{key}.lora_A.weight": torch.randn(4, 64), f"{key}.lora_B.weight": torch.randn(64, 4)}
    save_file({**load_file(MODERATE), **state}, tmp_path / "te.safetensors")
    plain = model.embed("a horse").states
    loras.load("te", "te.safetensors", tmp_path / "te.safetensors")
    assert torch.equal(model.embed("a horse").states, plain)
    with loras.active([("te", 1.0)]):
        assert not torch.allclose(model.embed("a horse").states, plain, atol=1e-3)
    assert torch.equal(model.embed("a horse").states, plain)


def test_two_loras_add_up(model: Backbone, loras: Loras) -> None:
    loras.load("d1", "tiny/moderate", MODERATE)
    loras.load("d2", "tiny/overfit", OVERFIT)
    with loras.active([("d1", 1.0)]):
        one = run(model)
    with loras.active([("d1", 1.0), ("d2", 1.0)]):
        both = run(model)
    with loras.active([("d1", 1.0)]):
        assert torch.equal(run(model), one)
    assert not torch.allclose(one, both, atol=1e-3)


def bad_lora(kind: str) -> dict[str, torch.Tensor]:
    state = load_file(MODERATE)
    key = next(k for k in state if "lora_A" in k)
    if kind == "unknown module":
        pair = {p: state[key.replace("lora_A", p)].clone() for p in ("lora_A", "lora_B")}
        return {**state, **{f"unet.nowhere.to_q.{p}.weight": v for p, v in pair.items()}}
    if kind == "dora":
        return {**state, key.replace("lora_A.weight", "dora_scale"): torch.ones(4)}
    if kind == "wrong width":
        return {k: v[..., :-1].clone() if v.ndim == 2 and "lora_A" in k else v
                for k, v in state.items()}
    return {"something.else": torch.ones(3)}


@pytest.mark.parametrize("kind, said", [
    ("unknown module", "only 108 of its 109 layers fit this model; no such layer:"
                       r" 'unet\.nowhere\.to_q\.lora_A\.weight'; name"),
    ("dora", "not plain LoRA"), ("wrong width", "does not fit the model"), ("no lora", "")])
def test_a_lora_that_does_not_fully_apply_is_refused(model: Backbone, tmp_path: Path,
                                                    kind: str, said: str) -> None:
    before = fingerprint(model.unet)
    save_file(bad_lora(kind), tmp_path / "bad.safetensors")
    loras = Loras(model)
    with pytest.raises(ModelError, match=rf"bad\.safetensors: .*{said}"):
        loras.load("bad", "bad.safetensors", tmp_path / "bad.safetensors")
    loras.close()
    assert fingerprint(model.unet) == before


def test_a_file_that_is_no_safetensors_is_refused(model: Backbone, tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"not a file of weights")
    with pytest.raises(ModelError, match="not a safetensors file"):
        Loras(model).load("bad", "bad", tmp_path / "bad.safetensors")
