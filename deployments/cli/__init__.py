"""The command line: parses, calls the operations, prints."""
