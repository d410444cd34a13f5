"""A dialogue with an agent, without Gymnasium: it hears sentences, answers, may be put right.

agent = Dialogue(load_agent(Path("runs/microworld-1/both-seed0/agent.safetensors")))
agent.observe("John went to the garden.")
agent.answer("Where is John?")          # garden
agent.correct("garden")                 # remembered for life
agent.save(Path("john.safetensors"))    # and Dialogue.load(...) in another program
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.episode import bracketed
from stillknows.agents.persistence.container import as_state, as_tree
from stillknows.agents.persistence.keeping import read_agent, write_agent
from stillknows.agents.persistence.memory_places import live_in
from stillknows.agents.remembering import Marked, Remembering
from stillknows.agents.thought import AgentState, Thought


class Dialogue:
    """A conversation with one agent. Sentences are written as its tokenizer wants them.

    Args:
        agent: who listens and answers. Its weights stay as they are; what is corrected changes
            its episodic memory.
        memory: the place of a database to live on in, as in `load`.

    Raises:
        ValueError: if there is a place and the agent has no episodic memory, or what is there is
            broken or foreign.
        OSError: if the database cannot be opened.
    """

    def __init__(self, agent: MemoryAgent, memory: str | None = None) -> None:
        if memory is not None:
            if agent.episodic_memory is None:
                raise ValueError(f"An agent without an episodic memory cannot live on in {memory}.")
            agent.episodic_memory = live_in(agent.episodic_memory, memory)
        self.agent = agent.eval()
        self.episode = 0
        self._state = self._begin()
        self._thought: Thought | None = None
        self._answer = ""

    def observe(self, text: str) -> None:
        """Hear one sentence.

        Raises:
            ValueError: if it is longer than the controller reads; then it was not heard.
        """
        plain = self.agent.tokenizer.plain(text)
        if plain and not self.agent.controller.hears_trees:
            with torch.no_grad():
                self.agent.controller.encode(self.agent.tokenizer.batch([plain], self.agent.device))
        self._step(text, asked=False)

    @torch.no_grad()
    def answer(self, question: str) -> str:
        """Return the agent's answer to a question.

        Raises:
            ValueError: if the question holds no words.
        """
        if not self.agent.tokenizer.plain(question):
            raise ValueError(f"The question {question!r} holds no words.")
        follow = getattr(self.agent.episodic_memory, "follow", None)
        if follow is not None:
            follow()  # others may share it
        return self._step(question, asked=True)

    @torch.no_grad()
    def correct(self, target: str) -> None:
        """Say what the last answer should have been: the episodic memory may remember it.

        Raises:
            ValueError: if nothing was answered yet, there is no episodic memory, or the agent could
                not say the target: it has no words, letters that the agent does not know, or more
                tokens than `agent.answer_length`.
        """
        thought = self._thought
        if thought is None:
            raise ValueError("Nothing was answered yet: ask a question first.")
        if self.agent.episodic_memory is None:
            raise ValueError("This agent has no episodic memory that could remember.")
        tokenizer, said = self.agent.tokenizer, target
        target = tokenizer.plain(target)
        tokens = self.agent.answer_tokens([target])[0].tolist()
        if not target or tokenizer.decode(tokens) != target:
            raise ValueError(
                f"The agent cannot say {said!r}: it has no words, unknown letters, or more than "
                f"agent.answer_length={self.agent.answer_length} tokens."
            )
        right = float(self._answer == target)
        step = len(thought.stories[0]) - 1  # of the question; more may have been heard since
        marked = Marked((target,), (right,), (False,), (self.episode,), (step,), task=-1)
        Remembering(self.agent).mark(thought, marked)

    def begin(self) -> None:
        """Begin another story: the working memory is empty, the episodic memory stays."""
        self.episode += 1
        self._state, self._thought = self._begin(), None

    def _begin(self) -> AgentState:
        """Return the state before the first sentence of a story, which its number names."""
        return self.agent.initial_state(1, torch.tensor([self.episode]))

    def save(self, path: Path) -> None:
        """Write the agent and where the dialogue stands into a file."""
        working = as_tree(self._state.working)
        told = {"working": working, "story": self._state.story, "written": self._state.written}
        told["items"] = self._state.items
        write_agent(self.agent, path, {"episode": self.episode, **told})

    @classmethod
    def load(cls, path: Path, allow: Sequence[str] = (), memory: str | None = None) -> "Dialogue":
        """Go on from a file that `save` wrote, or begin with an agent that was kept.

        Args:
            path: of the file.
            allow: as in `stillknows.agents.persistence.keeping.load_agent`.
            memory: the place of a database to live on in, `FILE` or `postgres:NAME`, where every
                correction is kept at once; one that is new begins as the file's memory. None: the
                memory of the file, which stays as it is.

        Raises:
            ValueError: with one sentence, if it is not there, broken or foreign.
            OSError: if the database cannot be opened.
        """
        agent, told = read_agent(path, allow=allow)
        dialogue = cls(agent, memory)
        try:
            if told is not None:
                dialogue._go_on(told)
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds an agent, but no dialogue that can go on.") from error
        return dialogue

    def _go_on(self, told: Any) -> None:
        """Stand where a saved dialogue stood."""
        working = as_state(self._state.working, told["working"])
        (story,), (written,) = told["story"], told["written"]
        (items,) = told.get("items", [story[:written]])
        lines = all(isinstance(line, str) for line in (*story, *items))
        if not lines or not 0 <= written <= len(story):
            raise ValueError("The story that was kept is broken.")
        self.episode = int(told["episode"])
        self._state = AgentState(working, (tuple(story),), (int(written),), (tuple(items),))

    def _step(self, text: str, asked: bool) -> str:
        plain = self.agent.tokenizer.plain(text)
        if not plain:
            return ""
        heard = bracketed(plain, "") if self.agent.controller.hears_trees else plain
        (answer,), self._state, thought = self.agent.step([heard], [asked], self._state)
        if thought is not None:
            self._thought, self._answer = thought, answer
        return answer


def talk(
    path: Path,
    lines: Iterable[str],
    out: TextIO,
    memory: str | None = None,
    allow: Sequence[str] = (),
) -> Dialogue:
    """Hold a dialogue line by line: sentences are heard, questions (?) answered.

    A line that begins with `=` says what the last answer should have been, an empty line begins
    another story. What cannot be done is said, and the dialogue goes on. The file is not changed.

    Args:
        path: of an agent or a dialogue.
        lines: what is said.
        out: where answers go.
        memory: of a database to live on in; see `Dialogue.load`.
        allow: as in `Dialogue.load`.

    Raises:
        ValueError: with one sentence, if the file is not there, broken or foreign.
    """
    dialogue = Dialogue.load(path, allow, memory)
    for line in map(str.strip, lines):
        try:
            said = _reply(dialogue, line)
        except ValueError as error:
            said = f"({error})"
        if said is not None:
            print(said, file=out, flush=True)
    if memory is not None and dialogue.agent.episodic_memory is not None:
        dialogue.agent.episodic_memory.flush()
        dialogue.agent.episodic_memory.store.close()
    return dialogue


def _reply(dialogue: Dialogue, line: str) -> str | None:
    if not line:
        dialogue.begin()
    elif line.startswith("="):
        dialogue.correct(line[1:])
    elif line.endswith("?"):
        return dialogue.answer(line)
    else:
        dialogue.observe(line)
    return None
