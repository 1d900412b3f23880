"""The diffusion side: backbones, techniques, taps, extraction. Floor 3, never meets `learn`."""
