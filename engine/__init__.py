"""Everything that knows nothing of Prefect: copy, stream, fold, apply, verify.

Its modules are pure (no driver, no clock); `engine.postgres` is the one driver.
"""
