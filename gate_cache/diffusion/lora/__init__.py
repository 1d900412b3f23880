"""LoRA adapters: beside a model, and being trained."""
