"""Aspects: what a grader scores, on which scale, with which levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asa_engine.assessment import Score
from asa_engine.graders.fields import ascending, bad, check_names, number

__all__ = ["AspectConfig", "parse_aspects"]

MAX_ASPECTS = 64


@dataclass(frozen=True, slots=True)
class AspectConfig:
    """One scored aspect.

    Attributes:
        name: Such as `fluency`.
        scale_min: Lowest score.
        scale_max: Highest score.
        level_cuts: Ascending scores at which the next level begins.
        level_names: Names of the levels, lowest first, one more than there are cuts; by default
            levels are whole points, counted from `scale_min`.
        sd: Expected error: (speech duration in seconds, standard deviation of predicted minus
            experts' score on held-out speakers), ascending in duration. Empty if not measured.
    """

    name: str
    scale_min: float = 0.0
    scale_max: float = 10.0
    level_cuts: tuple[float, ...] = tuple(level + 0.5 for level in range(10))
    sd: tuple[tuple[float, float], ...] = ()
    level_names: tuple[str, ...] = ()

    def level_index(self, value: float) -> int:
        """Return which level a score falls in, counted from 0, the lowest."""
        return sum(value >= cut for cut in self.level_cuts)

    def level_of(self, value: float) -> str:
        """Return the level, such as `"8"` or `"B1"`, that a score falls in."""
        index = self.level_index(value)
        return self.level_names[index] if self.level_names else f"{self.scale_min + index:g}"

    def score(
        self,
        value: float,
        *,
        duration_s: float | None = None,
        probabilities: Mapping[str, float] | None = None,
    ) -> Score:
        """Return a score of this aspect, held to its scale.

        Args:
            value: In points of the scale.
            duration_s: Seconds of speech it was judged on, for its expected error.
            probabilities: Level -> probability, from graders that classify.
        """
        held = min(max(value, self.scale_min), self.scale_max)
        return Score(
            value=held,
            scale_min=self.scale_min,
            scale_max=self.scale_max,
            level=self.level_of(held),
            sd=None if duration_s is None else self.sd_at(duration_s),
            probabilities=probabilities,
        )

    def sd_at(self, duration_s: float) -> float | None:
        """Return the expected error for so much speech: linear between entries, flat outside."""
        if not self.sd:
            return None
        before = [pair for pair in self.sd if pair[0] <= duration_s]
        after = [pair for pair in self.sd if pair[0] > duration_s]
        if not before or not after:
            return (before[-1] if before else after[0])[1]
        (t0, sd0), (t1, sd1) = before[-1], after[0]
        return sd0 + (sd1 - sd0) * (duration_s - t0) / (t1 - t0)


def parse_aspects(value: object) -> tuple[AspectConfig, ...]:
    """Build the aspects of a configuration file.

    Raises:
        CheckpointError: It is not a list of 1 to 64 aspects of different names, or a field of one
            is missing, unknown or out of range.
    """
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_ASPECTS:
        raise bad("aspects", value, f"a list of 1 to {MAX_ASPECTS} aspects")
    aspects = tuple(_aspect(item, index) for index, item in enumerate(value))
    names = [aspect.name for aspect in aspects]
    if len(set(names)) != len(names):
        raise bad("aspects", names, "aspects of different names")
    return aspects


def _aspect(value: object, index: int) -> AspectConfig:
    where = f"aspects[{index}]"
    if not isinstance(value, Mapping):
        raise bad(where, value, "an object")
    check_names(AspectConfig, value, where)
    fields: dict[str, Any] = dict(value)
    name = fields.get("name")
    if not isinstance(name, str) or not name or len(name) > 64:
        raise bad(f"{where}.name", name, "a name")
    for bound in ("scale_min", "scale_max"):
        if bound in fields:
            fields[bound] = number(fields[bound], f"{where}.{bound}")
    if "level_cuts" in fields:
        fields["level_cuts"] = ascending(fields["level_cuts"], f"{where}.level_cuts")
    if "sd" in fields:
        table = fields["sd"]
        if not isinstance(table, list | tuple) or any(
            not isinstance(pair, list | tuple) or len(pair) != 2 for pair in table
        ):
            raise bad(f"{where}.sd", table, "a list of [duration_s, sd] pairs")
        ascending([pair[0] for pair in table], f"{where}.sd")
        fields["sd"] = tuple((float(t), number(sd, f"{where}.sd")) for t, sd in table)
    if "level_names" in fields:
        names = fields["level_names"]
        if not isinstance(names, list | tuple) or not all(isinstance(n, str) and n for n in names):
            raise bad(f"{where}.level_names", names, "a list of names")
        fields["level_names"] = tuple(names)
    aspect = AspectConfig(**fields)
    if aspect.level_names and len(aspect.level_names) != len(aspect.level_cuts) + 1:
        raise bad(f"{where}.level_names", aspect.level_names, "one more than level_cuts")
    if aspect.scale_min >= aspect.scale_max:
        raise bad(f"{where}.scale_max", aspect.scale_max, f"above {aspect.scale_min}")
    return aspect
