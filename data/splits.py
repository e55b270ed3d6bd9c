"""Splits that keep every speaker or person on one side and the labels in proportion.

In: the group and the labels of each item. Out: a split name per group.

    stratified_group_split(["ann", "ann", "bob"], [("fear",), (), ("fear",)], {"train": 0.7, "test": 0.3})
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence


def stratified_group_split(
    groups: Sequence[str], labels: Sequence[tuple[str, ...]], shares: Mapping[str, float]
) -> dict[str, str]:
    """Assign each group to one split so that every split gets about its share of every label.

    Greedy and deterministic: groups in order of size (largest first, then by name) go to the split in which they leave
    the smallest squared shortage, counted per label relative to the label's total. Items without labels count as a
    label of their own. No split stays empty while there are as many groups as splits: then the smallest group of the
    split with most groups goes there.

    Raises ValueError if the shares do not sum to one or lengths differ.
    """
    if abs(sum(shares.values()) - 1.0) > 1e-9:
        raise ValueError(f"Expected shares that sum to 1 but got {dict(shares)}")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for group, names in zip(groups, labels, strict=True):
        counts[group].update(names or ("",))
    totals = sum(counts.values(), Counter())
    missing = {split: {label: share * n for label, n in totals.items()} for split, share in shares.items()}

    def cost(split: str, group: Counter[str]) -> float:
        """Change of the summed squared relative shortage if the group goes to the split."""
        return sum(
            ((missing[split][label] - n) ** 2 - missing[split][label] ** 2) / totals[label] ** 2 / shares[split]
            for label, n in group.items()
        )

    assigned = {}
    for name in sorted(counts, key=lambda group: (-sum(counts[group].values()), group)):
        best = min(shares, key=lambda split: cost(split, counts[name]))
        assigned[name] = best
        for label, n in counts[name].items():
            missing[best][label] -= n
    for empty in [split for split in shares if split not in assigned.values()] if len(counts) >= len(shares) else ():
        fullest = Counter(assigned.values()).most_common(1)[0][0]
        groups_there = [name for name, split in assigned.items() if split == fullest]
        assigned[min(groups_there, key=lambda name: (sum(counts[name].values()), name))] = empty
    return assigned


def joined_groups(keys: Sequence[Sequence[str]]) -> list[str]:
    """A group per item, such that items that share any key have the same: who speaks, which content, and so on.

    The name of a group is its first item's first key; an item without keys is a group of its own.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    own = [[*item] or [f"item {number}"] for number, item in enumerate(keys)]
    for item in own:
        for key in item[1:]:
            first, other = root(item[0]), root(key)
            parent[other] = first
    names: dict[str, str] = {}
    return [names.setdefault(root(item[0]), item[0]) for item in own]
