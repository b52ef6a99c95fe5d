"""Suites: the prompts that an audit asks, their variants by rule, and checks of what is answered. No I/O."""
