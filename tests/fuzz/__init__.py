"""Targets for a fuzzer: bytes from files that Frostline reads. `make fuzz` looks for bytes that break a promise.

A target is a module with `seeds()`, from which the fuzzer starts; `WORDS`, which it may put in; `MOST`, the bytes that
it may try; and `attempt(content, folder)`, which raises for a broken promise. `tests/test_fuzz.py` tries the seeds.
"""
