"""The config tree: every key with its default, and how a file and overrides become a checked tree.

Nothing else under `slowfast` imports this package: a cfg arrives as an argument.
"""

from fvcore.common.config import CfgNode

from slowfast.config.defaults import add_section, default_cfg
from slowfast.config.load import load_cfg, parse_cfg
from slowfast.config.rules import find_problems
from slowfast.config.tree import Config

__all__ = [
    "CfgNode",
    "Config",
    "add_section",
    "default_cfg",
    "find_problems",
    "load_cfg",
    "parse_cfg",
]
