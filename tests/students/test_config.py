"""Options out of range are refused when the settings are made, without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from distill.errors import UserError
from students.config import DCNv2Config, DeepFMConfig, DINConfig, DLRMConfig

CONFIGS = [DLRMConfig, DeepFMConfig, DCNv2Config, DINConfig]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 6}, "options.dim: got 6, allowed: a positive multiple of 4"),
        ({"dim": 0}, "options.dim: got 0, allowed: a positive multiple of 4"),
        ({"mlp": []}, "options.mlp: got no layer"),
        ({"mlp": [8, 0]}, r"options.mlp: got \[8, 0\], allowed: widths of at least 1"),
        ({"history_length": -1}, "options.history_length: got -1"),
    ],
)
def test_common_options(config: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**options)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (DLRMConfig, {"bottom": [0]}, "options.bottom"),
        (DCNv2Config, {"cross_layers": 0}, "options.cross_layers: got 0, allowed: 1 or more"),
        (DCNv2Config, {"cross_rank": -1}, "options.cross_rank: got -1"),
        (DINConfig, {"history_length": 0}, "options.history_length: got 0, allowed: 1 or more"),
        (DINConfig, {"attention": []}, "options.attention: got no layer"),
    ],
)
def test_own_options(config: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**options)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_is_documented(config: Any) -> None:
    text = config.__doc__.partition("Attributes:")[2]
    assert [name for name in config.__dataclass_fields__ if f"        {name}: " not in text] == []


def test_settings_need_no_torch() -> None:
    code = "import sys, students.config, adapters.config, distill.inputs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
