"""Topic tracking: a talk goes from topic to topic, never naming one, and the topic is asked for.

What is said holds a word of the topic's; which words belong to a topic (`TOPICS`) is never told and
must be learned from answers. Some sentences belong to no topic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from stillknows.envs.kinds.writing import Page, Problems, Ranges
from stillknows.envs.world import words

TOPICS = {
    "sport": words("goal match referee team"),
    "music": words("choir melody opera piano"),
    "weather": words("cloud hail sunshine thunder"),
    "health": words("clinic fever medicine surgeon"),
    "money": words("bank coin loan salary"),
}
_SAYS = (
    "((i heard) (of (the {word})) .)",
    "((you mentioned) (the {word}) .)",
    "((we spoke) (about (the {word})) .)",
)
_IDLE = ("(that (is true) .)", "((i see) .)", "((let us) (go on) .)")
_NOW = "(what (is (the topic)) ?)"
_BEFORE = "(what (was (the (topic before))) ?)"


@dataclass(frozen=True, kw_only=True)
class Topics(Problems):
    """What the topic is, or was before.

    Attributes:
        topics: that follow one another before each question; a topic can come back.
        sentences: said about each, at most.
        idle: share of the sentences that belong to no topic.
        questions: asked, each after so many more topics.
        before: share of the questions that ask for the topic before.
    """

    ranges: ClassVar[Ranges] = {
        "topics": (2, 20),
        "sentences": (1, 20),
        "idle": (0, 0.9),
        "questions": (1, 20),
        "before": (0, 1),
    }
    said: ClassVar[Sequence[str]] = (
        *(*_SAYS, *_IDLE, _NOW, _BEFORE, *TOPICS, *(w for words in TOPICS.values() for w in words)),
    )

    topics: int = 2
    sentences: int = 2
    idle: float = 0.2
    questions: int = 2
    before: float = 0.5

    @property
    def least_told(self) -> int:
        """How many sentences come before the first question at least."""
        return self.topics

    def write(self, draw: Random, page: Page) -> None:
        """Talk about topics and ask in between."""
        topic, last = "", 0
        for _ in range(self.questions):
            for _ in range(self.topics):
                earlier, step = topic, last
                topic = draw.choice([each for each in TOPICS if each != topic])
                last = self._talk(draw, page, topic)
            if draw.random() < self.before:
                page.ask(_BEFORE, earlier, (last, step))
            else:
                page.ask(_NOW, topic, (last,))

    def _talk(self, draw: Random, page: Page, topic: str) -> int:
        """Say sentences about a topic and return the step of the last that is about it."""
        last = page.tell(draw.choice(_SAYS).format(word=draw.choice(TOPICS[topic])))
        for _ in range(draw.randrange(self.sentences)):
            if draw.random() < self.idle:
                page.tell(draw.choice(_IDLE))
            else:
                last = page.tell(draw.choice(_SAYS).format(word=draw.choice(TOPICS[topic])))
        return last
