"""Models: where their files are, what they offer, and loading them. One family a file."""
