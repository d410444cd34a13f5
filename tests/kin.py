"""Relatives, by the parents of each."""

from functools import partialmethod

from stillknows.envs.graphs import EDGES

# --- Families ----------------------------------------------------------------------------------

SEXES = {
    **dict.fromkeys(("mother", "daughter", "wife", "sister"), "female"),
    **dict.fromkeys(("father", "son", "husband", "brother"), "male"),
}


class Kin:
    """A family that is read back from its primitive triples."""

    def __init__(self, graph):
        names = {label: name for name, label in EDGES.items() if label < 10}
        self.facts = [(person, names[edge], other) for person, edge, other in graph]
        self.people = {person for fact in self.facts for person in (fact[0], fact[2])}
        self.sexes = {other: SEXES[name] for _, name, other in self.facts}

    def of(self, people, *, names):
        return {other for person, name, other in self.facts if person in people and name in names}

    parents = partialmethod(of, names=("mother", "father"))
    children = partialmethod(of, names=("daughter", "son"))
    siblings = partialmethod(of, names=("sister", "brother"))
    spouses = partialmethod(of, names=("wife", "husband"))

    def relatives(self, person, name):
        """Return all who are somebody's `name`, in the words of everyday."""
        me, parents = {person}, self.parents({person})
        if name.startswith(("paternal ", "maternal ")):
            side, name = name.split()
            parents = self.of(me, names=[{"paternal": "father", "maternal": "mother"}[side]])
        aunts, grandparents = self.siblings(parents), self.parents(parents)
        nieces, cousins = self.children(self.siblings(me)), self.children(aunts)
        great_aunts, grandchildren = self.siblings(grandparents), self.children(self.children(me))
        great_grandparents = self.parents(grandparents)
        elders = self.parents(great_grandparents)
        everyone = {
            ("grandmother", "grandfather"): grandparents,
            ("great-grandmother", "great-grandfather"): great_grandparents,
            ("great-great-grandmother", "great-great-grandfather"): elders,
            ("granddaughter", "grandson"): grandchildren,
            ("great-granddaughter", "great-grandson"): self.children(grandchildren),
            ("aunt", "uncle"): aunts,
            ("great-aunt", "great-uncle"): great_aunts,
            ("great-great-aunt", "great-great-uncle"): self.siblings(great_grandparents),
            ("uncle's wife", "aunt's husband"): self.spouses(aunts),
            ("great-uncle's wife", "great-aunt's husband"): self.spouses(great_aunts),
            ("female cousin", "male cousin"): cousins,
            ("parent's female cousin", "parent's male cousin"): self.children(great_aunts),
            ("cousin's daughter", "cousin's son"): self.children(cousins),
            ("niece", "nephew"): nieces,
            ("great-niece", "great-nephew"): self.children(nieces),
            ("great-grandniece", "great-grandnephew"): self.children(self.children(nieces)),
            ("mother-in-law", "father-in-law"): self.parents(self.spouses(me)),
            ("daughter-in-law", "son-in-law"): self.spouses(self.children(me)),
            ("spouse's sister", "spouse's brother"): self.siblings(self.spouses(me)),
            ("brother's wife", "sister's husband"): self.spouses(self.siblings(me)),
        }
        [(names, found)] = [pair for pair in everyone.items() if name in pair[0]]
        sex = ("female", "male")[names.index(name)]
        return {other for other in found if self.sexes[other] == sex}

    def generations(self):
        """Return a number for everyone, one more for a child; they are the same on every way."""
        levels, reached = {}, [(min(self.people), 0)]
        while reached:
            person, level = reached.pop()
            if person in levels:
                assert levels[person] == level
                continue
            levels[person] = level
            for others, step in ((self.parents, -1), (self.spouses, 0), (self.children, 1)):
                reached += [(other, level + step) for other in others({person})]
        assert set(levels) == self.people  # it is one family
        return levels

    def ancestors(self, people):
        return people | self.ancestors(self.parents(people)) if people else set()
