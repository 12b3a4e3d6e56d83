"""The steps of the flow: each is thin, over one module of the engine."""
