import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fanlight import machine
from fanlight.machine import cores_usable, describe, disk_free, memory_available, power

GB = 10**9
V1_NO_LIMIT = 9223372036854771712  # what version 1 says where there is no limit: 2^63 − 1 in whole pages


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 cores with 100 GB free."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: type("Memory", (), {"available": 100 * GB, "total": 128 * GB})
    )


def write(folder: Path, **files: object) -> Path:
    """Files of a version 2 cgroup; `_` stands for the dot."""
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(f"{content}\n")
    return folder


# --- cores


@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [
        ("max 100000", 16),
        ("200000 100000", 2),
        ("150000 100000", 2),  # a core and a half: the second is used half
        ("50000 100000", 1),
        ("1000 100000", 1),
        ("3200000 100000", 16),  # more than there are
        ("300000 50000", 6),
        ("", 16),
        ("nonsense", 16),
    ],
)
def test_cores_of_a_version_2_quota(tmp_path: Path, host: None, cpu_max: str, cores: int) -> None:
    assert cores_usable(cgroup=write(tmp_path, cpu_max=cpu_max)) == cores


@pytest.mark.parametrize(("quota", "cores"), [(-1, 16), (200_000, 2), (250_000, 3), (10_000, 1), (0, 16)])
def test_cores_of_a_version_1_quota(tmp_path: Path, host: None, quota: int, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cores_usable(cgroup=tmp_path) == cores


def test_affinity_caps_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 7, 9}, raising=False)
    assert cores_usable(cgroup=tmp_path) == 3
    assert cores_usable(cgroup=write(tmp_path, cpu_max="800000 100000")) == 3
    assert cores_usable(cgroup=write(tmp_path, cpu_max="200000 100000")) == 2


def test_a_system_without_affinity_has_its_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cores_usable(cgroup=tmp_path) == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores_usable(cgroup=tmp_path) == 1


# --- memory


def test_memory_of_a_version_2_limit(tmp_path: Path, host: None) -> None:
    write(tmp_path, memory_max=8 * GB, memory_current=5 * GB)
    assert memory_available(cgroup=tmp_path) == 3 * GB
    write(tmp_path, memory_stat=f"anon {1 * GB}\nfile {4 * GB}\ninactive_file {2 * GB}\nactive_file {2 * GB}")
    assert memory_available(cgroup=tmp_path) == 5 * GB, "file cache is given back"


def test_memory_of_a_version_1_limit(tmp_path: Path, host: None) -> None:
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text(f"{8 * GB}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{7 * GB}\n")
    assert memory_available(cgroup=tmp_path) == 1 * GB
    (folder / "memory.stat").write_text(f"cache 5\ninactive_file 9\ntotal_inactive_file {6 * GB}\n")
    assert memory_available(cgroup=tmp_path) == 7 * GB


@pytest.mark.parametrize("limit", ["max", V1_NO_LIMIT, "nonsense"])
def test_no_limit_leaves_what_the_system_has(tmp_path: Path, host: None, limit: object) -> None:
    write(tmp_path, memory_max=limit, memory_current=5 * GB)
    assert memory_available(cgroup=tmp_path) == 100 * GB
    assert memory_available(cgroup=tmp_path / "nothing") == 100 * GB


def test_memory_is_never_more_than_the_system_has_nor_negative(tmp_path: Path, host: None) -> None:
    write(tmp_path, memory_max=500 * GB, memory_current=GB)
    assert memory_available(cgroup=tmp_path) == 100 * GB
    write(tmp_path, memory_max=GB, memory_current=2 * GB)
    assert memory_available(cgroup=tmp_path) == 0


# --- this machine


def test_this_machine_has_cores_memory_and_disk(tmp_path: Path) -> None:
    assert 1 <= cores_usable() <= (os.cpu_count() or 1)
    assert 0 < memory_available() <= psutil.virtual_memory().total
    assert disk_free(tmp_path) > 0


def test_disk_of_a_folder_to_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(
        "shutil.disk_usage", lambda folder: asked.append(Path(folder)) or type("Usage", (), {"free": 7})
    )
    assert disk_free(tmp_path / "a/b/c") == 7
    assert asked == [tmp_path]
    monkeypatch.chdir(tmp_path)
    assert disk_free(Path("a/b")) == 7
    assert asked[1].resolve() == tmp_path
    (tmp_path / "file").touch()
    assert disk_free(tmp_path / "file/below") == 7


def test_power_is_what_the_system_tells(tmp_path: Path) -> None:
    assert power(system=tmp_path) == {}
    for core, governor in enumerate(("powersave", "powersave", "performance")):
        place = tmp_path / f"devices/system/cpu/cpu{core}/cpufreq"
        place.mkdir(parents=True)
        (place / "scaling_governor").write_text(f"{governor}\n")
    place = tmp_path / "class/power_supply/AC"
    place.mkdir(parents=True)
    (place / "online").write_text("0\n")
    assert power(system=tmp_path) == {"online": ["0"], "scaling_governor": ["performance", "powersave"]}


def test_the_description_has_no_name_of_machine_or_user() -> None:
    found = describe()
    assert set(found) == {"cpu", "cores_usable", "cores_online", "memory_bytes", "system", "python"}
    assert all(value for value in found.values())
    assert found["cores_usable"] == cores_usable()
    assert found["system"] == f"{platform.system()} {platform.release()} {platform.machine()}"
    words = " ".join(str(value) for value in found.values()).split()
    assert socket.gethostname() not in words
    assert str(Path.home()) not in words


def test_the_processor_s_name_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", nothing)
    assert machine.cpu_name() == (platform.processor() or platform.machine())


def test_a_python_that_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.python() == sys.executable
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert machine.python() is None
    monkeypatch.delattr(sys, "frozen")
    for unknown in ("", None):
        monkeypatch.setattr(sys, "executable", unknown)
        assert machine.python() is None


def test_machine_needs_no_torch() -> None:
    code = "import sys, fanlight.machine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the switch")
def test_freed_memory_is_kept_for_the_next_allocation() -> None:
    code = """
import resource, sys
from fanlight import machine

if sys.argv[1] == "keep":
    machine.keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    block = bytearray(64 << 20)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        word: int(subprocess.run([sys.executable, "-c", code, word], check=True, stdout=subprocess.PIPE).stdout)
        for word in ("keep", "return")
    }
    assert faults["keep"] < faults["return"] / 5


@pytest.mark.parametrize(
    ("visible", "driver", "system", "expected"),
    [
        (None, True, "linux", True), (None, False, "linux", False), ("", True, "linux", False),
        ("-1", True, "linux", False), ("0", True, "linux", True), (None, False, "darwin", True),
    ],
)  # fmt: skip
def test_torch_is_asked_for_a_gpu_where_there_may_be_one(monkeypatch, visible, driver, system, expected) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(os.path, "exists", lambda path: driver and path == "/dev/nvidiactl")
    monkeypatch.setattr(sys, "platform", system)
    assert machine.may_have_gpu() is expected
