"""A study's report among the results: what is told of all its points, and that a machine's folders stay at home."""

import study_result

STUDY = {
    "data": "../photos/weather", "started": "2026-01-02T03:04:05+00:00", "rounds": 5, "baselines": {"one_device": {}},
    "command": "fanlight study ../photos/weather --out /somebody/here --rounds 5", "ended": "",
    "points": [{"n": 5, "unexplained": 0.01}, {"n": 5, "unexplained": -0.034}, {"n": 0, "unexplained": None}],
}  # fmt: skip


def test_the_result_is_the_report_without_this_machine():
    report = f"# Which pays\n\na processor\n\n![speedups](figures/speedups.svg)\n\nOver one core.\n\n    {STUDY['command']}\n"
    name = study_result.stem(STUDY)
    told = study_result.text(report, STUDY, name=name, begun=None)
    assert name == "study-weather_cpu_2026-01-02"
    assert told.startswith(
        "# Which pays\n\nn = 5 rounds, in turns. Shares of 2 points add up within 3.4%.\n\na processor"
    )
    assert "![speedups](study-weather_cpu_2026-01-02-speedups.svg)\n\nOver one core." in told
    assert "    fanlight study ../photos/weather --rounds 5\n" in told and "/somebody" not in told


def test_starts_are_counted_from_the_folder():
    """Nothing is claimed where study.json kept none."""
    assert study_result.starts({}) is None and study_result.starts({"sessions": [{}, {}, {}]}) == 3
    assert study_result.note(STUDY, begun=3).endswith(
        " Continued 2 times with --resume: all 2 points that were measured have every round."
    )
    assert all("ontinued" not in study_result.note(STUDY, begun=begun) for begun in (None, 1))


def test_rounds_that_a_point_lacks_are_said():
    short = STUDY | {"points": [{"n": 2, "unexplained": 0.01}, {"n": 3, "unexplained": 0.0}], "ended": "it was stopped"}
    assert study_result.note(short, begun=2) == (
        "n = 2 … 3 rounds, in turns. Shares of 2 points add up within 1.0%. Continued 1 time with --resume."
    )


def test_a_study_without_a_point_says_so():
    assert study_result.note(STUDY | {"points": []}, begun=None) == "Nothing was measured."
    late = STUDY | {"points": STUDY["points"][2:], "ended": "the time limit ended it in round 1"}
    assert study_result.note(late, begun=1) == "Nothing was measured: the time limit ended it in round 1."
