"""Benchmarks: ratios within one run, against floors kept as data in ``floors.yaml``."""
