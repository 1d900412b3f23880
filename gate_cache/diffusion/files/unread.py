"""Tensors of a file that no model takes, and weights that no file has: refused, for all parts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from gate_cache.core.errors import ModelError, counted, listed

HARMLESS = re.compile(
    r"(.*\.)?position_ids"  # a buffer: 0, 1, 2, …
    r"|(.*\.)?logit_scale"  # of CLIP's loss
    r"|(.*\.)?(rotary_emb\.inv_freq|embed_positions\.weights)"  # sines and cosines
    r"|(.*\.)?attn\.masked_bias")
"""Tensors of any part that are no weights of what is run."""
NOT_RUN = {
    "CLIPTextModel": re.compile(r"vision_model\..*|(visual|text)_projection\.weight"),
    "CLIPTextModelWithProjection": re.compile(r"vision_model\..*|visual_projection\.weight"),
    "CLIPVisionModelWithProjection": re.compile(r"text_model\..*|text_projection\.weight"),
    "CLIPVisionModel": re.compile(r"text_model\..*|(visual|text)_projection\.weight"),
    "SiglipVisionModel": re.compile(r"text_model\..*|logit_bias"),
    "ViTMAEModel": re.compile(r"decoder\..*"),
    "ViTModel": re.compile(r"(vit\.)?pooler\..*|classifier\..*"),
    "Dinov2Model": re.compile(r"classifier\..*"),
    "Dinov2WithRegistersModel": re.compile(r"classifier\..*"),
    "IJepaModel": re.compile(r"(ijepa\.)?pooler\..*|classifier\..*"),
}
"""What of a whole CLIP or SigLIP, or of a trained encoder's decoder and heads, is not run."""
SINGLE_FILE = re.compile(
    r"model_ema\..*|first_stage_model\.model_ema\..*"  # averaged copies; of the UNet, those count
    r"|first_stage_model\.loss\..*"  # the discriminator and LPIPS of training
    r"|v_pred|ztsnr"  # markers, see `single_file.marked_schedule`
    r"|(model\.)?(betas|(sqrt_)?(one_minus_)?alphas_cumprod(_prev)?|lvlb_weights|logvar)"
    r"|sqrt_(recip|recipm1)_alphas_cumprod|sqrt_one_minus_alphas_cumprod"
    r"|log_one_minus_alphas_cumprod|posterior_(variance|log_variance_clipped|mean_coef[12])"
    r"|denoiser\.(sigmas|log_sigmas)|scale_factor"  # the schedule's buffers
    r"|embedding_manager\.embedder\..*"  # a copy of the text encoder
    r"|(cond_stage_model|conditioner\.embedders\.[01])\.(transformer|model)\."
    r"(vision_model\.|visual\.|visual_projection\.).*"
    r"|.*\.(attn_mask|logit_scale|position_ids)"
    r"|cond_stage_model\.(transformer|model)\.text_projection(\.weight)?"
    r"|conditioner\.embedders\.0\.transformer\.text_projection(\.weight)?")
"""Tensors of a single file that no part of the model is made of."""


def check_read(place: Path, part: str, missing: Iterable[str], unread: Iterable[str]) -> None:
    """Refuse a part whose file and model do not hold the same tensors.

    Parameters
    ----------
    place : the file or folder, for messages
    part : the class that runs it
    missing : weights of the model that the file lacks
    unread : tensors of the file that the model does not take

    Raises
    ------
    ModelError
        With some of their names, and how many there are.
    """
    lacking = sorted(k for k in missing if not HARMLESS.fullmatch(k))
    if lacking:
        raise ModelError(f"{place}: {counted(len(lacking), 'weight')} of {part} not in the file:"
                         f" {listed(lacking, 3)}; does its configuration belong to it? else replace"
                         " the file")
    half = NOT_RUN.get(part)
    left = sorted(k for k in unread
                  if not HARMLESS.fullmatch(k) and not (half and half.fullmatch(k)))
    if left:
        raise ModelError(f"{place}: {counted(len(left), 'tensor')} not read by {part}:"
                         f" {listed(left, 3)};"
                         " its file is of another kind of model, or holds an adapter beside the"
                         " weights: merge that, or take the right file")
