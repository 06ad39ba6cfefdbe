"""The classes of foreign detections as contiguous labels of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from panoptic_occ.common.errors import DataError, check_choice, did_you_mean
from panoptic_occ.common.scalars import whole_number
from panoptic_occ.structures.categories import Categories

ForeignClass = int | str
ClassNames = Mapping[int, str] | Sequence[str]
"""The name of every class number of a model, such as ``model.config.id2label``."""
UnknownRule = Literal["error", "drop"]
"""What becomes of detections whose class the data set does not have."""
DROPPED = -1
"""In place of the label of a detection that is left out."""


@dataclass(frozen=True)
class ClassTable:
    """How the classes of a model become contiguous labels.

    Names, or numbers that have one in ``names``, are looked up among the names of ``categories``; case, ``_`` and ``-``
    do not matter where only that differs.  Other numbers are contiguous labels, or dataset ids where the reader says
    so.  Without ``categories`` numbers are labels as they are.
    """

    categories: Categories | None = None
    names: ClassNames | None = None
    unknown: UnknownRule = "error"

    def labels(
        self, classes: Iterable[ForeignClass], source: str, *, by_id: bool = False, things_only: bool = True
    ) -> list[int]:
        """The label of each of ``classes``, ``DROPPED`` where ``unknown="drop"`` leaves it out.

        ``by_id``: numbers are dataset ids.  DataError that lists every class without a label.
        """
        check_choice("unknown", self.unknown, UnknownRule)
        classes = list(classes)
        label_of = {each: self._label(each, by_id, things_only) for each in dict.fromkeys(classes)}
        without = {each: reason for each, reason in label_of.items() if isinstance(reason, str)}
        if without and (self.unknown == "error" or self.categories is None):
            raise DataError(f"{source}: {'; '.join(without.values())}; {self._fix(without, things_only)}")
        return [DROPPED if isinstance(label, str) else label for label in map(label_of.__getitem__, classes)]

    def _label(self, each: ForeignClass, by_id: bool, things_only: bool) -> int | str:
        """The label of a class, or what is wrong with it."""
        if self.categories is None:
            return each if isinstance(each, int) and each >= 0 else f"class {each!r} is no contiguous label"
        name = self._name(each)
        if name is not None:
            label = self._by_name.get(name, self._by_loose_name.get(_loose(name)))
            what = f"'{name}'" if each == name else f"class {each} ('{name}')"
        elif self.names is not None:
            return f"class {each} has no name in names="
        elif by_id:
            label, what = next((k for k, c in enumerate(self.categories.items) if c.id == each), None), f"id {each}"
        else:
            label, what = (int(each) if 0 <= int(each) < len(self.categories) else None), f"label {each}"
        if label is None:
            return f"{what} is not among the categories"
        if things_only and label >= self.categories.num_things:
            return f"{what} is stuff"
        return label

    def _name(self, each: ForeignClass) -> str | None:
        if isinstance(each, str):
            return each
        if self.names is None:
            return None
        names = self.names if isinstance(self.names, Mapping) else dict(enumerate(self.names))
        return next((str(name) for number, name in names.items() if whole_number(number) == each), None)

    @property
    def _by_name(self) -> dict[str, int]:
        return {} if self.categories is None else {c.name: label for label, c in enumerate(self.categories.items)}

    @property
    def _by_loose_name(self) -> dict[str, int]:
        """By name in small letters; names that differ in nothing else are left out."""
        by_name = self._by_name
        names = [_loose(name) for name in by_name]
        return {loose: label for loose, label in zip(names, by_name.values(), strict=True) if names.count(loose) == 1}

    def _fix(self, without: Mapping[ForeignClass, str], things_only: bool) -> str:
        if self.categories is None:
            return "give categories= to look up names"
        allowed = [c.name for c in self.categories.items if c.isthing or not things_only]
        first = self._name(next(iter(without)))
        hint = f"allowed: {', '.join(sorted(allowed))}" if first is None else did_you_mean(first, allowed)
        return f"names= says what the numbers of a model mean, unknown='drop' leaves such detections out; {hint}"


def _loose(name: str) -> str:
    return name.strip().casefold().replace("_", " ").replace("-", " ")
