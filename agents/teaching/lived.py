"""What was lived, as stories for a policy to learn from."""

from collections.abc import Sequence

from stillknows.envs.text import Answer, Story


class Lived:
    """Collects the stories of a batch as they are lived, for a policy to learn from."""

    def __init__(self) -> None:
        self._stories: dict[int, tuple[str, ...]] = {}
        self._answers: dict[int, dict[int, Answer]] = {}

    def hear(
        self,
        stories: Sequence[tuple[str, ...]],
        targets: Sequence[str],
        carried: Sequence[bool],
        episodes: Sequence[int],
    ) -> None:
        """Take the marks of a step: stories up to their questions, and what was right."""
        rows = zip(stories, targets, carried, episodes, strict=True)
        for story, target, elsewhere, episode in rows:
            self._stories[episode] = story
            supports = ((-1 if elsewhere else episode, 0),)
            answers = self._answers.setdefault(episode, {})
            answers[len(story) - 1] = Answer(target, supports, elsewhere)

    def take(self) -> list[Story]:
        """Return the stories so far, and begin anew."""
        told = [
            Story(
                episode,
                story,
                ("",) * len(story),
                tuple(self._answers[episode].get(step) for step in range(len(story))),
            )
            for episode, story in self._stories.items()
        ]
        self._stories, self._answers = {}, {}
        return told
