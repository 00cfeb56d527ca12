"""What benchmarks write: the result, its schema, its targets, the host, the page."""

from __future__ import annotations

import argparse
import json
import platform
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from bench_samples import HOST, ROOFLINE, make_result, make_rows
from html_page import Page

from asa_engine.bench.report import render, write_result
from asa_engine.bench.result import schema, summary_lines
from asa_engine.bench.roofline import roofline_chart
from asa_engine.bench.targets import check_targets
from asa_engine.cli.bench import register
from asa_engine.errors import UsageError
from asa_engine.measuring.host import describe_host, host_slug


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    return parser.parse_args(["bench", *words])


class TestResult:
    def test_follows_its_schema(self) -> None:
        result = json.loads(json.dumps(make_result()))

        jsonschema.Draft202012Validator.check_schema(schema())
        jsonschema.validate(result, schema())

    @pytest.mark.parametrize("key", ["rows", "host", "targets", "refused"])
    def test_the_schema_misses_what_is_left_out(self, key: str) -> None:
        result = make_result()
        del result[key]

        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(result, schema())

    def test_warns_of_a_busy_machine_and_of_workers_that_spin(self) -> None:
        spinning = [
            {
                "candidate": "a",
                "threads": 2,
                "peak_rss_mb": 1.0,
                "idle_cpu_share": 0.5,
                "stages_ms": {},
            }
        ]
        busy = replace(HOST, load_average=(1.5, 1.0, 1.0))
        warnings = make_result(host=busy, workers=spinning)["warnings"]

        assert any("busy" in text for text in warnings)
        assert any("burnt 50%" in text for text in warnings)

    def test_the_table_names_every_candidate_and_target(self) -> None:
        result = make_result()
        text = "\n".join(summary_lines(result))

        assert all(row["candidate"] in text for row in result["rows"])
        assert all(target["name"] in text for target in result["targets"])
        assert "refused: onnxruntime/int4: too far" in text


class TestTargets:
    def met(self, result: dict[str, Any]) -> list[bool | None]:
        return [target.met for target in check_targets(result)]

    def test_all_met(self) -> None:
        assert self.met(make_result()) == [True] * 7

    def test_nothing_measured_leaves_all_open(self) -> None:
        assert self.met(make_result(rows=[], cold=None, install=None)) == [None] * 7

    def test_each_one_can_be_missed(self) -> None:
        rows = [
            *make_rows("Offline", ours_ms=13.5),
            *make_rows("TimeToScore", ours_ms=4.1),
            *make_rows("LogMel", ours_ms=13.5)[1:],
        ]
        cold = {
            **make_result()["cold_run"],
            "p50_s": 1.6,
            "peak_rss_mb": 351.0,
            "forbidden_imported": ["torch"],
        }
        install = {**make_result()["install"], "total_mb": 301.0}

        assert self.met(make_result(rows=rows, cold=cold, install=install)) == [False] * 7

    def test_other_lengths_than_the_targets_leave_it_open(self) -> None:
        rows = [*make_rows("Offline", audio_s=5.0), *make_rows("TimeToScore", audio_s=28.0)]

        assert self.met(make_result(rows=rows))[:2] == [None, None]

    def test_speed_is_that_of_the_engines_own_choice(self) -> None:
        rows = [
            *make_rows("Offline", name="onnxruntime/int8", ours_ms=30.0),
            *make_rows("Offline", name="native/int8", ours_ms=1.0),
        ]

        assert self.met(make_result(rows=rows))[0] is False


class TestPage:
    def test_is_balanced_html_with_a_chart_for_each_task(self) -> None:
        text = render(make_result())
        page = Page(text)

        assert text.startswith("<!doctype html>")
        assert page.tags.count("svg") == 5
        assert page.tags.count("title") == 6

    def test_is_self_contained(self) -> None:
        text = render(make_result())
        page = Page(text)

        assert not re.search(r"https?:|//[a-z]|url\(|@import", text)
        assert not {"script", "link", "img", "iframe"}.intersection(page.tags)
        assert not {"src", "href", "xlink:href"}.intersection(name for name, _ in page.attributes)

    def test_shows_drift_beside_every_bar_and_says_what_was_refused(self) -> None:
        text = render(make_result())

        charts = text.count("<svg") - text.count("Roofline of") // 2
        assert text.count("drift RMS 1.0e-03") == 2 * charts
        assert "too far" in text
        assert "not here" in text

    def test_escapes_whatever_a_bundle_calls_itself(self) -> None:
        evil = '<script>"&'
        page = Page(render(make_result(make_rows(name=evil), command=evil)))

        assert "script" not in page.tags

    def test_kernels_stand_under_the_roofs_on_logarithmic_axes(self) -> None:
        text = roofline_chart("a & b", ROOFLINE["roofs"], ROOFLINE["kernels"])
        page = Page(text)

        assert page.tags.count("circle") == 2  # what computes nothing has no place
        assert page.tags.count("line") > 4
        assert "a &amp; b" in text
        assert "memory 10 GB/s" in text
        assert "int8 400 GFLOP/s" in text
        dots = re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', text)
        (x, y, radius), (other_x, other_y, other_radius) = (tuple(map(float, d)) for d in dots)
        peak = float(re.findall(r'class="roof" [^>]*y2="([\d.]+)"/><text[^>]*>int8', text)[0])
        decades = [float(at) for at in re.findall(r'class="grid" x1="([\d.]+)" x2="\1', text)]
        # 100 operations a byte against 1: two decades; half of the peak; areas as the shares.
        assert x - other_x == pytest.approx(2 * (decades[1] - decades[0]), abs=0.2)
        assert peak < y < other_y
        assert ((radius - 2) / (other_radius - 2)) ** 2 == pytest.approx(0.75 / 0.2, rel=0.05)

    def test_results_without_a_roofline_have_no_picture_of_it(self) -> None:
        result = make_result(roofline=None)
        jsonschema.validate(result, schema())
        assert "Roofline" not in render(result)
        del result["roofline"]
        jsonschema.validate(result, schema())
        assert "Roofline" not in render(result)

    def test_both_files_are_written_whole(self, tmp_path: Path) -> None:
        result = make_result()
        page = write_result(result, tmp_path / "results")

        assert page.name == "example-f1m2-2-cores.html"
        assert sorted(path.name for path in page.parent.iterdir()) == [
            "example-f1m2-2-cores.html",
            "example-f1m2-2-cores.json",
        ]
        assert json.loads(page.with_suffix(".json").read_text()) == result

    def test_a_place_that_cannot_be_written_is_said_before_anything_is_timed(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        args = parse("--output", str(tmp_path / "file"), "--data", "nowhere")

        with pytest.raises(UsageError, match="cannot be written"):
            args.run(args)


class TestHost:
    def test_is_described_without_the_machines_name_or_folders(self) -> None:
        text = json.dumps(describe_host().to_dict())

        assert str(Path.home()) not in text
        assert str(Path.cwd()) not in text
        assert not platform.node() or platform.node() not in text

    @pytest.mark.parametrize(
        ("cpu", "slug"),
        [
            ("AMD EPYC (family 25, model 17)", "amd-epyc-f25m17-2-cores"),
            ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "intel-xeon-platinum-8481c-2-cores"),
            ("../../etc/passwd", "etc-passwd-2-cores"),
            ("", "unknown-cpu-2-cores"),
        ],
    )
    def test_slug_is_a_plain_file_name(self, cpu: str, slug: str) -> None:
        assert host_slug(replace(HOST, cpu=cpu)) == slug
