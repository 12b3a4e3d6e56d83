"""The stream of changes: read from the source, written to the target."""
