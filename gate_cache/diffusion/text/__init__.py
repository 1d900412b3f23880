"""From text to tokens, and from images to text."""
