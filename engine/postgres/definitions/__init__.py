"""Definitions at the target: made in the source's image, and following it when it changes."""
