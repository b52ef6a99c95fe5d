"""Suites as YAML that people can read: keys in their order, text of several lines as a block."""

from __future__ import annotations

from typing import Any

import yaml


def write_yaml(value: object) -> str:
    """``value`` (lists, mappings, text, numbers) as YAML in which text of several lines is a block."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _block_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _block_text)
