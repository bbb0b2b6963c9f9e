"""The rules of ``lfm4ads/shard/idcache.py`` once more, id by id, with dicts and loops."""


class PlainIds:
    """Every bucket has a dict of slot -> [id, count, step] for rows and one for ghosts."""

    def __init__(self, geometry, config):
        self.geometry, self.config = geometry, config
        ghosts = config.ways * config.ghosts_per_row
        self.has_ghosts = config.policy == "lfu" or config.admit_after > 1
        self.num_ghosts = ghosts if self.has_ghosts else 0
        self.rows = [{} for _ in range(geometry.buckets)]
        self.ghosts = [{} for _ in range(geometry.buckets)]

    def worth(self, entry):
        _, count, step = entry
        return (count, step) if self.config.policy == "lfu" else (step, count)

    def claim(self, shelf, ways, entry, *, idle, now, fresh, contest):
        """Put an entry into a bucket's shelf; return (slot, what it replaced), or None."""
        free = [way for way in range(ways) if way not in shelf]
        if free:
            shelf[free[0]] = entry
            return free[0], None
        old = [way for way in shelf if now - shelf[way][2] >= idle and shelf[way][0] not in fresh]
        if not old:
            return None
        way = min(old, key=lambda way: (*self.worth(shelf[way]), way))
        if contest and self.worth(shelf[way]) > self.worth(entry):
            return None
        replaced, shelf[way] = shelf[way], entry
        return way, replaced

    def admit(self, times, now):  # noqa: C901 - the rules in one place, to be read top to bottom
        """Take a step's {id: sightings}; return {id: row or None}, and the rows evicted."""
        config, ways = self.config, self.config.ways
        if config.half_life_steps and now % config.half_life_steps == 0:
            for shelf in (*self.rows, *self.ghosts):
                for entry in shelf.values():
                    entry[1] //= 2
        rows, evicted = {}, []
        for bucket in range(self.geometry.buckets):
            own = [one for one in sorted(times) if one * self.geometry.buckets >> 63 == bucket]
            shelf, ghosts = self.rows[bucket], self.ghosts[bucket]
            where = {entry[0]: way for way, entry in shelf.items()}
            asking, fresh = [], set()
            for one in own:
                if one in where:
                    shelf[where[one]][1:] = [shelf[where[one]][1] + 256 * times[one], now]
                    rows[one] = bucket * ways + where[one]
                    continue
                known = [way for way, entry in ghosts.items() if entry[0] == one]
                count = 256 * times[one] + sum(ghosts[way][1] for way in known)
                asking.append([one, count, now])
                rows[one] = None
            lost, stay = [], []
            for entry in sorted(asking, key=lambda entry: (-entry[1], entry[0])):
                got = None
                if entry[1] >= 256 * config.admit_after:
                    got = self.claim(
                        shelf, ways, entry, idle=config.min_idle_steps, now=now, fresh=fresh,
                        contest=config.policy == "lfu",
                    )  # fmt: skip
                if got is None:
                    stay.append(entry)
                    continue
                fresh.add(entry[0])
                rows[entry[0]] = bucket * ways + got[0]
                if got[1] is not None:
                    evicted.append(rows[entry[0]])
                    lost.append(got[1])
                for way in [way for way, ghost in ghosts.items() if ghost[0] == entry[0]]:
                    del ghosts[way]
            self.haunt(ghosts, stay, lost, now)
        return rows, sorted(evicted)

    def haunt(self, ghosts, stay, lost, now):
        where = {entry[0]: way for way, entry in ghosts.items()}
        new = [entry for entry in stay if entry[0] not in where]
        for entry in stay:
            if entry[0] in where:
                ghosts[where[entry[0]]] = entry
        fresh = set()
        for entry in sorted([*new, *lost], key=lambda one: ([-w for w in self.worth(one)], one[0])):
            if self.num_ghosts and self.claim(
                ghosts, self.num_ghosts, entry, idle=1, now=now, fresh=fresh, contest=False
            ):
                fresh.add(entry[0])
