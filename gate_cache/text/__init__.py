"""From text to tokens, as text encoders count them. No torch."""
