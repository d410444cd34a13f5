"""Stories of who lives where, an agent whose parts can be broken one by one, and its life."""

from typing import Any

import gymnasium
import torch
from torch import Tensor, nn

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.controllers.controller import Cache, Controller
from stillknows.agents.controllers.tokenizer import END, WordTokenizer
from stillknows.agents.episode import live
from stillknows.agents.examinations.trace import names
from stillknows.agents.remembering import Remembering
from stillknows.agents.reports.log import LifetimeLog
from stillknows.envs.tasks import Task, make
from stillknows.envs.text import Answer, Story, StoryTask
from stillknows.memory.interface import Read
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.slots import Slots, SlotsState

PEOPLE = tuple(f"person{number}" for number in range(6))
PLACES = tuple(f"place{number}" for number in range(6))
WORDS = (*PEOPLE, *PLACES, "went", "to", "where", "is", "?", ".", "nowhere", "now")


class Homes(StoryTask):
    """Everybody goes somewhere, then one is asked for; `carried` asks for it an episode later.

    Args:
        carried: whether the fact was told in the training episode of the same number.
        hopeless: whether what is asked for was not told at all.
    """

    def __init__(self, carried: bool = False, hopeless: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.carried, self.hopeless = carried, hopeless

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return WORDS

    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        if self.carried:  # the training episode e told it, and this one does not
            who, where = PEOPLE[episode % 6], PLACES[episode % 6]
            answer = Answer(where, ((episode, 0),), carried=True)
            sentences = ("now .", f"where is {who} ?")
            return Story(episode + 100, sentences, sentences, (None, answer))
        asked = key % 4  # of the first four: room for five people and one, who is not asked for
        lines = [f"{who} went to {PLACES[(n + key) % 6]} ." for n, who in enumerate(PEOPLE)]
        target = "went" if self.hopeless else PLACES[(asked + key) % 6]
        question = f"now where is {PEOPLE[asked]} ?"
        answers = (*[None] * len(lines), Answer(target, ((episode, asked),)))
        return Story(episode, (*lines, question), (*lines, question), answers)


class Told(Homes):
    """Training: one fact an episode, asked for at once."""

    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        who, where = PEOPLE[episode % 6], PLACES[episode % 6]
        sentences = (f"{who} went to {where} .", f"where is {who} ?")
        return Story(episode, sentences, sentences, (None, Answer(where, ((episode, 0),))))


for _id, _class in (("Homes-v0", Homes), ("Told-v0", Told)):
    if _id not in gymnasium.registry:
        gymnasium.register(_id, entry_point=_class)
HERE = Task("here", "Homes-v0", {}, {})
EARLIER = Task("earlier", "Told-v0", {}, {})
LATER = Task("earlier", "Homes-v0", {}, {"carried": True})


class Oracle(Controller):
    """Hears sentences as bags of words; says the word that the soft token is most like."""

    def __init__(self, vocabulary: int, otherwise: int) -> None:
        super().__init__(vocabulary)
        self.otherwise = otherwise  # what it says if nothing comes to mind
        self.weight = nn.Parameter(torch.eye(vocabulary))

    def encode(self, tokens_BL: Tensor, own_BL: Tensor | None = None) -> tuple[Tensor, Cache]:
        bags_BLV = nn.functional.one_hot(tokens_BL, self.width).float() * (tokens_BL > 0)[..., None]
        return bags_BLV.sum(dim=1) @ self.weight, []

    def answer_logits(
        self, fused_BD: Tensor, text_BL: Tensor, cache: Cache, answer_BA: Tensor
    ) -> Tensor:
        logits_BSV = torch.zeros(len(fused_BD), 1 + answer_BA.shape[1], self.width)
        logits_BSV[:, 0] = 20 * fused_BD
        logits_BSV[:, 0, self.otherwise] += 10.0
        logits_BSV[:, 1:, END] = 50.0
        return logits_BSV


class Lookup(Slots):
    """Slots that are read by the people in them: who is asked for is found."""

    def __init__(self, slots: int, word_size: int, people: Tensor) -> None:
        super().__init__(slots, word_size, hops=1, heads=1, recency=(0.0,))
        self.register_buffer("people", people)
        self.scrambled = False

    def read(self, state: SlotsState, query_BW: Tensor) -> tuple[SlotsState, Read]:
        people_BNW = state.values_BNW * self.people
        asked_BW = query_BW * self.people
        if self.scrambled:
            asked_BW = asked_BW[:, torch.cat([self.people.nonzero()[:, 0]]).roll(1).new_tensor(
                _cycle(self.people)
            )]  # fmt: skip
        scores_BN = 20 * (people_BNW * asked_BW[:, None]).sum(dim=2)
        filled_BN = state.birth_BN >= 0
        weights_BN = scores_BN.masked_fill(~filled_BN, -1e9).softmax(dim=1) * filled_BN
        slots_BN = torch.arange(self.slots).expand_as(weights_BN)
        values_B1W = weights_BN[:, None] @ state.values_BNW
        return state, Read(values_B1W, slots_BN[:, None], weights_BN[:, None])


def _cycle(people: Tensor) -> list[int]:
    """Return every place, those of people moved on by one."""
    at = people.nonzero()[:, 0].tolist()
    moved = dict(zip(at, [*at[1:], at[0]], strict=True))
    return [moved.get(place, place) for place in range(len(people))]


class Places(nn.Module):
    """The fuse: the places of what was read."""

    def __init__(self, places: Tensor) -> None:
        super().__init__()
        self.places = nn.Parameter(places)

    def forward(self, seen: Tensor, read: Tensor | None, recalled: Tensor | None) -> Tensor:
        none = torch.zeros_like(seen)
        return none if read is None else read[:, 0] * self.places


def oracle(slots: int = 6, entries: int = 6, **parts: Any) -> MemoryAgent:
    """Return an agent that knows what to do, with room for all; it was not trained."""
    tokenizer = WordTokenizer(WORDS)
    size = len(tokenizer)
    marks = {name: torch.zeros(size) for name in ("people", "places")}
    marks["people"][[tokenizer.ids[word] for word in PEOPLE]] = 1
    marks["places"][[tokenizer.ids[word] for word in PLACES]] = 1
    policy = parts.pop("episodic_policy", EvictOldest())
    store = NEC(entries, size, size, policy, story_shape=(8, 12), neighbours=2)
    agent = MemoryAgent(
        tokenizer,
        Oracle(size, tokenizer.ids["nowhere"]),
        Lookup(slots, size, marks["people"]),
        parts.pop("working_policy", EvictOldest()),
        store,
        Places(marks["places"]),
        **parts,
    )
    assert agent.trust is not None
    agent.trust.bias.data.fill_(-16.0)  # what is recalled is believed
    agent.trust.weight.data[0, 0] = -4.0  # if it is this very question
    return agent


def train(agent: MemoryAgent, task: Task, episodes: int, log: LifetimeLog | None = None) -> None:
    """Let the store remember so many episodes, and log its decisions as a life does."""
    remembering = Remembering(agent)
    for first in range(episodes):
        envs = make(task, 1, task.train)
        live(agent, envs, remembering, task=0, seed=first, options={"episode": first})
    written, heard = remembering.written(), remembering.names()
    if log is not None:
        log.append(
            "update",
            experience=0,
            task=0,
            actions="".join("saum"[each.action] for each in written),
            written=[each.entry for each in written],
            evicted=[each.evicted for each in written],
            names=names(written, heard),
        )


def settings(number: int) -> dict[str, Any]:
    return {"number": number, "episodes": 12, "rows": 5, "seed": 0, "whole": True}


class Others(Told):
    """Episodes about the same people, whose questions are asked in other words."""

    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        story = super().tell(key, episode, options)
        sentences = (story.sentences[0], story.sentences[1].replace("where", "to where"))
        return story._replace(sentences=sentences)


if "Others-v0" not in gymnasium.registry:
    gymnasium.register("Others-v0", entry_point=Others)
HERE_AGAIN = Task("others", "Others-v0", {}, {})
