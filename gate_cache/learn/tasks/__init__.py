"""Tasks: what is learnt from features, and how it is judged."""
