"""The proof that both sides are equal, and the repair of what is not."""
