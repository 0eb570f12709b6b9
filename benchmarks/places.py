"""Slow links on one machine: a shell's words that make them in network namespaces of their own, by the kernel's token bucket.

Needs Linux, `unshare`, `ip`, `tc` and the right to make user namespaces; nothing outside the new namespaces changes.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence

MISSING = ("Operation not permitted", "tc: not found", "ip: not found")  # in what a machine without all of it says


def bucket(rate: str) -> str:
    """Arguments of `tc qdisc add dev …` for a rate such as 200mbit or 1gbit."""
    return f"root tbf rate {rate} burst 256kb latency 400ms"


def one_link(rate: str) -> str:
    """One namespace whose loopback is slow."""
    return f"ip link set lo up && tc qdisc add dev lo {bucket(rate)} && exec "


def two_places(rate: str) -> str:
    """Two namespaces with a slow link between them. OTHER_PLACE is the second's file, for two_places.py."""
    slow = bucket(rate)
    return f"""
set -e
unshare -n sleep 7200 & other=$!
trap "kill $other" EXIT
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link add link0 type veth peer name link0 netns $other
ip addr add 10.99.0.1/24 dev link0; ip link set link0 up; tc qdisc add dev link0 {slow}
nsenter -t $other -n sh -ec 'ip addr add 10.99.0.2/24 dev link0; ip link set link0 up; tc qdisc add dev link0 {slow}'
export GLOO_SOCKET_IFNAME=link0 OTHER_PLACE=/proc/$other/ns/net
"""


def changed(rate: str) -> list[list[str]]:
    """Commands that hold the link of `two_places` to another rate, given inside the first."""
    words = ["tc", "qdisc", "change", "dev", "link0", *bucket(rate).split()]
    return [words, ["nsenter", f"--net={os.environ['OTHER_PLACE']}", *words]]


def run(
    before: str, words: Sequence[str], *, paths: Sequence[str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """A program in the namespace that `before` makes, with `paths` as its PYTHONPATH. FileNotFoundError without `unshare`."""
    environment: Mapping[str, str] = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        ["unshare", "-rn", "sh", "-c", before + shlex.join(words)], capture_output=True, text=True, timeout=timeout_s,
        check=False, env=environment,
    )  # fmt: skip


def is_missing(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether this machine has no namespaces or no traffic control."""
    return any(word in done.stderr for word in MISSING)
