"""Results as people read them on a terminal."""

from __future__ import annotations

from asa_engine.assessment import Assessment
from asa_engine.cli.words import Paint, pace_line, word_lines

__all__ = ["one_line", "table"]


def one_line(result: Assessment) -> str:
    """Return the scores, or the reasons why there are none, in one line."""
    if not result.validity.scorable:
        return "cannot be scored: " + ", ".join(result.validity.reasons)
    said = "  ".join(f"{name} {score.value:5.2f}" for name, score in result.scores.items())
    notes = f"  ({', '.join(result.validity.reasons)})" if result.validity.reasons else ""
    return said + notes


def table(result: Assessment, title: str, paint: Paint | None = None) -> str:
    """Return the result as a table for people, in what a stream can show."""
    timing = result.timing
    lines = [f"{title}  ({timing.audio_s:.1f} s)", ""]
    if not result.validity.scorable:
        lines.append("cannot be scored: " + ", ".join(result.validity.reasons))
    for name, score in result.scores.items():
        share = (score.value - score.scale_min) / (score.scale_max - score.scale_min)
        bar = "#" * round(20 * share)
        error = f" +- {score.sd:.2f}" if score.sd is not None else ""
        level = f"  {score.level}" if score.level else ""
        if score.likeliest_class is not None:
            level += f"  likeliest {score.likeliest_class}"
        lines.append(
            f"  {name:<10} {score.value:5.2f} / {score.scale_max:g}{error}  [{bar:<20}]{level}"
        )
    for part in result.parts:
        said = "  ".join(f"{name} {score.value:.2f}" for name, score in part.scores.items())
        lines.append(
            f"  part {part.part}: {said or 'not scored'}  ({part.scored}/{part.responses})"
        )
    if judged := word_lines(result.words, paint or Paint()):
        lines += ["", *judged]
    if pace := pace_line(result.features):
        lines += ["", pace]
    if result.rationale is not None:
        lines.append(f"  {result.rationale}")
    if result.validity.scorable and result.validity.reasons:
        lines.append("  note: " + ", ".join(result.validity.reasons))
    lines += [
        "",
        f"  {result.receipt['backend']} {result.receipt['precision']}, "
        f"{result.receipt['threads']} thread(s); time to score {timing.time_to_score_ms:.1f} ms, "
        f"real-time factor {timing.real_time_factor:.4f}",
    ]
    return "\n".join(lines)
