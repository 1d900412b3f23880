"""Task heads, one a file."""
