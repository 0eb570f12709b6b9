"""What records become: tables with n, ratios by round, the floor, times to a target; failures are shown."""

import pytest

from contest import contestants, plots, tables


def record(name, number, seconds, *, curve=None, accuracy=0.9):
    return {
        "name": name, "round": number, "validated_s": seconds, "wall_s": seconds + 1, "cpu_s": 2 * seconds,
        "peak_bytes": 5e8, "images_per_s": 100.0, "accuracy": accuracy, "count": 192, "is_capped": False,
        "curve": curve or [[seconds / 2, accuracy], [seconds, accuracy]],
    }  # fmt: skip


def cells(table, name):
    row = next(line for line in table.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


RECORDS = [
    *(record("fanlight", number, 20.0 + number) for number in range(3)),
    *(record("slow", number, 40.0 + 2 * number) for number in range(3)),
    *(record("floor", number, 15.0, accuracy=None) for number in range(3)),
]


def test_the_job_table_has_ratios_by_round_and_the_distance_to_the_floor():
    table = tables.job_table(RECORDS)
    slow = cells(table, "slow")
    assert slow[1] == "3" and slow[2] == "42.0" and slow[5] == "27.0" and slow[6] == "2.00"
    assert slow[7] == "2.00 … 2.00"
    assert cells(table, "floor")[11] == "none"
    order = [line.split("|")[1].strip() for line in table.splitlines()[2:] if line]
    assert order == ["floor", "fanlight", "slow"]


def test_a_failed_run_is_told_and_not_counted():
    failed = {"name": "slow", "round": 3, "error": "ValueError: exit code 1\nno module"}
    table = tables.job_table([*RECORDS, failed])
    assert "Failed: slow, round 3: no module" in table
    assert cells(table, "slow")[1] == "3"


def test_ratios_use_only_rounds_that_both_have():
    mine = [record("a", 0, 10.0), record("a", 2, 30.0)]
    others = [record("b", 2, 15.0), record("b", 5, 1.0)]
    assert tables.paired(mine, others, key="validated_s") == ([30.0], [15.0])


def test_time_to_a_target_is_that_of_the_first_validation_there():
    curve = [(5.0, 0.5), (10.0, 0.8), (15.0, 0.7), (20.0, 0.8)]
    assert tables.time_to(curve, 0.8) == 10.0
    assert tables.time_to(curve, 0.81) is None


def test_a_seed_that_never_arrives_counts_as_last():
    arrives, never = [(7.0, 0.9)], [(3.0, 0.1)]
    assert tables.reached([arrives, arrives, never], 0.9) == "7; 2 of 3"
    assert tables.reached([arrives, never, never], 0.9) == "not reached; 1 of 3"


def test_the_recipe_table_aims_at_the_best_peer_and_not_at_fanlight():
    records = [
        record("fanlight", 0, 50.0, curve=[[10, 0.85], [50, 0.95]], accuracy=0.95),
        record("x recipe", 0, 90.0, curve=[[30, 0.8], [90, 0.9]], accuracy=0.9),
        record("y recipe", 0, 60.0, curve=[[60, 0.82]], accuracy=0.82),
    ]
    table = tables.recipe_table(records)
    assert table.startswith("Target: 0.9000, where the recipe of x recipe ends")
    assert cells(table, "fanlight")[5] == "50; 1 of 1"
    assert cells(table, "y recipe")[5:7] == ["not reached; 0 of 1", "10; 1 of 1"]


def test_steady_epochs_leave_the_start_out():
    assert tables.steady_epochs_per_minute([(30.0, 0.1), (33.0, 0.2), (36.0, 0.3)]) == 20.0
    assert tables.steady_epochs_per_minute([(30.0, 0.1)]) is None
    assert cells(tables.frozen_table(RECORDS[:6]), "slow")[6] == "2.00"


@pytest.mark.parametrize(("train", "val", "batch", "expected"), [(765, 192, 32, (23, 6)), (64, 33, 32, (2, 2))])
def test_the_floor_trains_on_whole_batches_and_scores_every_image(train, val, batch, expected):
    assert contestants.floor_steps(train, val, batch=batch) == expected
    words = contestants.command(
        contestants.floor(train, val, 4, batch=batch), contestants.Job(data="d"), work="w", seed=0, epochs=1
    )
    assert words[words.index("--steps") + 1] == str(expected[0])


def test_figures_are_the_same_file_for_the_same_records(tmp_path):
    for draw in (plots.bars, plots.curves):
        paths = [tmp_path / f"{draw.__name__}{index}.svg" for index in range(2)]
        for path in paths:
            draw(RECORDS, path, title="t")
        assert paths[0].read_bytes() == paths[1].read_bytes() and b"fanlight" in paths[0].read_bytes()
