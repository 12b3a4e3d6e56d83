"""Rows that the target refuses: found, kept, offered again."""
