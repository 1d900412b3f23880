"""The fit loop: one model, or many trials over one stream."""
