"""Configurations of adapters: what peft writes by itself is read, and what nobody could follow is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from peft import LoraConfig

from raylens.engine import adapter_config
from raylens.errors import InputError


def test_settings_of_peft_are_all_known(tmp_path: Path) -> None:
    """A newer peft may bring a setting that is on by default; it would have to be looked at."""
    defaults = json.loads(json.dumps(LoraConfig(r=4).to_dict(), default=sorted))
    (tmp_path / adapter_config.CONFIG).write_text(json.dumps(defaults))
    assert adapter_config.read_config(tmp_path, "new") == defaults
    assert {key: defaults[key] for key in adapter_config._UNUSED} == adapter_config._UNUSED


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "has no adapter_config.json that can be read"),
        ('{"r": ' * 100_000, "has no adapter_config.json that can be read"),
        ('{"peft_type": "LORA", "r": ' + "9" * 5000 + "}", "has no adapter_config.json that can be read"),
        ("", "has no adapter_config.json that can be read"),
        ("[]", "is no object"),
        ('{"peft_type": ["LORA"]}', "is an adapter of type unknown"),
        ('{"peft_type": "LORA", "init_lora_weights": {"a": 1}}', "was begun with"),
    ],
)
def test_what_is_no_configuration(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / adapter_config.CONFIG).write_text(text)
    with pytest.raises(InputError, match=says):
        adapter_config.read_config(tmp_path, "new")
