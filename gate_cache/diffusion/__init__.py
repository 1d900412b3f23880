"""The diffusion side: backbones, techniques, taps, extraction. Floor 4, never meets `learn`."""
