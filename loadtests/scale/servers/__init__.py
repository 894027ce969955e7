"""The servers that only the scale benchmark needs, each a program of its own."""
