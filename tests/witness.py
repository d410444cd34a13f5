"""A reader and a witness of the microworld's stories, by their words alone."""

STEPS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}
NUMBERS = ["none", "one", "two", "three", "four", "five"]


class Reader:
    """Follows a story by its words alone, and knows nothing of how stories are written."""

    def __init__(self, statements):
        self.place, self.holder, self.lying = {}, {}, {}
        self.before, self.ways, self.met = {}, {}, set()
        for sentence in statements:
            self.read(sentence.split())

    def read(self, words):
        if words[1] in ("went", "moved", "walked"):
            self.move(words[0], words[4])
        elif words[1] in ("took", "grabbed"):
            self.take(words[0], words[3])
        elif words[1] in ("dropped", "left"):
            self.drop(words[0], words[3])
        elif words[1] in ("gave", "handed"):
            self.give(words[0], words[3], words[5])
        elif len(words) == 8 and words[4] == "of" and words[3] in STEPS:
            here, direction, there = words[6], words[3], words[1]
            back = {"north": "south", "south": "north", "east": "west", "west": "east"}
            self.ways.setdefault(here, set()).add((direction, there))
            self.ways.setdefault(there, set()).add((back[direction], here))

    def move(self, person, place):
        for thing, holder in self.holder.items():
            if holder == person and person in self.place:
                self.before[thing, place] = self.place[person]
        self.place[person] = place

    def take(self, person, thing):
        self.lying.pop(thing, None)
        self.holder[thing] = person
        self.met.add(person)

    def drop(self, person, thing):
        self.holder.pop(thing, None)
        self.lying[thing] = self.place.get(person)
        self.met.add(person)

    def give(self, person, thing, other):
        self.holder[thing] = other
        self.met |= {person, other}

    def answer(self, question):
        """Return the answer, or None where it does not follow."""
        words = question.split()
        if words[:2] == ["where", "was"]:
            return self.before.get((words[3], words[6]))
        if words[:2] == ["where", "is"] and words[2] == "the":
            if words[3] in self.holder:
                return self.place.get(self.holder[words[3]])
            return self.lying.get(words[3])
        if words[:2] == ["where", "is"]:
            return self.place.get(words[2])
        if words[:2] == ["how", "many"]:
            held = sum(person == words[4] for person in self.holder.values())
            return NUMBERS[held] if words[4] in self.met else None
        return self.way(words[6], words[9])

    def way(self, start, end):
        paths = [((), start, (start,))]
        while paths:
            found = [path for path, place, _ in paths if place == end]
            if found:
                return " ".join(found[0]) if len(found) == 1 else None
            paths = [
                ((*path, direction), there, (*seen, there))
                for path, place, seen in paths
                for direction, there in self.ways.get(place, ())
                if there not in seen
            ]
        return None


class Witness(Reader):
    """A reader that checks that nothing contradicts what was told before."""

    def move(self, person, place):
        assert self.place.get(person) != place
        super().move(person, place)

    def take(self, person, thing):
        assert thing not in self.holder
        assert thing not in self.lying or self.lying[thing] == self.place.get(person)
        super().take(person, thing)

    def drop(self, person, thing):
        assert self.holder[thing] == person
        assert person in self.place
        super().drop(person, thing)

    def give(self, person, thing, other):
        assert self.holder[thing] == person != other
        assert self.place[person] == self.place[other]
        super().give(person, thing, other)

    def check_map(self):
        for start in self.ways:
            grid, queue = {start: (0, 0)}, [start]
            for place in queue:
                for direction, there in self.ways[place]:
                    right, up = STEPS[direction]
                    cell = grid[place][0] + right, grid[place][1] + up
                    if there not in grid:
                        queue.append(there)
                    assert grid.setdefault(there, cell) == cell
            assert len(set(grid.values())) == len(grid)
