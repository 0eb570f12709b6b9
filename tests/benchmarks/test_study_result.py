"""A study's report among the results: what is told of all its points, and that a machine's folders stay at home."""

import study_result

STUDY = {
    "data": "../photos/weather", "started": "2026-01-02T03:04:05+00:00", "rounds": 5, "baselines": {"one_device": {}},
    "command": "fanlight study ../photos/weather --out /somebody/here --rounds 5",
    "points": [{"unexplained": 0.01}, {"unexplained": -0.034}, {"unexplained": None}],
}  # fmt: skip


def test_the_result_is_the_report_without_this_machine():
    report = f"# Which pays\n\na processor\n\n![speedups](figures/speedups.svg)\n\nOver one core.\n\n    {STUDY['command']}\n"
    name = study_result.stem(STUDY)
    told = study_result.text(report, STUDY, name=name, kills=2)
    assert name == "study-weather_cpu_2026-01-02"
    assert told.startswith(
        "# Which pays\n\nn = 5 rounds, in turns. Shares of 2 points add up within 3.4%. Killed 2 times"
    )
    assert "![speedups](study-weather_cpu_2026-01-02-speedups.svg)\n\nOver one core." in told
    assert "    fanlight study ../photos/weather --rounds 5\n" in told and "/somebody" not in told
