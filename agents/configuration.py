"""Configurations: composed by Hydra, and every mistake in them told in one sentence."""

import difflib
import importlib
import math
import pkgutil
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stillknows.agents.choices import (
    arms_with,
    choices,
    command_of,
    groups,
    options_of_arms,
)
from stillknows.envs.tasks import suggest

_ONE_OR_EACH = ("stream.episodes", "stream.steps")  # one number, or one a task
_OR_NULL = (  # numbers that need not be given
    *("learner.sequence", "learner.steps", "log.part", "episodic_memory.past"),
    "stream.exam_episodes",
)
PLUGINS = "stillknows.plugins"  # a group of entry points
_RULES = {"working_policy": "evict_oldest", "episodic_policy": "reservoir"}  # without options
_UNKNOWN = re.compile(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'")


def compose_config(overrides: Sequence[str], command: str = "train") -> DictConfig:
    """Return the configuration of a command, `stillknows.configs.COMMAND`.

    Raises:
        ValueError: with one sentence, if an override is wrong.
    """
    for override in overrides:
        if override.startswith("="):
            raise ValueError(f"'{override}' cannot be read: an option is NAME=VALUE.")
        _expect_name(override)
    _expect_command(overrides, "train" if command == "sweep" else command)
    if command != "solve":  # where no policy can be chosen
        overrides = _plugged(overrides)
    try:
        with initialize_config_module("stillknows.configs", version_base="1.3"):
            config, plain = compose(command, list(overrides)), compose(command, _groups(overrides))
        for override in overrides:
            name, _, value = override.partition("=")
            _expect_kind(name, value, *(OmegaConf.select(c, name) for c in (plain, config)))
    except MissingConfigException as error:
        group, _, wrong = str(error.missing_cfg_file or "").strip("/").rpartition("/")
        raise ValueError(
            f"There is no {group} '{wrong}'. {suggest(wrong, choices(group))}"
        ) from error
    except OverrideParseException as error:
        quoted = "what holds spaces or '=' wants quotes, as in 'arms=[\"none learner.clip=2\"]'."
        advice = quoted if "=" in error.override else "an option is NAME=VALUE."
        raise ValueError(f"'{error.override}' cannot be read: {advice}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(
            f"The options do not fit: {_first_sentence(error)}{_near(error, command, overrides)}"
        ) from error
    return config


def expect_lists(config: DictConfig, *names: str) -> None:
    """Raise a ValueError if an option is not a list with something in it."""
    for name in names:
        if not OmegaConf.is_list(config[name]):
            raise ValueError(f"{name}={config[name]} should be a list, such as {name}=[…].")
        if not len(config[name]):
            raise ValueError(f"{name}=[] is empty: name at least one.")


def expect_whole(config: DictConfig, *names: str) -> None:
    """Raise a ValueError if an option is not a whole number of at least 1 (seed and order: 0)."""
    for name in names:
        value, least = OmegaConf.select(config, name), int(name not in ("seed", "order"))
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value} should be a whole number, at least {least}.")


def expect_workers(config: DictConfig) -> None:
    """Raise a ValueError if `workers` is neither a number of processes nor null."""
    if config.workers is not None:
        expect_whole(config, "workers")


def expect_device(config: DictConfig) -> None:
    """Raise a ValueError if the device is not there."""
    try:
        torch.empty(0, device=torch.device(config.device))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={config.device} is not there; choose device=cpu or see that CUDA works."
        ) from error


def new_folder(config: DictConfig, name: str) -> Path:
    """Return a folder that is not there yet: the one asked for, or the next number below runs/."""
    if config.run is not None:
        run = Path(config.run)
        if run.exists():
            raise ValueError(f"{run} exists already and is left as it is: choose another run=….")
        return run
    number = 1
    while (run := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return run


def expect_targets(config: DictConfig) -> None:
    """Raise a ValueError if a `_target_` names what is not there."""
    try:
        for target in _targets(OmegaConf.to_container(config, resolve=True)):
            instantiate({"_target_": target, "_partial_": True})
    except (InstantiationException, OmegaConfBaseException) as error:
        raise ValueError(cause(error)) from error


def _targets(tree: Any) -> Iterator[str]:
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for name, part in parts:
        if name == "_target_" and part != "???":
            yield str(part)
        elif isinstance(part, dict | list):
            yield from _targets(part)


def cause(error: BaseException) -> str:
    """Return the first sentence of the mistake at the bottom of a chain of exceptions."""
    told = str(error)  # by Hydra, with the place of the part that could not be made
    lost = re.match(r"Error locating target '([^']*)'", told)
    while error.__cause__ is not None:
        error = error.__cause__
    sentence, place = _first_sentence(error), re.search(r"full_key: (\S+)", told)
    if lost is not None:
        return _lost(lost[1], error, sentence)
    unknown = _UNKNOWN.match(sentence)
    if place is None:
        return sentence
    if unknown is None:
        return f"{place[1]}.{sentence}" if re.match(r"\w+=", sentence) else sentence
    taker, option = unknown.groups()
    return f"{taker} has no option '{option}': leave it away with '~{place[1]}.{option}'."


def _lost(target: str, error: BaseException, sentence: str) -> str:
    """Return what is wrong with the name of a class that could not be had, and the way out."""
    missing = f"{getattr(error, 'name', None) or ''}."
    own = isinstance(error, AttributeError) and f".{target}.".endswith(f".{missing}")
    if not (own or f"{target}.".startswith(missing)):
        return f"{target} cannot be imported: {sentence.rstrip('.')}; mend its module."
    there, path, (wrong, *rest) = _as_far_as_there(target)
    inside = [name for name in dir(there) if not name.startswith("_")] if path else []
    inside += [module.name for module in pkgutil.iter_modules(getattr(there, "__path__", []))]
    close = difflib.get_close_matches(wrong, inside, n=1)
    if close:
        return f"There is no {target}. Did you mean '{'.'.join([*path, *close, *rest])}'?"
    where = f"{'.'.join(path)} has no '{wrong}'" if path else f"no module '{wrong}' can be imported"
    return f"There is no {target}: {where}. A class is named by its module, _target_=MODULE.CLASS."


def _as_far_as_there(target: str) -> tuple[Any, list[str], list[str]]:
    """Return what a dotted name leads to as far as it is there, its parts so far, and the rest."""
    there, parts = None, target.split(".")
    for number, part in enumerate(parts):
        try:
            if number and hasattr(there, part):
                there = getattr(there, part)
            else:
                there = importlib.import_module(".".join(parts[: number + 1]))
        except (ImportError, ValueError):
            return there, parts[:number], parts[number:]
    return there, parts, [""]


def _plugged(overrides: Sequence[str]) -> list[str]:
    """Return the overrides; a policy that is plugged in stands there by its class alone.

    A package names it in the group of entry points `stillknows.plugins`, for example
    `working_policy.mine = "my_package.policies:Mine"`, and `working_policy=mine` chooses it.
    """
    there = {each.name: each.value for each in entry_points(group=PLUGINS)}
    found: list[str] = []
    for group, rule in _RULES.items():
        own = (f"{group}._target_=", f"{group.replace('policy', 'memory')}._target_=")
        named = any(each.startswith(own) for each in overrides)
        if named and not any(each.startswith(f"{group}=") for each in overrides):
            found.append(f"{group}={rule}")  # the usual one has options, and goes with few memories
    for override in overrides:
        group, _, name = override.partition("=")
        if group in _RULES and f"{group}.{name}" in there:
            target = there[f"{group}.{name}"].replace(":", ".")
            found += [f"{group}={_RULES[group]}", f"{group}._target_={target}"]
        else:
            found.append(override)
    return found


def _groups(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that choose a part, without those that set its options."""
    folder = files("stillknows.configs")
    return [each for each in overrides if (folder / each.partition("=")[0]).is_dir()]


def _expect_name(override: str) -> None:
    """Raise a ValueError if what chooses a part is no name: a number, nothing, a dictionary."""
    group, given, value = override.partition("=")
    name = value.strip(" '\"[]")
    if not given or group not in groups() or "${" in value:
        return
    if not re.fullmatch(r"[a-zA-Z_][\w.-]*", name) or name.lower() in ("null", "true", "false"):
        raise ValueError(f"{override} should be a name. Known: {', '.join(choices(group))}.")


def _expect_command(overrides: Sequence[str], command: str) -> None:
    """Raise a ValueError if an experiment is not there, or is one of another command."""
    for override in overrides:
        group, _, name = override.partition("=")
        if group in ("experiment", "debug") and name not in ("", "null"):
            known = choices(group)
            if name not in known:  # Hydra leaves an optional group away
                raise ValueError(f"There is no {group} '{name}'. {suggest(name, known)}")
            theirs = command_of(group, name)
            if theirs != command:
                raise ValueError(f"{override} is for `stillknows {theirs}`, not for {command}.")


def _expect_kind(name: str, value: str, usual: Any, given: Any) -> None:
    """Raise a ValueError if a number, a list, or true or false, was given as something else."""
    if name in _ONE_OR_EACH:
        _expect_one_or_each(name, value, usual, given)
        return
    if name in _OR_NULL and given is None:
        return
    if OmegaConf.is_list(usual) and not OmegaConf.is_list(given):
        raise ValueError(f"{name}={value} should be a list, such as {name}=[…].")
    if OmegaConf.is_dict(usual) and given is not None and not OmegaConf.is_dict(given):
        raise ValueError(f"{name}={value} should be options by name, such as '{name}={{NAME: …}}'.")
    if isinstance(usual, bool):
        if not isinstance(given, bool):
            raise ValueError(f"{name}={value} should be true or false.")
    elif isinstance(usual, int | float) and (
        not isinstance(given, int | float) or math.isnan(given)
    ):
        raise ValueError(f"{name}={value} should be a number, such as {usual}.")


def _expect_one_or_each(name: str, value: str, usual: Any, given: Any) -> None:
    """Raise a ValueError if a budget is neither a number nor numbers; of acting it may be null."""
    each = list(given) if OmegaConf.is_list(given) else [given]
    kinds = (int, float, type(None)) if usual is None or name == "stream.steps" else (int, float)
    if not all(isinstance(one, kinds) and not isinstance(one, bool) for one in each):
        raise ValueError(
            f"{name}={value} should be a number for all tasks, such as {name}=6400, or a list with "
            f"one for each, {name}=[…]."
        )


def _near(error: BaseException, command: str, overrides: Sequence[str]) -> str:
    """Return a suggestion for the misspelled option that an error names, if it names one."""
    found = re.search(r"Could not override '(?:(.*)\.)?([^'.]+)'", str(error))
    if found is None:
        return ""
    part, wrong = found.groups()
    if not part and arms_with(wrong):
        return _with_its_arm(wrong, overrides)
    with initialize_config_module("stillknows.configs", version_base="1.3"):
        usual, chosen = compose(command), compose(command, _groups(overrides))
    chosen_part = OmegaConf.select(chosen, part) if part else None
    beside = [str(name) for name in chosen_part] if isinstance(chosen_part, DictConfig) else []
    if difflib.get_close_matches(wrong, beside):
        return f" {suggest(wrong, beside)}"
    known = _names(usual)
    if wrong in known:
        return (
            " What was chosen has no such option; one that only some arms have is given to them, "
            'arms=["ARM NAME=…"].'
        )
    known += [*groups(), *options_of_arms()]
    return f" {suggest(wrong, known)}" if difflib.get_close_matches(wrong, known) else ""


def _with_its_arm(option: str, overrides: Sequence[str]) -> str:
    """Return how to give an option that only some arms have."""
    given = next((each for each in overrides if each.startswith(f"{option}=")), f"{option}=…")
    ways = " or ".join(f"'arms=[\"{arm} {given}\"]'" for arm in arms_with(option))
    return f" It stands with an arm that has it: {ways}."


def _names(config: DictConfig) -> list[str]:
    """Return the names of all options, at every depth, without repeats."""
    names: dict[str, None] = {}
    for name in config:
        names[str(name)] = None
        inner = config._get_node(name)
        if isinstance(inner, DictConfig) and not inner._is_none():
            names.update(dict.fromkeys(_names(inner)))
    return list(names)


def _first_sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
