"""Measurements of Skylift beside its peers: ``python -m benchmarks.NAME``.

Every benchmark runs all sides in the same minutes on the same machine, in turns, prints a table, and
ends with one line of JSON. docs/benchmarks.md says what each side does, and has figures.
"""
