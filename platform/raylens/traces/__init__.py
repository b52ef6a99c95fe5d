"""Spans of traces: one call of a language model each, what went in and what came out. Values and parsers only."""
