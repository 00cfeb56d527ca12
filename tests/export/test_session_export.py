"""The session grader's bundle answers as its PyTorch reference does, offline and streamed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import session_samples as samples
from numpy.typing import NDArray

import asa_engine as asa
from asa_engine.bundle import Bundle
from asa_engine.cli.main import main as cli
from asa_engine.errors import AudioError, CheckpointError, UsageError
from asa_engine.evaluation.sessions import INCOMPLETE, assess_session, assess_whole, read_sessions
from asa_engine.graders.speech_llm_session.config import SessionConfig
from asa_engine.graders.speech_llm_session.model import SessionLLM
from asa_engine.graders.speech_llm_session.runtime import STAGE_NAMES, SessionRun
from asa_engine.graders.speech_llm_session.stages import SessionStages, TorchSessionStages
from asa_engine.profiling import StageClock
from asa_export.exporter import Job, export, plan
from asa_export.speech import synthetic_recordings, synthetic_speech
from asa_export.speech_llm_session import EXPORTER

# Points of a scale from 0 to 10: float32 sums in another order, through all stages.
TOLERANCE = 1e-3
PARTS = samples.PARTS
MODES = [("first", "deferred"), ("first", "speculative"), ("last", "late")]


@pytest.fixture(scope="module", params=["first", "last"])
def position(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Return checkpoint and bundle of graders with the prior first and last."""
    found = {}
    for place in ("first", "last"):
        folder = tmp_path_factory.mktemp(place)
        checkpoint = samples.make_checkpoint(folder, position=place)
        variants = plan(["onnx", "native"], ["fp32"], "speech_llm_session")
        export(checkpoint, folder / "tiny", variants, synthetic_speech(PARTS))
        found[place] = checkpoint, folder / "tiny"
    return found


def stages_of(
    bundle: Path, precision: str = "fp32", backend: str = "onnxruntime"
) -> tuple[SessionConfig, SessionStages]:
    opened = Bundle.open(bundle)
    config = SessionConfig.from_dict(opened.config)
    files = {name: opened.file(name, backend, precision) for name in STAGE_NAMES}
    return config, SessionStages(config, files, precision=precision, threads=1)


def run_of(
    bundle: Path, mode: str | None = None, tolerance: float = 0.0, backend: str = "onnxruntime"
) -> SessionRun:
    config, stages = stages_of(bundle, backend=backend)
    return SessionRun(config, stages, StageClock(), mode=mode, tolerance=tolerance)


def hear(
    run: SessionRun, session: dict[str, list[NDArray[np.float32]]], pieces: int = 1
) -> dict[str, float]:
    for part in PARTS:
        for response in session.get(part, []):
            run.begin(part)
            for piece in np.array_split(response, pieces):
                run.push(piece)
            run.end()
    return values(run.finish())


def values(grade: asa.Assessment | Any) -> dict[str, float]:
    assert grade is not None
    return {name: score.value for name, score in grade.scores.items()}


def without(part: str) -> dict[str, list[NDArray[np.float32]]]:
    return {name: said for name, said in samples.session().items() if name != part}


@pytest.mark.parametrize(
    "session",
    [samples.session(), *(without(part) for part in PARTS), {"P4": [samples.sound(2.5, 1)]}],
    ids=["whole", *(f"no {part}" for part in PARTS), "P4 alone"],
)
def test_scores_and_prior_are_the_references(
    made: dict[str, tuple[Path, Path]], position: str, session: dict[str, Any]
) -> None:
    checkpoint, bundle = made[position]
    expected = SessionLLM.load(checkpoint).assess(session)
    run = run_of(bundle)
    assert hear(run, session) == pytest.approx(expected.scores, abs=TOLERANCE)
    grade = run.finish()
    assert grade is not None
    assert grade.prior is not None
    np.testing.assert_allclose(
        grade.prior.probabilities, expected.prior_probabilities, atol=TOLERANCE
    )
    assert {*PARTS, "overall"} - grade.scores.keys() == set(expected.missing)


@pytest.mark.parametrize(("place", "mode"), MODES)
@pytest.mark.parametrize("pieces", [1, 7])
def test_streamed_in_every_mode_is_offline(
    made: dict[str, tuple[Path, Path]], place: str, mode: str, pieces: int
) -> None:
    checkpoint, bundle = made[place]
    expected = SessionLLM.load(checkpoint).assess(samples.session()).scores
    assert hear(run_of(bundle, mode), samples.session(), pieces) == pytest.approx(
        expected, abs=TOLERANCE
    )


def test_a_late_prior_leaves_only_the_end_to_be_read(made: dict[str, tuple[Path, Path]]) -> None:
    run = run_of(made["last"][1])
    config = run._config
    for part, responses in samples.session().items():
        for response in responses:
            run.begin(part)
            run.push(response)
            run.end()
    before = run.reading.rows_run
    run.finish()
    assert run.reading.rows_run - before == 1 + len(config.speech.prompt.suffix_ids)


def test_a_tolerance_saves_work_and_costs_exactness(made: dict[str, tuple[Path, Path]]) -> None:
    bundle = made["first"][1]
    exact, loose = run_of(bundle, "speculative"), run_of(bundle, "speculative", tolerance=1.0)
    found, approximate = hear(exact, samples.session()), hear(loose, samples.session())
    assert loose.reading.restarts == 0 < exact.reading.restarts
    assert loose.reading.rows_run < exact.reading.rows_run
    assert approximate != pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize(("place", "mode"), MODES)
def test_what_is_dropped_was_never_there(
    made: dict[str, tuple[Path, Path]], place: str, mode: str
) -> None:
    run = run_of(made[place][1], mode)
    session = {"P1": [samples.sound(1.2, 1)], "P4": [samples.sound(2.0, 4)]}
    for part in PARTS:
        run.begin(part)
        run.push(samples.sound({"P3": 0.01}.get(part, 2.3), 77))
        run.provisional()
        assert not run.end(keep=part == "P3")
        for response in session.get(part, []):
            run.begin(part)
            run.push(response)
            assert run.end()
    expected = hear(run_of(made[place][1], mode), session)
    assert values(run.finish()) == pytest.approx(expected, abs=TOLERANCE)
    assert set(expected) == {"P1", "P4", "overall"}


@pytest.mark.parametrize(("place", "mode"), MODES)
def test_a_provisional_grade_is_that_of_a_session_that_ends_here(
    made: dict[str, tuple[Path, Path]], place: str, mode: str
) -> None:
    bundle = made[place][1]
    run = run_of(bundle, mode)
    assert run.provisional() is None
    said: dict[str, list[NDArray[np.float32]]] = {}
    for part, responses in samples.session().items():
        for response in responses:
            run.begin(part)
            run.push(response)
            run.end()
            said.setdefault(part, []).append(response)
            expected = hear(run_of(bundle, mode), said)
            assert values(run.provisional()) == pytest.approx(expected, abs=TOLERANCE)
    # A response that is still open counts by its closed windows, where they were read.
    assert values(run.finish()) == pytest.approx(values(run.provisional()), abs=TOLERANCE)


def test_an_open_response_is_heard_by_its_closed_windows(
    made: dict[str, tuple[Path, Path]],
) -> None:
    run = run_of(made["last"][1])
    run.begin("P1")
    run.push(samples.sound(2.4, 5))
    expected = hear(run_of(made["last"][1]), {"P1": [samples.sound(2.4, 5)[:32_000]]})
    assert values(run.provisional()) == pytest.approx(expected, abs=TOLERANCE)


def test_order_and_number_of_responses_are_checked(made: dict[str, tuple[Path, Path]]) -> None:
    run = run_of(made["last"][1])
    with pytest.raises(UsageError, match="no response was begun"):
        run.push(samples.sound(0.1, 1))
    with pytest.raises(UsageError, match="no part 'P2'"):
        run.begin("P2")
    run.begin("P4")
    with pytest.raises(UsageError, match="not ended"):
        run.begin("P4")
    with pytest.raises(UsageError, match="not ended"):
        run.finish()
    run.end()
    with pytest.raises(UsageError, match="P3 comes after P4"):
        run.begin("P3")
    assert run.finish() is None
    for _ in range(samples.MAX_RESPONSES - 1):
        run.begin("P5")
        run.end()
    with pytest.raises(AudioError, match="more than 8 responses"):
        run.begin("P5")


def test_a_session_is_bounded_in_time(made: dict[str, tuple[Path, Path]]) -> None:
    run = run_of(made["last"][1])
    run.begin("P3")
    run.push(np.zeros(40 * 16_000, np.float32))
    with pytest.raises(AudioError, match="more than 40 s"):
        run.push(np.zeros(1, np.float32))


def test_modes_are_those_of_the_grader(made: dict[str, tuple[Path, Path]]) -> None:
    for place, wrong in (("last", "deferred"), ("last", "speculative"), ("first", "late")):
        with pytest.raises(UsageError, match=f"cannot be read '{wrong}'"):
            run_of(made[place][1], wrong)
    with pytest.raises(UsageError, match="tolerance"):
        run_of(made["first"][1], "speculative", tolerance=1.5)


def test_what_does_not_fit_is_refused_at_once(made: dict[str, tuple[Path, Path]]) -> None:
    opened = Bundle.open(made["last"][1])
    config, _ = stages_of(made["last"][1])
    files = {name: opened.file(name, "onnxruntime", "fp32") for name in STAGE_NAMES}
    longer = dataclasses.replace(config, max_audio_s=60.0)
    with pytest.raises(UsageError, match="positions"):
        SessionStages(longer, files, precision="fp32", threads=1)
    fewer = dataclasses.replace(config, missing_ids=config.missing_ids[1:])
    with pytest.raises(CheckpointError, match="texts"):
        SessionStages(fewer, files, precision="fp32", threads=1)


def test_on_the_kernels_a_session_is_the_same_to_the_bit_however_it_comes(
    made: dict[str, tuple[Path, Path]], position: str
) -> None:
    checkpoint, bundle = made[position]
    wanted = SessionLLM.load(checkpoint).assess(samples.session()).scores
    whole, cut = (
        hear(run_of(bundle, backend="native"), samples.session(), pieces) for pieces in (1, 7)
    )
    assert whole == pytest.approx(wanted, abs=TOLERANCE)
    assert whole == cut


@pytest.mark.parametrize("variant", ["onnxruntime/int8", "onnxruntime/int4", "native/int8"])
def test_rounded_bundles_stand_alone(
    made: dict[str, tuple[Path, Path]], position: str, tmp_path: Path, variant: str
) -> None:
    # Random weights of width 32 have none of a trained model's room for rounding: the export's own
    # gate is for trained graders, here scores may only not be somewhere else.
    opened = Bundle.open(made[position][0])
    config = EXPORTER.validate(opened)
    backend, precision = variant.split("/")
    variants = [(backend, precision)]
    stages = EXPORTER.build(Job(opened, config, tmp_path, variants, synthetic_speech(PARTS)))
    assert not (tmp_path / "language_model" / "merged.safetensors").exists()
    files = {name: tmp_path / str(stages[name][backend][precision]) for name in STAGE_NAMES}
    rounded = SessionStages(config, files, precision=precision, threads=1)
    found = hear(SessionRun(config, rounded, StageClock()), samples.session())
    expected = hear(run_of(made[position][1]), samples.session())
    assert found != expected
    assert found == pytest.approx(expected, abs={"int8": 0.2, "int4": 2.0}[precision])


def test_the_reference_runs_behind_the_same_interface(
    made: dict[str, tuple[Path, Path]], position: str
) -> None:
    grader = SessionLLM.load(made[position][0])
    run = SessionRun(grader.config, TorchSessionStages(grader), StageClock())
    found = hear(run, samples.session())
    assert found == pytest.approx(grader.assess(samples.session()).scores, abs=TOLERANCE)


def write_session(folder: Path, **parts: list[NDArray[np.float32]]) -> Path:
    """Write a session as a folder of folders."""
    for part, responses in parts.items():
        (folder / part).mkdir(parents=True)
        for index, response in enumerate(responses):
            samples.write_wave(folder / part / f"{index}.wav", response)
    return folder


@pytest.fixture(scope="module")
def speech() -> list[NDArray[np.float32]]:
    return [recording.samples() for recording in synthetic_recordings()[:4]]


def test_an_engine_scores_a_folder_and_flags_what_is_missing(
    made: dict[str, tuple[Path, Path]], tmp_path: Path, speech: list[NDArray[np.float32]]
) -> None:
    engine = asa.load(made["last"][1], backend="onnxruntime", precision="fp32", threads=1)
    silence = np.zeros(32_000, np.float32)
    whole = {part: [response] for part, response in zip(PARTS, speech, strict=True)}
    found = assess_session(engine, read_sessions(write_session(tmp_path / "a", **whole))[0])
    assert found.validity.reasons == ()
    assert set(found.scores) == {*PARTS, "overall"}
    assert [(p.part, p.responses, p.scored) for p in found.parts] == [(p, 1, 1) for p in PARTS]
    assert found.receipt["prior_reading"] == "late"
    assert len(found.responses) == len(found.receipt["audio_sha256"]) == 4
    parts = [found.scores[part].value for part in PARTS]
    assert found.scores["overall"].value == pytest.approx(np.mean(parts))

    # Silence and a file that is no audio are counted, not heard; an empty part is named.
    poor = write_session(tmp_path / "b", P1=[speech[0], silence, speech[0]], P4=[speech[2]])
    (poor / "P1" / "2.wav").write_bytes(b"not audio at all")
    found = assess_session(engine, read_sessions(poor)[0])
    assert found.validity.scorable
    assert found.validity.reasons == (INCOMPLETE,)
    counts = [(p.part, p.responses, p.scored, bool(p.scores)) for p in found.parts]
    assert counts == [
        ("P1", 3, 1, True),
        ("P3", 0, 0, False),
        ("P4", 1, 1, True),
        ("P5", 0, 0, False),
    ]
    assert [response.validity.scorable for response in found.responses] == [True, False, True]
    alike = write_session(tmp_path / "c", P1=[speech[0]], P4=[speech[2]])
    expected = assess_session(engine, read_sessions(alike)[0])
    assert values(found) == pytest.approx(values(expected), abs=TOLERANCE)

    found = assess_session(engine, read_sessions(write_session(tmp_path / "d", P1=[silence]))[0])
    assert not found.validity.scorable
    assert found.scores == {}
    (tmp_path / "d" / "P1" / "0.wav").write_bytes(b"")
    with pytest.raises(AudioError, match="empty"):
        assess_session(engine, read_sessions(tmp_path / "d")[0])


def test_the_order_in_the_file_does_not_matter(
    made: dict[str, tuple[Path, Path]], tmp_path: Path, speech: list[NDArray[np.float32]]
) -> None:
    engine = asa.load(made["last"][1], backend="onnxruntime", precision="fp32", threads=1)
    for index, response in enumerate(speech):
        samples.write_wave(tmp_path / f"{index}.wav", response)
    parts = [{"part": p, "responses": [[f"{i}.wav"]]} for i, p in enumerate(PARTS)]
    found = []
    for order in (parts, parts[::-1]):
        path = tmp_path / "session.json"
        path.write_text(json.dumps({"session": "s", "parts": order}, indent=1))
        found.append(values(assess_session(engine, read_sessions(path)[0])))
    assert found[0] == found[1]
    for change, message in (
        ([*parts, {"part": "P2", "responses": []}], "no part 'P2'"),
        ([*parts, parts[0]], "a part twice"),
    ):
        path.write_text(json.dumps({"session": "s", "parts": change}))
        with pytest.raises(UsageError, match=message):
            assess_session(engine, read_sessions(path)[0])
    many = [{"part": "P1", "responses": [["0.wav"]] * 40}]
    path.write_text(json.dumps({"session": "s", "parts": many}))
    with pytest.raises(AudioError, match="40 responses"):
        assess_whole(engine, read_sessions(path)[0])


def test_the_command_line_takes_sessions_alone(
    made: dict[str, tuple[Path, Path]],
    tmp_path: Path,
    speech: list[NDArray[np.float32]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = ["--bundle", str(made["first"][1]), "--backend", "onnxruntime"]
    folder = write_session(tmp_path / "s", P1=speech[:2], P3=speech[2:])
    assert cli(["assess", *bundle, "--session", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["scores"]) == {"P1", "P3", "overall"}
    assert cli(["assess", *bundle, "--session", str(folder), "--json", "--stream"]) == 0
    streamed = json.loads(capsys.readouterr().out)["scores"]
    for name, score in found["scores"].items():
        assert streamed[name]["value"] == pytest.approx(score["value"], abs=TOLERANCE)
    assert cli(["assess", "--session", str(folder), "--stream"]) == 2
    assert "graders of sessions alone" in capsys.readouterr().err
    assert found["validity"]["reasons"] == [INCOMPLETE]
    assert cli(["assess", *bundle, str(folder / "P1" / "0.wav")]) == 2
    assert "scores sessions, not recordings" in capsys.readouterr().err
    with pytest.raises(UsageError, match="whole sessions"):
        asa.load(made["first"][1]).assess(folder / "P1" / "0.wav")
    with pytest.raises(UsageError, match="not sessions as a whole"):
        asa.load().session()


def test_sessions_are_evaluated_by_part(
    made: dict[str, tuple[Path, Path]],
    tmp_path: Path,
    speech: list[NDArray[np.float32]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for index, response in enumerate(speech):
        samples.write_wave(tmp_path / f"{index}.wav", response)
    lines = []
    for name in range(3):
        parts = [{"part": p, "responses": [[f"{(i + name) % 4}.wav"]]} for i, p in enumerate(PARTS)]
        scores = {p: 4.0 + name for p in (*PARTS, "overall")}
        lines.append(json.dumps({"session": str(name), "parts": parts, "scores": scores}))
    path = tmp_path / "sessions.jsonl"
    path.write_text("\n".join(lines))
    for bundle in (str(made["last"][1]), "acoustic"):
        assert cli(["evaluate", bundle, "--data", str(path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["n"] == 3
        assert set(found["aspects"]) == {*PARTS, "overall"}
    assert cli(["verify", str(made["last"][1]), "--data", str(path)]) == 0
    assert "3 sessions of sessions.jsonl" in capsys.readouterr().out
