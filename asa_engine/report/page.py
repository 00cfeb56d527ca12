"""The pages: of a class, of a learner, of both on one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from html import escape
from importlib import resources
from typing import Final

from asa_engine.pages import Bar, bar_chart, page, table
from asa_engine.report.gather import Estimate, Group, Learner, Tally
from asa_engine.report.pictures import Course, course_chart, dot_chart, said

__all__ = ["class_page", "learner_page", "whole_page"]

_ROWS_A_CHART: Final = 30  # a picture is not cut between sheets of paper
_MOST_OF_CLASS: Final = 12
_MOST_OF_LEARNER: Final = 8
_MOST_RECORDINGS: Final = 200
_NOTE_LETTERS: Final = 36
_ERRORS: Final = {
    "mispronunciation": "mispronounced",
    "omission": "left out",
    "low score": "low score",
}
_METHOD: Final = """\
Scores are a program's, and every one is uncertain: ± is its expected error, the standard deviation
of its difference from experts' scores for as much speech; an expert's score lies within it about
two times out of three. The bands in the pictures are that. More recordings of one learner do not
make it smaller, since errors on one voice are alike. A learner's score is the mean over recordings.
A word counts as missed where it was mispronounced or left out, or, where the grader names no
errors, where its score is below half of its scale; a sound, where its score is. Which words and
sounds were missed is a guess too: listen before you correct."""


def whole_page(group: Group, title: str) -> str:
    """Return a class and all its learners, each on a sheet of its own where it is printed."""
    links = {name: f"#learner-{index}" for index, name in enumerate(_names(group), 1)}
    body = [*_class(group, title, links)]
    for index, learner in enumerate(group.named, 1):
        body += [f'<section id="learner-{index}">', *_learner(group, learner), "</section>"]
    return page(title, body, style=_style())


def class_page(group: Group, title: str, links: Mapping[str, str]) -> str:
    """Return a class.

    Args:
        group: What was gathered.
        title: Plain text.
        links: Learner -> address of the learner's page.
    """
    return page(title, _class(group, title, links), style=_style())


def learner_page(group: Group, learner: Learner) -> str:
    """Return one learner, and nothing of any other."""
    body = [*_learner(group, learner), "<h2>How to read this</h2>", f"<p>{_METHOD}</p>"]
    return page(learner.name, body, style=_style())


def _style() -> str:
    return resources.files("asa_engine.report").joinpath("report.css").read_text(encoding="utf-8")


def _names(group: Group) -> list[str]:
    return [learner.name for learner in group.named]


def _class(group: Group, title: str, links: Mapping[str, str]) -> list[str]:
    facts = [
        *([_count(len(group.named), "learner")] if group.named else []),
        _count(group.recordings, "recording"),
        *([_count(len(group.sessions), "session")] if group.sessions else []),
        *group.graders,
    ]
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{" · ".join(map(escape, facts))}</p>',
    ]
    if group.scores:
        body += _class_scores(group, links)
    body += _missed(group.whole, _MOST_OF_CLASS, by_learner=bool(group.named))
    body += _class_progress(group)
    body += _unjudged(group.whole)
    return [*body, "<h2>How to read this</h2>", f"<p>{_METHOD}</p>"]


def _class_scores(group: Group, links: Mapping[str, str]) -> list[str]:
    main = group.scores[0]
    if not group.named:
        return ["<h2>Scores</h2>", *_own_scores(group, group.whole)]
    scored = [(x, each) for x in group.named if (each := x.estimate(main)) is not None]
    scored.sort(key=lambda pair: -pair[1].value)
    rows = [(learner.name, estimate) for learner, estimate in scored]
    heading = f"{escape(main)}, each learner's mean"
    body = ["<h2>Scores</h2>", f'<p class="soft">{heading}; the band is its uncertainty.</p>']
    for start in range(0, len(rows), _ROWS_A_CHART):
        chart = dot_chart(heading, rows[start : start + _ROWS_A_CHART])
        body.append(f'<figure class="wide">{chart}</figure>')
    head = ("learner", *map(escape, group.scores), "recordings", "not judged")
    cells = [
        (
            f'<a href="{escape(links[learner.name])}">{_name(learner.name)}</a>',
            *(_cell(learner.estimate(name)) for name in group.scores),
            str(len(learner.attempts) + len(learner.refused)),
            str(len(learner.refused) or ""),
        )
        for learner in group.named
    ]
    whole = (
        "<b>all</b>",
        *(_cell(group.whole.estimate(name)) for name in group.scores),
        str(group.recordings),
        str(len(group.whole.refused) or ""),
    )
    return [*body, table(head, [*cells, whole], range(1, len(head)))]


def _class_progress(group: Group) -> list[str]:
    if len(group.sessions) < 2 or not group.scores:
        return []
    main = group.scores[0]
    faint = [Course(_course(group, each, main), strong=False) for each in group.named]
    whole = _course(group, group.whole, main)
    if sum(estimate is not None for estimate in whole) < 2:
        return []
    title = f"{main} over sessions"
    chart = course_chart(title, group.sessions, [*faint, Course(whole)])
    lines = " Thin lines are learners." if faint else ""
    counts = ", ".join(
        f"{escape(session)}: {estimate.n}"
        for session, estimate in zip(group.sessions, whole, strict=True)
        if estimate is not None
    )
    return [
        "<h2>Progress</h2>",
        f'<p class="soft">{escape(title)}: mean of all recordings.{lines}</p>',
        f'<figure class="wide">{chart}</figure>',
        f'<p class="soft">Recordings: {counts}.</p>',
    ]


def _learner(group: Group, learner: Learner) -> list[str]:
    facts = [
        _count(len(learner.attempts) + len(learner.refused), "recording"),
        *([f"{len(learner.refused)} not judged"] if learner.refused else []),
    ]
    body = [
        f"<h1>{_name(learner.name)}</h1>",
        f'<p class="soft">{" · ".join(facts)}</p>',
    ]
    if learner.attempts:
        body += ["<h2>Scores</h2>", *_own_scores(group, learner)]
    body += _own_progress(group, learner)
    body += _missed(learner, _MOST_OF_LEARNER, by_learner=False)
    body += _unjudged(learner)
    return body


def _own_scores(group: Group, learner: Learner) -> list[str]:
    """Draw all scores of one learner; those of one scale share a picture."""
    scales: dict[tuple[float, float], list[tuple[str, Estimate]]] = {}
    for name in group.scores:
        if (estimate := learner.estimate(name)) is not None:
            scales.setdefault((estimate.low, estimate.high), []).append((name, estimate))
    return [
        f'<figure class="wide">{dot_chart(f"{low:g} to {high:g}", rows)}</figure>'
        for (low, high), rows in scales.items()
    ]


def _own_progress(group: Group, learner: Learner) -> list[str]:
    courses = {name: _course(group, learner, name) for name in group.scores}
    courses = {
        name: course
        for name, course in courses.items()
        if sum(estimate is not None for estimate in course) > 1
    }
    if not courses:
        return []
    main = next(iter(courses))
    known = [estimate for estimate in courses[main] if estimate is not None]
    body = ["<h2>Progress</h2>", f'<p class="verdict">{_verdict(main, known[0], known[-1])}</p>']
    sessions = [
        session
        for place, session in enumerate(group.sessions)
        if any(course[place] is not None for course in courses.values())
    ]
    places = [group.sessions.index(session) for session in sessions]
    body.append('<div class="columns">')
    for name, course in courses.items():
        lines = [Course([course[place] for place in places])]
        chart = course_chart(name, sessions, lines, narrow=True)
        body.append(f"<figure><h3>{escape(name)}</h3>{chart}</figure>")
    return [*body, "</div>"]


def _verdict(name: str, first: Estimate, last: Estimate) -> str:
    """Say whether a change is larger than what two uncertain scores differ by anyway."""
    change = last.value - first.value
    told = f"{escape(name)} went from {said(first)} to {said(last)}"
    if first.sd is None or last.sd is None:
        return f"{told}; how sure that is, this grader does not say."
    if abs(change) > math.hypot(first.sd, last.sd):
        way = "up" if change > 0 else "down"
        return f"{told}: {way}, by more than the uncertainty."
    return f"{told}: a change within the uncertainty, which may be none."


def _course(group: Group, learner: Learner, name: str) -> list[Estimate | None]:
    return [learner.estimate(name, session) for session in group.sessions]


def _missed(learner: Learner, most: int, *, by_learner: bool) -> list[str]:
    """Return pictures of the words and the sounds most missed, side by side where there is room."""
    words = _bars(learner.words, most, lambda tally: _word_note(tally, by_learner))
    sounds = _bars(learner.sounds, most, lambda tally: _sound_note(tally, by_learner))
    body = ['<div class="columns">'] if learner.words or learner.sounds else []
    for title, bars, known in (
        ("Words most missed", words, learner.words),
        ("Sounds most missed", sounds, learner.sounds),
    ):
        if bars:
            chart = bar_chart(f"{title}, in % of the times", bars, "%", narrow=True)
            body.append(f"<figure><h2>{title}</h2>{chart}</figure>")
        elif known:
            body.append(f"<div><h2>{title}</h2><p>None was missed.</p></div>")
    if body:
        body.append("</div>")
    for text, counter in (("Words put in", learner.inserted), ("Said again", learner.repeated)):
        if counter:
            told = ", ".join(f"{_name(word)} ({n})" for word, n in counter.most_common(most))
            body.append(f"<p>{text}: {told}.</p>")
    return body


def _bars(tallies: Mapping[str, Tally], most: int, note: Callable[[Tally], str]) -> list[Bar]:
    """Return the most missed: by how often they were, then by what share of the times."""
    missed = [(name, tally) for name, tally in tallies.items() if tally.missed]
    missed.sort(key=lambda pair: (-pair[1].missed, -pair[1].share, pair[0]))
    return [
        Bar(
            label=name,
            note=note(tally)[:_NOTE_LETTERS],
            value=100 * tally.share,
            text=f"{tally.missed} of {tally.said}",
            mark="other",
        )
        for name, tally in missed[:most]
    ]


def _word_note(tally: Tally, by_learner: bool) -> str:
    kinds = [f"{_ERRORS[kind]} {n}" for kind, n in tally.kinds.most_common()]
    return ", ".join([*_by(tally, by_learner), *kinds])


def _sound_note(tally: Tally, by_learner: bool) -> str:
    heard = [f"heard {sound}" for sound, _ in tally.kinds.most_common(1)]
    words = "in " + ", ".join(word for word, _ in tally.words.most_common(1 if by_learner else 2))
    return ", ".join([*_by(tally, by_learner), *heard, words])


def _by(tally: Tally, by_learner: bool) -> list[str]:
    return [_count(len(tally.learners), "learner")] if by_learner else []


def _unjudged(learner: Learner) -> list[str]:
    body: list[str] = []
    for title, found in (
        ("What could not be judged", learner.refused),
        ("To be taken with care", learner.doubted),
    ):
        if not found:
            continue
        rows = [
            (_name(each.learner), _name(each.name), _name(each.session), escape(why))
            for each, why in found[:_MOST_RECORDINGS]
        ]
        body += [f"<h2>{title}</h2>", table(("learner", "recording", "session", "why"), rows)]
        if len(found) > _MOST_RECORDINGS:
            body.append(f"<p>and {len(found) - _MOST_RECORDINGS} more.</p>")
    return body


def _cell(estimate: Estimate | None) -> str:
    return "" if estimate is None else said(estimate)


def _name(text: str) -> str:
    """Return a name that keeps its own direction of writing to itself."""
    return f"<bdi>{escape(text)}</bdi>"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
