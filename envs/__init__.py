"""Environments, the streams that order them, and the metrics of a lifetime.

Importing this package registers its environments with Gymnasium, by name only: the modules
themselves are loaded when an environment is made.
"""

from typing import Any

import gymnasium

MICROWORLD = {
    "stillknows/WherePerson-v0": "where_person",
    "stillknows/WhereObject-v0": "where_object",
    "stillknows/WhereObjectBefore-v0": "where_object_before",
    "stillknows/CountObjects-v0": "count_objects",
    "stillknows/Route-v0": "route",
}

ALGORITHMIC: dict[str, dict[str, Any]] = {
    "stillknows/Copy-v0": {"task": "copy"},
    "stillknows/CopySeries-v0": {
        "task": "copy",
        "min_length": 5,
        "max_length": 5,
        "sequences": 10,
    },
    "stillknows/RepeatCopy-v0": {"task": "repeat_copy"},
    "stillknows/AssociativeRecall-v0": {"task": "associative_recall"},
    "stillknows/GraphTraversal-v0": {"task": "graph_traversal"},
    "stillknows/ShortestPath-v0": {"task": "shortest_path"},
    "stillknows/FamilyTree-v0": {"task": "family_tree"},
}

GENERATED = {
    "stillknows/Kinship-v0": "kinship",
    "stillknows/Traversal-v0": "traversal",
    "stillknows/ShortestWay-v0": "shortest_way",
    "stillknows/Succession-v0": "succession",
    "stillknows/Programs-v0": "programs",
    "stillknows/Induction-v0": "induction",
    "stillknows/Reading-v0": "reading",
    "stillknows/DialogueState-v0": "dialogue_state",
    "stillknows/Summary-v0": "summary",
    "stillknows/Code-v0": "code",
    "stillknows/Relations-v0": "relations",
    "stillknows/Topics-v0": "topics",
    "stillknows/Forecast-v0": "forecast",
    "stillknows/Planning-v0": "planning",
}

for _name, _task in MICROWORLD.items():
    gymnasium.register(
        _name,
        entry_point="stillknows.envs.microworld:Microworld",
        vector_entry_point="stillknows.envs.microworld:MicroworldVectorEnv",
        kwargs={"task": _task},
    )

gymnasium.register(
    "stillknows/Babi-v0",
    entry_point="stillknows.envs.babi:BabiTask",
    vector_entry_point="stillknows.envs.babi:BabiVectorEnv",
)

gymnasium.register(
    "stillknows/KeyValueRecall-v0",
    entry_point="stillknows.envs.recall:KeyValueRecall",
    vector_entry_point="stillknows.envs.recall:KeyValueRecallVectorEnv",
)

gymnasium.register(
    "stillknows/Examples-v0",
    entry_point="stillknows.envs.examples:ExampleTask",
    vector_entry_point="stillknows.envs.examples:ExampleVectorEnv",
)

gymnasium.register(
    "stillknows/ReasoningGym-v0", entry_point="stillknows.envs.reasoning_gym:ReasoningGym"
)

for _name, _dials in ALGORITHMIC.items():
    gymnasium.register(
        _name,
        entry_point="stillknows.envs.algorithmic:Algorithmic",
        vector_entry_point="stillknows.envs.algorithmic:AlgorithmicVectorEnv",
        kwargs=_dials,
    )

for _name, _task in GENERATED.items():
    gymnasium.register(
        _name,
        entry_point="stillknows.envs.generated:Generated",
        vector_entry_point="stillknows.envs.generated:GeneratedVectorEnv",
        kwargs={"task": _task},
    )

gymnasium.register(
    "stillknows/Composed-v0",
    entry_point="stillknows.envs.compositional:Composed",
    vector_entry_point="stillknows.envs.compositional:ComposedVectorEnv",
)

gymnasium.register(
    "stillknows/CartPole-v0",
    entry_point="stillknows.envs.cart_pole:CartPole",
    max_episode_steps=200,
    reward_threshold=195.0,
)

gymnasium.register(
    "stillknows/TextWorld-v0",
    entry_point="stillknows.envs.textworld:TextWorld",
    max_episode_steps=200,
    reward_threshold=1.0,
)
