"""What must be equal for lifetimes to be averaged, and its fingerprint.

A setting is a flat dictionary: the name of the protocol, the stream with its budgets and
examinations, the edition of its stories, the rows of a batch, the schema of the log. Seeds, orders,
arms and the options of agents are not in it, nor are the arms of examinations and the anatomy:
examinations leave no trace, so these change nothing that is lived. It is written into every log; of
older logs it is taken from their configuration.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stillknows.envs.tasks import edition_of, suggest

PROTOCOLS = ("identity hidden", "boundaries told", "identity told", "joint", "scratch")
SEED = "seed"  # in the place of options that are the seed's, such as the life of a world
_INTERIM = ("stream.exam_every", "stream.interim_episodes")

Setting = dict[str, Any]


def protocol_of(config: DictConfig, plugins: Sequence[Any] = ()) -> str:
    """Return the name of the protocol of a lifetime.

    Args:
        config: of the lifetime; `protocol` names it.
        plugins: of the lifetime; one with `told = "identity"` is told it, whatever is named.

    Raises:
        ValueError: if it is not one of `PROTOCOLS`.
    """
    if config.stream.joint:
        return "joint"
    if any(getattr(plugin, "told", "") == "identity" for plugin in plugins):
        return "identity told"
    name = str(config.get("protocol", PROTOCOLS[0]))
    if name not in PROTOCOLS:
        raise ValueError(f"There is no protocol '{name}'. {suggest(name, PROTOCOLS)}")
    return name


def setting_of(config: DictConfig, schema: int, plugins: Sequence[Any] = ()) -> Setting:
    """Return the setting of a lifetime from its configuration and plugins."""
    seedless = config.copy()
    seedless.seed = SEED
    whole: Any = OmegaConf.to_container(seedless, resolve=True)
    setting = _setting(whole, protocol_of(config, plugins), schema)
    makers = [str(value) for name, value in setting.items() if name.endswith("._target_")]
    return {**setting, "edition": edition_of(makers)}


def logged_setting(head: Mapping[str, Any]) -> Setting:
    """Return the setting of a lifetime from the first event of its log, of any age."""
    if "setting" in head:
        return dict(head["setting"])
    config = head.get("config") or {}
    found = _setting(config, head["protocol"], head["schema"])
    if not config:
        return {**found, "tasks": list(head["tasks"])}
    life = "stream.tasks.life"
    if found.get(life) == head["seed"]:
        found[life] = SEED
    return found


def fingerprint(setting: Setting) -> str:
    """Return eight letters that differ where settings differ."""
    return hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()[:8]


def differences(one: Setting, other: Setting) -> str:
    """Return what differs between two settings, such as `rows (8 against 32)`."""
    names = [n for n in {**one, **other} if one.get(n) != other.get(n)]
    return ", ".join(f"{n} ({one.get(n)} against {other.get(n)})" for n in names)


def _setting(config: Mapping[str, Any], protocol: str, schema: int) -> Setting:
    stream = dict(config.get("stream", {}))
    stream.pop("joint", None)  # the protocol says it
    found: Setting = {"protocol": protocol, "schema": schema}
    if "rows" in config:
        found["rows"] = config["rows"]
    found |= flat(stream, "stream")
    if not found.get(_INTERIM[0]):
        for name in _INTERIM:
            found.pop(name, None)
    return found


def flat(tree: Mapping[str, Any], name: str = "") -> Setting:
    """Return the leaves of nested dictionaries by their dotted names."""
    leaves: Setting = {}
    for key, value in tree.items():
        inside = f"{name}.{key}" if name else str(key)
        leaves |= flat(value, inside) if isinstance(value, Mapping) else {inside: value}
    return leaves
