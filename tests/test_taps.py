"""Any layer by name: what is read is what plain hooks on the unmodified model's modules see."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONTROL, WriteManifest
from diffusers import UNet2DConditionModel, UNet2DModel
from small_models import small_unet

from gate_cache.core.errors import ModelError
from gate_cache.core.features import MapSpec
from gate_cache.core.roots import Roots
from gate_cache.diffusion.models.unets import family
from gate_cache.diffusion.passes.hooks import tapped
from gate_cache.extraction.extract import extract
from gate_cache.store.reader import FeatureStore
from gate_cache.workspace.workspace import Workspace

VAE = {"block_out_channels": [8, 8, 8], "latent_channels": 4}
DDPM = {
    "_class_name": "UNet2DModel", "sample_size": 16, "in_channels": 3, "out_channels": 3,
    "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
    "attention_head_dim": 4, "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
UNETS: dict[str, dict[str, Any]] = {
    "sd1": small_unet("sd-1.5"), "xl": small_unet("sdxl-base"), "ddpm": DDPM,
    "no-mid": small_unet("sd-1.5", mid_block_type=None),
    "plain-mid": small_unet("sd-1.5", mid_block_type="UNetMidBlock2D"),
    "ddpm-no-attention": {**DDPM, "add_attention": False}}
INNER = {"self.q": "attn1.to_q", "self.k": "attn1.to_k", "self.v": "attn1.to_v",
         "cross.q": "attn2.to_q", "ff": "ff"}


def path_of(name: str, unet: Any) -> str:
    """The module of a name, by the documented grammar alone."""
    level, *rest = name.split(".")
    path = "mid_block" if level == "mid" else re.sub(r"(up|down)(\d)", r"\1_blocks.\2", level)
    if not rest:
        return path
    if rest[0].startswith("res"):
        return f"{path}.resnets.{rest[0][3:]}"
    path += f".attentions.{rest[0][4:]}"
    if not rest[1:]:
        return path
    if isinstance(unet, UNet2DModel):
        return f"{path}.to_{rest[2]}"
    layer = rest.pop(1)[5:] if rest[1].startswith("layer") else "0"
    return f"{path}.transformer_blocks.{layer}.{INNER['.'.join(rest[1:])]}"


def built(name: str) -> tuple[Any, Any]:
    """A small UNet with random weights, and a pass of two images."""
    config = UNETS[name]
    torch.manual_seed(0)
    unet: Any = (UNet2DModel if "ddpm" in name else UNet2DConditionModel).from_config(config)
    x = torch.randn(2, config["in_channels"], 16, 16)
    more: dict[str, Any] = {}
    if "ddpm" not in name:
        more = {"encoder_hidden_states": torch.randn(2, 7, config["cross_attention_dim"])}
    if name == "xl":
        pooled = config["projection_class_embeddings_input_dim"] - 6 * 256
        more["added_cond_kwargs"] = {"text_embeds": torch.randn(2, pooled),
                                     "time_ids": torch.ones(2, 6)}
    return unet.eval(), lambda: unet(x, 50, **more).sample


@pytest.mark.parametrize("name", UNETS)
@torch.no_grad()
def test_every_layer_is_what_a_plain_hook_sees(name: str) -> None:
    unet, run = built(name)
    layout = family(UNETS[name], None if "ddpm" in name else VAE)
    specs = [*layout.maps, *layout.more]
    plain = [s for s in specs if s.what == "output"]
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output
        return hook

    hooks = [unet.get_submodule(path_of(s.name, unet)).register_forward_hook(keep(s.name))
             for s in plain]
    expected = run()
    for hook in hooks:
        hook.remove()
    with tapped(unet, specs) as taps:
        assert torch.equal(run(), expected)
        found = taps.take()
    assert len(plain) == len(seen) > 20
    side = 16 * layout.latent_stride
    for spec in specs:
        assert tuple(found[spec.name].shape[1:]) == spec.shape(side, 7), spec.name
    for spec in plain:
        value = seen[spec.name]
        if value.dim() == 3:
            value = value.mT.reshape(found[spec.name].shape)
        assert torch.equal(found[spec.name], value), spec.name


@pytest.mark.parametrize("name", UNETS)
def test_every_module_of_its_kind_has_a_name(name: str) -> None:
    """Of a UNet's residual blocks, transformers and projections none is left out."""
    unet, _ = built(name)
    layout = family(UNETS[name], None if "ddpm" in name else VAE)
    named = {path for s in layout.more for path in s.modules}
    kinds = re.compile(r"(.*\.(resnets|attentions)\.\d+|.*\.(attn1\.to_[qkv]|attn2\.to_q|ff))")
    assert {n for n, _ in unet.named_modules() if kinds.fullmatch(n)} <= named


@torch.no_grad()
def test_a_self_attention_map_has_a_channel_for_each_cell_that_is_looked_at() -> None:
    unet, run = built("sd1")
    spec = next(s for s in family(UNETS["sd1"], VAE).more if s.name == "up1.attn0.self.map")
    layer = unet.up_blocks[1].attentions[0].transformer_blocks[0].attn1
    seen: dict[str, torch.Tensor] = {}
    hooks = [getattr(layer, k).register_forward_hook(
        lambda _m, _a, out, k=k: seen.update({k: out})) for k in ("to_q", "to_k")]
    with tapped(unet, [spec]) as taps:
        found = taps.read(run)[spec.name]
    for hook in hooks:
        hook.remove()
    q, k = (seen[n].view(2, 16, layer.heads, -1).transpose(1, 2) for n in ("to_q", "to_k"))
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).mean(1)  # (B, looking, looked at)
    torch.testing.assert_close(found, weights.mT.reshape(2, 16, 4, 4))
    torch.testing.assert_close(found.sum(1), torch.ones(2, 4, 4))


def test_a_self_attention_map_of_too_many_cells_is_refused() -> None:
    spec = next(s for s in family(UNETS["sd1"], VAE).more if s.name == "up3.attn0.self.map")
    assert spec.shape(256) == (4096, 64, 64)
    with pytest.raises(ModelError, match=r"^maps: up3\.attn0\.self\.map: 128×128 .* more than"
                                         r" 4096 channels at 512 pixels; name one of a coarser"):
        spec.shape(512)


@torch.no_grad()
def test_a_pass_ends_where_the_last_map_is_computed_whatever_the_order_of_names() -> None:
    unet, run = built("sd1")
    specs = {s.name: s for s in family(UNETS["sd1"], VAE).more}
    ran: set[str] = set()
    hooks = [m.register_forward_hook(lambda *_, n=n: ran.add(n)) for n, m in unet.named_modules()]
    with tapped(unet, [specs["mid.res1"], specs["down1.attn0"], specs["mid.attn0.ff"]]) as taps:
        taps.read(run)
    for hook in hooks:
        hook.remove()
    assert "mid_block.resnets.1" in ran and "mid_block" not in ran


def test_a_module_that_is_not_there_is_an_error() -> None:
    unet, _ = built("sd1")
    spec = MapSpec("up9", "conv", 8, 8, ("up_blocks.9",))
    with pytest.raises(ModelError, match=r"no module 'up_blocks\.9', which 'up9' is read from"), \
            tapped(unet, [spec]):
        pass


def test_tokens_of_an_image_that_is_no_square_are_laid_out_by_its_sides() -> None:
    class Tokens(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    model = torch.nn.ModuleDict({"a": Tokens()})
    x = torch.arange(24.0).view(1, 8, 3)
    spec = MapSpec("a", "conv", 3, 1, ("a",))
    with tapped(model, [spec], aspect=0.5) as taps:
        model["a"](x)
        assert torch.equal(taps.take()["a"], x.mT.reshape(1, 3, 2, 4))
    with pytest.raises(ModelError, match="8 tokens are not a"), tapped(model, [spec], 1.2) as taps:
        model["a"](x)
        taps.take()


@torch.no_grad()
def test_layers_of_a_compiled_model_are_read_as_they_run() -> None:
    unet, run = built("sd1")
    spec = next(s for s in family(UNETS["sd1"], VAE).more if s.name == "up1.attn0.ff")
    with tapped(unet, [spec]) as taps:
        expected = taps.read(run)[spec.name]
    unet.up_blocks[1].attentions[0].transformer_blocks[0].compile(backend="eager")
    run()
    with tapped(unet, [spec]) as taps:
        assert torch.equal(taps.read(run)[spec.name], expected)


@pytest.mark.long
def test_inner_maps_are_stored_and_share_no_half_with_a_controlnet(
        manifest: WriteManifest, roots: Roots) -> None:
    """Rows are the same whether a combo stands alone or beside one that differs by ControlNet."""
    maps = ["down1.res0", "mid.attn0", "up1.attn0.self.q", "up2"]
    combos = {"plain": {"prompt": "a photo", "maps": maps}, "control": {**CONTROL, "maps": maps}}
    both = FeatureStore.open(extract(Workspace(manifest("both.yaml", conv=combos, attention={}),
                                          roots, "cpu")).store)
    values: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, combo in combos.items():
        loaded = manifest(f"{name}.yaml", conv={name: combo}, attention={},
                          store={"block": 3, "batch": 2, "path": f"{name}.zarr"})
        alone = FeatureStore.open(extract(Workspace(loaded, roots, "cpu")).store)
        assert set(alone[name].maps) == set(maps)
        for key in maps:
            values[name][key] = alone[name][key][:]
            np.testing.assert_array_equal(both[name][key][:], values[name][key])
    np.testing.assert_array_equal(values["plain"]["mid.attn0"], values["control"]["mid.attn0"])
    assert not np.array_equal(values["plain"]["up2"], values["control"]["up2"])
