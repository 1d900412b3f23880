"""Prompts to text embeddings; prompts over 75 tokens in pieces (paper, A.1)."""

from __future__ import annotations

import torch

from gate_cache.diffusion.backbone import Backbone


def embed(backbone: Backbone, text: str) -> torch.Tensor:
    """Encode one prompt with the text encoder's last hidden state.

    Returns
    -------
    (1, T, D) tensor; T = 77 for each piece of 75 tokens, pieces joined along the token axis
    """
    pieces = torch.tensor(backbone.tokens.encode(text).ids, device=backbone.device)
    states = backbone.text_encoder(pieces)[0]
    return torch.as_tensor(states).reshape(1, -1, states.shape[-1]).to(backbone.dtype)
