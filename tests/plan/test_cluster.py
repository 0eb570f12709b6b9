"""Cluster files: presets can be read, units mean what they say, and a mistake points at its line."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.errors import ConfigError
from fanlight.plan import cluster

GOOD = """\
name: two hosts
nodes: 2
device:
  kind: cpu
  count: 2
  memory: 16 GB
  speed: 1
links:
  within: {latency: 20us, bandwidth: 5 GB/s}
  between: {latency: 0.2ms, bandwidth: 1 Gbit/s}
spread: 3 %
"""


def told(text: str) -> str | None:
    """Why it is refused; None where it is a cluster."""
    try:
        cluster.parse(text, where="c.yaml")
    except ConfigError as error:
        return str(error)
    return None


def test_units_are_what_they_say():
    found = cluster.parse(GOOD, where="c.yaml")
    assert (found.nodes, found.devices, found.ranks, found.device.memory_bytes) == (2, 2, 4, 16e9)
    assert (found.within.latency_s, found.within.bytes_per_s) == pytest.approx((20e-6, 5e9))
    assert (found.between.latency_s, found.between.bytes_per_s) == pytest.approx((2e-4, 125e6))
    assert found.spread == pytest.approx(0.03)
    assert math.isinf(found.images_per_s) and not found.is_measured


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("nodes: 2", "nodes: two", 2, "nodes is 'two'; it counts"),
        ("nodes: 2", "nodes: 0", 2, "nodes is '0'"),
        ("kind: cpu", "kind: cdua", 4, "device.kind is 'cdua'; use cpu or cuda. Near names: cuda"),
        ("  count: 2\n", "", 4, "device.count is missing"),
        ("16 GB", "16", 6, "device.memory is '16'; it should be bytes, from 1 MB to 1,000 TB and with a unit (MB, GB"),
        ("16 GB", "16 GBit", 6, "device.memory is '16 GBit'"),
        ("bandwidth: 5 GB/s", "bandwidth: 5 Gb/s", 9, "links.within.bandwidth is '5 Gb/s'"),
        (
            "bandwidth: 1 Gbit/s",
            "bandwith: 1 Gbit/s",
            10,
            "links.between.bandwith is unknown; fields: latency, bandwidth.",
        ),
        ("latency: 0.2ms", "latency: 0.2", 10, "links.between.latency is '0.2'; it should be seconds"),
        ("latency: 0.2ms, ", "", 10, "links.between.latency is missing; such as latency: 20us"),
        ("bandwidth: 1 Gbit/s", "bandwidth: 0 Gbit/s", 10, "links.between.bandwidth is '0 Gbit/s'"),
        ("spread: 3 %", "spread: [1, 2]", 11, "spread should be one line of text"),
        ("spread: 3 %", "spred: 3 %", 11, "spred is unknown; fields: name, nodes"),
        ("spread: 3 %", "nodes: 3", 11, "nodes stands there twice"),
        (
            "  between: {latency: 0.2ms, bandwidth: 1 Gbit/s}\n",
            "",
            9,
            "links.between is missing, and there are 2 nodes",
        ),
        ("links:\n", "links: fast\nsource:\n", 8, "links should hold fields such as"),
        ("spread: 3 %", "spread: {", 12, "not YAML"),
        ("spread: 3 %", "spread: 3", 11, "spread is '3'; it should be a share, from 0 to 150 %, such as 3 %"),
        ("spread: 3 %", "spread: -3 %", 11, "spread is '-3 %'"),
        ("spread: 3 %", "spread: nan", 11, "spread is 'nan'"),
        ("spread: 3 %", "\tspread: 3 %", 11, "not YAML"),
        ("spread: 3 %", "spread: \0", 11, "not YAML: special characters"),
        ("spread: 3 %", '"a\\nb": 3 %', 11, "a\\nb is unknown"),
        ("nodes: 2", "nodes: " + 5000 * "9", 2, "it counts"),
        ("bandwidth: 5 GB/s", "bandwidth: 1e300 GB/s", 9, "from 0.001 MB/s to 1,000,000 GB/s"),
        ("bandwidth: 5 GB/s", "bandwidth: 1e-320 GB/s", 9, "from 0.001 MB/s to 1,000,000 GB/s"),
        ("latency: 0.2ms", "latency: 1e400 s", 10, "links.between.latency is '1e400 s'; it should be seconds, from 0"),
        ("  speed: 1\n", "  speed: 0\n", 7, "device.speed is '0'; it should be times as fast, from 0.001 to 1,000"),
        ("  speed: 1\n", "", 4, "device says neither speed nor achieved; add one"),
        ("  speed: 1\n", "  speed: 1\n  achieved: {fp32: 1 TFLOP/s}\n", 4, "device says both speed and achieved"),
        ("name: two hosts", 'name: "two\\nhosts"', 1, "name should be one line of text, got 'two\\\\nhosts'"),
        ("name: two hosts", "name: " + 81 * "x", 1, "name is 81 letters long; it can be at most 80"),
        ("spread: 3 %", "source: " + 2001 * "x", 11, "source is 2,001 letters long; it can be at most 2,000"),
        ("spread: 3 %", "spread: !!python/object/apply:os.abort []", 11, "should be one line of text, got a list"),
        ("spread: 3 %", "[a, b]: 3", 11, "has a list as a field's name"),
        ("spread: 3 %", "{a: b}: 3", 11, "has fields as a field's name"),
        ("spread: 3 %", "spread: *none", 11, "not YAML: found undefined alias 'none'; docs/plan.md shows a file"),
        ("  count: 2\n", "\tcount: 2\n", 5, "not YAML: a tab before a field; indent with spaces; docs/plan.md"),
        ("nodes: 2\n", "", 1, "nodes is missing; such as nodes: 2"),
        (
            "  speed: 1\n",
            "  achieved:\n",
            7,
            "device.achieved should hold fields such as `fp32: 8.7 TFLOP/s`, got nothing",
        ),
        (
            "{latency: 20us, bandwidth: 5 GB/s}",
            "fast",
            9,
            "fields such as `latency: 20us, bandwidth: 5 GB/s`, got 'fast'",
        ),
    ],
)
def test_a_mistake_points_at_its_line(old, new, line, words):
    assert GOOD.count(old) == 1
    with pytest.raises(ConfigError) as caught:
        cluster.parse(GOOD.replace(old, new), where="c.yaml")
    assert str(caught.value).startswith(f"c.yaml line {line}: "), caught.value
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_fields_is_refused_by_what_it_is():
    assert told("- 1\n- 2\n") == "c.yaml line 1: should hold fields such as `nodes: 2`, got a list"
    assert told("fast") == "c.yaml line 1: should hold fields such as `nodes: 2`, got 'fast'"


@pytest.mark.parametrize(("field", "such"), [("device", "{kind: cpu, "), ("links", "{within: {latency: ")])
def test_a_missing_section_says_what_stands_in_it(field, such):
    text = {"device": "device: {kind: cpu, count: 1, speed: 1}\n", "links": "links: {}\n"}
    del text[field]
    assert f"c.yaml line 1: {field} is missing; such as {field}: {such}" in told("nodes: 1\n" + "".join(text.values()))


@pytest.mark.parametrize("text", ["", "---\n", "null\n", "~", "# a comment\n"])
def test_a_file_of_nothing_is_empty(text):
    assert told(text) == "c.yaml is empty; say nodes, device and links, as docs/plan.md shows"


def test_brackets_without_end_are_refused_in_words():
    assert told("[" * 5000) == "c.yaml: not YAML: brackets in brackets, too deep to read; docs/plan.md shows a file"


def test_either_micro_is_a_unit_and_a_name_of_nothing_is_the_files():
    for micro in ("\u00b5", "\u03bc"):
        found = cluster.parse(GOOD.replace("20us", f"20{micro}s").replace("two hosts", ""), where="c.yaml")
        assert found.within.latency_s == pytest.approx(20e-6)
        assert found.name == "c.yaml"


@given(st.text(max_size=200))
def test_any_text_is_a_cluster_or_one_line_of_words(text):
    words = told(text)
    assert words is None or (words.startswith("c.yaml") and "\n" not in words)


@given(
    st.lists(st.sampled_from(GOOD.splitlines()), max_size=12),
    st.integers(0, 11),
    st.text("[]{}:,%'\"&*!| -1a\t", max_size=6),
)
def test_garbled_files_are_refused_in_one_line(lines, at, noise):
    lines[at : at + 1] = [noise]
    words = told("\n".join(lines))
    assert words is None or "\n" not in words


@pytest.mark.parametrize("name", cluster.presets())
def test_presets_can_be_read_and_name_their_source(name):
    found = cluster.read(name)
    assert found.source and found.ranks >= 1
    assert found.device.flop_per_s or found.device.speed, "how fast is it?"


def test_neither_a_file_nor_a_preset():
    with pytest.raises(ConfigError, match=r"--cluster 'dgx-a10' is neither a file nor a preset.*Near names: dgx-a100"):
        cluster.read("dgx-a10")
    with pytest.raises(ConfigError, match=r"cannot read the cluster file nowhere.yaml: No such file"):
        cluster.read("nowhere.yaml")


def test_what_is_no_text_file_is_refused_with_a_way_out(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: Zürich".encode("latin-1"))
    (tmp_path / "empty.yaml").write_bytes(b"")
    (tmp_path / "long.yaml").write_text(GOOD + "# " + cluster.LETTERS_MOST * "x")
    for name, words in (
        (tmp_path, "Is a directory; name a YAML file"),
        (300 * "a", "is neither a file nor a preset"),
        (300 * "a" + ".yaml", "name too long; name a YAML file"),
        ("", "is neither a file nor a preset"),
        (tmp_path / "latin.yaml", "is not text in UTF-8; save it as UTF-8"),
        (tmp_path / "long.yaml", "has more than 100,000 letters"),
        (tmp_path / "empty.yaml", "is empty; say nodes, device and links"),
    ):
        with pytest.raises(ConfigError) as caught:
            cluster.read(name)
        assert words in str(caught.value)


def test_more_ranks_than_one_node_has_need_a_network():
    """Else what lies between nodes would cost nothing."""
    alone = cluster.parse(
        GOOD.replace("nodes: 2", "nodes: 1").replace("  between: {latency: 0.2ms, bandwidth: 1 Gbit/s}\n", ""),
        where="c",
    )
    cluster.check_ranks(alone, [1, 2])
    with pytest.raises(
        ConfigError, match=r"3 ranks take 2 nodes of two hosts, .* links.between, .* --ranks 2 or fewer"
    ):
        cluster.check_ranks(alone, [1, 3])
    both = cluster.parse(GOOD, where="c")
    cluster.check_ranks(both, [1, 3, 1024])
    with pytest.raises(ConfigError, match=r"20,000 ranks of two hosts .* at most 16,384, with --ranks"):
        cluster.check_ranks(both, [20_000])


def test_more_ranks_take_more_machines_of_the_kind():
    found = cluster.parse(GOOD, where="c.yaml")
    assert [(c.nodes, c.devices) for c in map(found.over, (1, 2, 3, 4, 9))] == [(1, 1), (1, 2), (2, 2), (2, 2), (5, 2)]


def test_more_ranks_on_the_machine_that_was_measured_are_no_further_machines():
    here = replace(cluster.parse(GOOD, where="c.yaml"), nodes=1, is_measured=True)
    assert [(c.nodes, c.devices, c.cores) for c in map(here.over, (1, 2, 6))] == [(1, 1, None), (1, 2, None), (1, 6, 2)]
    assert here.over(6).memory_bytes == pytest.approx(here.memory_bytes / 3), "they share its memory, too"
