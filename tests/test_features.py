"""What a model family offers: the table read off its configuration, and the model itself."""

from typing import Any

import pytest
import torch
from conftest import tiny_config
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from gate_cache.core.errors import ModelError
from gate_cache.core.features import Family, nbytes
from gate_cache.diffusion.models.published import (
    NAMES,
    SD_1_5,
    SD_2_1,
    SDXL_BASE,
    published,
    published_name,
)
from gate_cache.diffusion.models.unets import family
from gate_cache.diffusion.passes.hooks import tapped
from gate_cache.store.format.encodings import Encoding
from gate_cache.store.format.layout import BLOCK_ROWS, block_rows

SD15_UNET: dict[str, Any] = {  # unet/config.json of Stable Diffusion 1.5, as published
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
SD15_VAE: dict[str, Any] = {"block_out_channels": [128, 256, 512, 512], "latent_channels": 4}
SD15 = family(SD15_UNET, SD15_VAE)
DDPM256: dict[str, Any] = {  # the shape of google/ddpm-bedroom-256
    "_class_name": "UNet2DModel",
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "in_channels": 3,
    "layers_per_block": 2,
    "out_channels": 3,
    "sample_size": 256,
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
}


def conv_shapes(layout: Family, size: int) -> dict[str, tuple[int, ...]]:
    return {m.name: m.shape(size) for m in layout.select("conv", None)}


def attention_shapes(layout: Family, size: int, tokens: int) -> dict[str, tuple[int, ...]]:
    return {m.name: m.shape(size, tokens) for m in layout.maps if m.kind == "attention"}


def measured(config: dict[str, Any], latent: int) -> dict[str, tuple[int, ...]]:
    """Shapes that a real UNet yields: (C, h, w) of up{i}, (cells,) of attn{i}; no memory."""
    pixels = config.get("_class_name") == "UNet2DModel"
    found: dict[str, tuple[int, ...]] = {}

    def keep(name: str, cells: bool) -> Any:
        def hook(_module: Any, _inputs: Any, out: torch.Tensor) -> None:
            found[name] = (out.shape[1],) if cells else tuple(out.shape[1:])
        return hook

    with torch.device("meta"), torch.no_grad():
        unet = (UNet2DModel if pixels else UNet2DConditionModel).from_config(config)
        for i, block in enumerate(unet.up_blocks):
            block.register_forward_hook(keep(f"up{i}", False))
            for name, module in block.named_modules():
                if name.endswith("attn2"):
                    module.register_forward_hook(keep(f"attn{i}", True))
        x, t = torch.zeros(1, 3 if pixels else 4, latent, latent), torch.zeros(1, dtype=torch.long)
        unet(x, t, **({} if pixels else told(config)))
    return found


def told(config: dict[str, Any]) -> dict[str, Any]:
    """What a text model's UNet wants beside image and time."""
    found: dict[str, Any] = {
        "encoder_hidden_states": torch.zeros(1, 77, config["cross_attention_dim"])}
    if config.get("addition_embed_type") == "text_time":
        pooled = config["projection_class_embeddings_input_dim"] - 6 * 256
        found["added_cond_kwargs"] = {"text_embeds": torch.zeros(1, pooled),
                                      "time_ids": torch.zeros(1, 6)}
    return found


def test_maps_of_stable_diffusion_1_5_at_512() -> None:
    assert conv_shapes(SD15, 512) == {
        "up0": (1280, 16, 16), "up1": (1280, 32, 32), "up2": (640, 64, 64), "up3": (320, 64, 64)}
    assert attention_shapes(SD15, 512, 77) == {
        "attn1": (77, 16, 16), "attn2": (77, 32, 32), "attn3": (77, 64, 64)}


@pytest.mark.mostly_long("sd15*", "tiny*", "ddpm*")
@pytest.mark.parametrize(("config", "vae", "size"), [
    (SD15_UNET, SD15_VAE, 512), (tiny_config("unet"), tiny_config("vae"), 64),
    (published(SD_2_1)["unet"], published(SD_2_1)["vae"], 768),
    (published(SDXL_BASE)["unet"], published(SDXL_BASE)["vae"], 1024),
    (published(SDXL_BASE)["unet"], published(SDXL_BASE)["vae"], 416),
    (DDPM256, None, 256), (DDPM256, None, 96),
], ids=["sd15-512", "tiny-64", "sd21-768", "sdxl-1024", "sdxl-416", "ddpm-256", "ddpm-96"])
def test_the_table_is_what_the_model_yields(
    config: dict[str, Any], vae: dict[str, Any] | None, size: int,
) -> None:
    layout = family(config, vae)
    cells = {n: (h * w,) for n, (_, h, w) in attention_shapes(layout, size, 77).items()}
    assert measured(config, size // layout.latent_stride) == {**conv_shapes(layout, size), **cells}


@pytest.mark.slow
@pytest.mark.parametrize("config", [
    published(SD_1_5)["unet"], published(SD_2_1)["unet"], published(SDXL_BASE)["unet"], DDPM256,
], ids=["sd15", "sd21", "sdxl", "ddpm"])
def test_real_architectures_yield_the_table(config: dict[str, Any]) -> None:
    """The published UNets with random weights in bfloat16, read as extract reads them.

    XL takes 6 GB of memory.
    """
    pixels = config.get("_class_name") == "UNet2DModel"
    layout = family(config, None if pixels else published(SD_1_5)["vae"])
    size = 2 * layout.size_multiple
    shape = (1, *layout.latent_shape(size))
    torch.set_default_dtype(torch.bfloat16)
    try:
        unet = (UNet2DModel if pixels else UNet2DConditionModel).from_config(config).eval()
        for weight in unet.parameters():
            weight.requires_grad_(False)
        extra = {} if pixels else told(config)
        with tapped(unet, layout.maps) as taps, torch.no_grad():
            found = taps.read(lambda: unet(torch.randn(shape), 50, **extra))
    finally:
        torch.set_default_dtype(torch.float32)
    assert {k: tuple(v.shape[1:]) for k, v in found.items()} == {
        m.name: m.shape(size, 77) for m in layout.maps}
    assert all(v.isfinite().all() for v in found.values())


def test_maps_of_stable_diffusion_xl_at_1024() -> None:
    layout = family(published(SDXL_BASE)["unet"], published(SDXL_BASE)["vae"])
    assert conv_shapes(layout, 1024) == {
        "up0": (1280, 64, 64), "up1": (640, 128, 128), "up2": (320, 128, 128)}
    assert attention_shapes(layout, 1024, 77) == {"attn0": (77, 32, 32), "attn1": (77, 64, 64)}
    assert (layout.default_size, layout.size_multiple) == (1024, 32)


def test_a_ddpm_has_pixels_for_latents_and_no_attention_to_text() -> None:
    layout = family(DDPM256, None)
    assert (layout.latent_shape(256), layout.default_size, layout.text) == ((3, 256, 256), 256,
                                                                            False)
    assert not layout.select("attention", None)


@pytest.mark.parametrize(("name", "size", "millions", "predicts"), [
    (SD_1_5, 512, 860, "epsilon"), (SD_2_1, 768, 866, "v_prediction"),
    (SDXL_BASE, 1024, 2567, "epsilon")])
def test_published_configurations_are_those_of_the_models(name: str, size: int, millions: int,
                                                          predicts: str) -> None:
    """Sizes of the UNets as their papers and model cards give them."""
    config = published(name)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config["unet"])
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6) == millions
    assert family(config["unet"], config["vae"]).default_size == size
    assert config["scheduler"]["prediction_type"] == predicts
    assert all(published_name(source) == name for source in config["hub"])


def test_the_assumed_layout_is_that_of_stable_diffusion_1_5() -> None:
    assert family(published(SD_1_5)["unet"], published(SD_1_5)["vae"]) == SD15
    assert NAMES[0] == SD_1_5 and published_name("nobody/nothing") is None


def test_sizes_of_stable_diffusion_1_5() -> None:
    assert (SD15.default_size, SD15.size_multiple, SD15.latent_shape(512)) == (512, 64, (4, 64, 64))


def test_select_gives_all_or_the_named_in_the_models_order() -> None:
    assert [m.name for m in SD15.select("conv", ["up3", "up0"])] == ["up0", "up3"]
    assert [m.name for m in SD15.select("attention", None)] == ["attn1", "attn2"]
    assert [m.name for m in SD15.select("attention", ["attn3", "attn1"])] == ["attn1", "attn3"]


SMALL = {"block_out_channels": [320, 640, 1280], "mid_block_type": None}
"""Of a UNet without a mid block and with three levels, as BK-SDM's tiny one."""


@pytest.mark.parametrize(("config", "vae", "expected"), [
    (SD15_UNET, SD15_VAE, {"attn1": 4, "attn2": 2}),
    (published(SD_2_1)["unet"], published(SD_2_1)["vae"], {"attn1": 4, "attn2": 2}),
    (published(SDXL_BASE)["unet"], published(SDXL_BASE)["vae"], {"attn0": 4, "attn1": 2}),
    (tiny_config("unet"), tiny_config("vae"), {"attn1": 4, "attn2": 2}),
    ({**SMALL, "up_block_types": ["CrossAttnUpBlock2D"] * 3}, SD15_VAE, {"attn0": 4, "attn1": 2}),
    ({**SMALL, "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]}, SD15_VAE,
     {"attn1": 2}),
    ({**SMALL, "up_block_types": ["UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"]}, SD15_VAE,
     {"attn2": 1}),
    (DDPM256, None, {}),
], ids=["sd1", "sd2", "sdxl", "tiny", "no-mid", "one-level", "finest-alone", "ddpm"])
def test_attention_by_default_is_that_of_the_released_code(
    config: dict[str, Any], vae: dict[str, Any] | None, expected: dict[str, int],
) -> None:
    """Sides of a quarter and half of the latent's, whatever the levels are called."""
    layout = family(config, vae)
    found = {m.name: m.stride // layout.latent_stride for m in layout.select("attention", None)}
    assert found == expected


@pytest.mark.parametrize(("kind", "name", "message"), [
    ("conv", "up4", "no map 'up4' .*it offers: up0, up1, up2, up3"),
    ("conv", "attn1", "no map 'attn1'.*it offers: up0"),
    ("attention", "attn0", "no map 'attn0' .*did you mean 'attn.'.*it offers: attn1, attn2, attn3"),
])
def test_select_refuses_what_the_model_lacks(kind: Any, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        SD15.select(kind, [name])


@pytest.mark.parametrize("size", [64, 512, 768])
def test_sizes_that_fit_are_returned(size: int) -> None:
    assert SD15.check_size(size, "model.size") == (size, size)


@pytest.mark.parametrize(("size", "near"), [(500, 512), (16, 64), (520, 512), (730, 704)])
def test_sizes_that_do_not_fit_name_a_near_one(size: int, near: int) -> None:
    with pytest.raises(ModelError, match=rf"^model\.size: {size} .* of 64, .* try {near}$"):
        SD15.check_size(size, "model.size")


@pytest.mark.parametrize(("unet", "vae"), [({}, SD15_VAE), (SD15_UNET, {})])
def test_configurations_without_channels_are_refused(
    unet: dict[str, Any], vae: dict[str, Any],
) -> None:
    with pytest.raises(ModelError):
        family(unet, vae)


@pytest.mark.parametrize(("shape", "dtype", "expected"), [
    ((320, 64, 64), "float16", 320 * 64 * 64 * 2), ((4, 64, 64), "float32", 4 * 64 * 64 * 4),
    ((), "float64", 8),
])
def test_nbytes(shape: tuple[int, ...], dtype: str, expected: int) -> None:
    assert nbytes(shape, dtype) == expected


HALF = Encoding("float16")


@pytest.mark.parametrize(("dtype", "rows"), [("float16", 16), ("float32", 8)])
def test_block_of_stable_diffusion_1_5_at_512(dtype: str, rows: int) -> None:
    shapes = [*conv_shapes(SD15, 512).values(), *attention_shapes(SD15, 512, 77).values()]
    assert block_rows(shapes, Encoding(dtype)) == rows


@pytest.mark.parametrize("side", [1, 3, 8, 17, 64, 200, 1000, 10_000])
def test_block_is_a_power_of_two_within_its_bounds(side: int) -> None:
    rows = block_rows([(4, 1, 1), (320, side, side)], HALF)
    assert BLOCK_ROWS == (8, 1024) and 8 <= rows <= 1024 and rows.bit_count() == 1


def test_block_is_set_by_the_largest_map() -> None:
    small, large = (4, 8, 8), (640, 64, 64)
    assert block_rows([small, large], HALF) == block_rows([large], HALF) \
        < block_rows([small], HALF)
