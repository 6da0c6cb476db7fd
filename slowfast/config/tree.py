"""Config tree whose keys declare whether they belong to a run's identity and what they hold."""

from dataclasses import dataclass
from typing import Any, Literal

from fvcore.common.config import CfgNode

Kind = Literal["", "path", "strings", "numbers", "number_or_list"]


@dataclass(frozen=True)
class Key:
    """Declaration of a config key. Assign it to a `Config` to add the key."""

    default: Any
    is_identity: bool
    reason: str  # why the key is free to change, "" for an identity key
    kind: Kind


def identity(default: Any, *, kind: Kind = "") -> Any:
    """Declare a key that a resumed run must not change, because it changes what is trained.

    Args:
        default: Default value. Its type is the type of the key.
        kind: What the default alone does not tell. "path" is text in which a leading `~` is
            expanded, "strings" and "numbers" are lists that are empty by default, and
            "number_or_list" is a number or one number per stage.
    """
    return Key(default, is_identity=True, reason="", kind=kind)


def free(default: Any, reason: str, *, kind: Kind = "") -> Any:
    """Declare a key that a resumed run may change.

    Args:
        default: Default value. Its type is the type of the key.
        reason: Why the run stays the same run with another value.
        kind: What the default alone does not tell, see `identity`.
    """
    return Key(default, is_identity=False, reason=reason, kind=kind)


class Config(CfgNode):
    """A section of the config tree, or the whole tree.

    The declarations travel with the tree when it is cloned, pickled, frozen or merged into. A key
    without a declaration belongs to the identity.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # yacs takes only entries of __dict__ for its own state, and all else for config keys.
        self.__dict__["identity_keys"] = set()
        self.__dict__["free_keys"] = {}  # name -> reason
        self.__dict__["kinds"] = {}  # name -> kind, for keys that have one

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, Key):
            super().__setattr__(name, value)
            return

        super().__setattr__(name, value.default)
        if value.is_identity:
            self.identity_keys.add(name)
        else:
            self.free_keys[name] = value.reason
        if value.kind:
            self.kinds[name] = value.kind

    def identity_settings(self, *, prefix: str = "") -> dict[str, Any]:
        """Return the values of the keys that make a run the one it is.

        Args:
            prefix: Name of this section with a trailing dot, "" for the whole tree.

        Returns:
            Values by full key, such as SOLVER.WEIGHT_DECAY.
        """
        settings: dict[str, Any] = {}
        for name, value in self.items():
            if isinstance(value, Config):
                settings |= value.identity_settings(prefix=f"{prefix}{name}.")
            elif name not in self.free_keys:
                settings[f"{prefix}{name}"] = value

        return settings


def leaf_keys(tree: CfgNode, *, prefix: str = "") -> list[str]:
    """Return the full names of all keys of a tree, without its sections."""
    keys = []
    for name, value in tree.items():
        if isinstance(value, CfgNode):
            keys += leaf_keys(value, prefix=f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")

    return keys


def value_at(tree: CfgNode, key: str) -> Any:
    """Return the value of a key by its full name, such as SOLVER.BASE_LR."""
    node: Any = tree
    for name in key.split("."):
        node = node[name]

    return node
