"""The copy of whole tables, the first one and those beside a running stream."""
