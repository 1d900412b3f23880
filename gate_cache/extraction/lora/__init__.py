"""Training a LoRA on images of a data set (paper, A.3)."""
