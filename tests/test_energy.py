"""Energy counters: a made tree of the system's, and a made library in place of NVIDIA's."""

import ctypes
from pathlib import Path

import pytest

from fanlight import energy
from fanlight.energy import Counters, Reading, Spent, Unreadable, between

RANGE_UJ = 65_532_610_987  # of a server's package
ONE, OTHER = "GPU-1111", "GPU-2222"


def zone(system: Path, place: str, name: str, energy_uj: int | str) -> Path:
    """A zone of powercap, as flat as the system shows all of them."""
    folder = system / "class/powercap" / place
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in (("name", name), ("energy_uj", energy_uj), ("max_energy_range_uj", RANGE_UJ)):
        (folder / file).write_text(f"{content}\n")
    return folder


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """Two packages with parts, as a server has them, the board, and a second way to the first package."""
    zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 3_000_000)
    zone(tmp_path, "intel-rapl:0:1", "dram", 1_000_000)
    zone(tmp_path, "intel-rapl:0:2", "uncore", 500_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 7_000_000)
    zone(tmp_path, "intel-rapl:1:0", "dram", 2_000_000)
    zone(tmp_path, "intel-rapl:2", "psys", 90_000_000)
    zone(tmp_path, "intel-rapl:2:0", "dram", 3_000_000)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)
    return tmp_path


class Library:
    """NVIDIA's, with so many millijoules by UUID; None: this GPU has no counter."""

    def __init__(self, **millijoules: int | None):
        self.millijoules = {f"GPU-{uuid[1:]}": value for uuid, value in millijoules.items()}
        self.refuses: dict[str, int] = {}

    def nvmlInit_v2(self) -> int:
        return self.refuses.get("init", 0)

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle) -> int:
        names = list(self.millijoules)
        if uuid.decode() not in names:
            return 6
        handle._obj.value = 1 + names.index(uuid.decode())
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: ctypes.c_void_p, found) -> int:
        assert handle.value is not None
        value = list(self.millijoules.values())[handle.value - 1]
        if value is None:
            return energy.NOT_SUPPORTED
        found._obj.value = value
        return 0

    def nvmlErrorString(self, answer: int) -> bytes:
        return {3: b"Not Supported", 6: b"Not Found", 9: b"Driver Not Loaded"}[answer]


def read(counters: Counters) -> Reading:
    found = counters.read()
    assert isinstance(found, Reading), found
    return found


def reading(at_s: float, **joules: float) -> Reading:
    return Reading(at_s, joules, {"package": 1000.0} if "package" in joules else {}, {})


SERVER = {"package-0", "package-1", "dram-0", "dram-1"}


def test_packages_and_their_memory_are_counted_once(system):
    """Memory is below its package for the system, and in no package's energy; other parts and the board would count twice."""
    found = read(Counters(system=system))
    assert found.joules == {"package-0": 5.0, "dram-0": 1.0, "package-1": 7.0, "dram-1": 2.0}
    assert found.ranges == dict.fromkeys(found.joules, RANGE_UJ / 1e6) and found.lacking == {}


def test_memory_beside_the_packages_is_a_source_of_its_own(system):
    zone(system, "intel-rapl:3", "dram", 2_500_000)
    zone(system, "intel-rapl:4", "dram", 500_000)
    found = read(Counters(system=system)).joules
    assert (found["dram"], found["dram-4"]) == (2.5, 0.5)


def test_memory_is_named_by_its_package(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0-die-1", 1_000_000)
    zone(tmp_path, "intel-rapl:0:0", "dram", 2_000_000)
    assert read(Counters(system=tmp_path)).joules == {"package-0-die-1": 1.0, "dram-0-die-1": 2.0}


def test_what_lies_between_two_readings(system):
    counters = Counters(system=system)
    first = read(counters)
    zone(system, "intel-rapl:0", "package-0", 6_500_000)
    zone(system, "intel-rapl:0:1", "dram", 1_250_000)
    zone(system, "intel-rapl:1", "package-1", 1_000_000)  # started at 0 again
    second = read(counters)
    spent = between(first, second)
    assert isinstance(spent, Spent) and spent.seconds == second.at_s - first.at_s > 0
    assert spent.joules == pytest.approx(
        {"package-0": 1.5, "package-1": RANGE_UJ / 1e6 - 6.0, "dram-0": 0.25, "dram-1": 0.0}
    )


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (reading(0, package=1), reading(1.5, package=2), "2 s lie between two readings of package, which starts at 0 again"),
        (reading(0, gpu=5), reading(9, gpu=3), "the counter of gpu went back by 2 J: its driver was started anew"),
        (reading(0, package=1), reading(0.5, package=1, gpu=3), "the counter of gpu cannot be read all the time"),
        (reading(0, package=1, gpu=3), reading(0.5, package=1), "the counter of gpu cannot be read all the time"),
    ],
)  # fmt: skip
def test_readings_that_tell_nothing(first, second, reason):
    found = between(first, second)
    assert isinstance(found, Unreadable) and found.reason.startswith(reason)


def test_a_counter_without_a_range_counts_for_any_time():
    assert between(reading(0, gpu=5), reading(1e6, gpu=3e9)) == Spent(1e6, {"gpu": 3e9 - 5})


def test_a_system_that_hides_its_counters(tmp_path):
    found = Counters(system=tmp_path).read()
    assert found == Unreadable(energy.HIDDEN)
    (tmp_path / "class/powercap/intel-rapl:0").mkdir(parents=True)  # as in a container: names, and nothing behind them
    assert Counters(system=tmp_path).read() == Unreadable(energy.HIDDEN)
    zone(tmp_path, "intel-rapl:0:0", "core", 1)  # a part is no package
    assert Counters(system=tmp_path).read() == Unreadable(energy.HIDDEN)


@pytest.mark.parametrize("place", ["intel-rapl:1", "intel-rapl:1:0"])
def test_a_counter_for_root_alone_says_which_permission(system, monkeypatch, place):
    path = system / "class/powercap" / place / "energy_uj"
    inner = Path.read_text

    def refused(self: Path, *args, **options) -> str:  # tests may run as root, who may read everything
        if self == path:
            raise PermissionError(13, "Permission denied")
        return inner(self, *args, **options)

    monkeypatch.setattr(Path, "read_text", refused)
    found = Counters(system=system).read()
    assert isinstance(found, Unreadable)  # one package of two, or packages without their memory, are no sum
    assert found.reason.startswith(f"{path} may be read by root only")
    assert f"sudo chmod a+r {system}/class/powercap/intel-rapl:*/energy_uj" in found.reason


@pytest.mark.parametrize("content", ["", "many"])
def test_a_counter_that_is_no_number(system, content):
    zone(system, "intel-rapl:0", "package-0", content)
    found = Counters(system=system).read()
    assert isinstance(found, Unreadable) and "intel-rapl:0/energy_uj: invalid literal" in found.reason


def test_a_counter_that_goes_away_meanwhile(system):
    counters = Counters(system=system, gpus=[ONE], library=Library(_1111=1000))
    first = read(counters)
    (system / "class/powercap/intel-rapl:0/energy_uj").unlink()
    second = read(counters)
    assert second.joules == {"gpu-0": 1.0} and "No such file" in second.lacking["cpu"]
    found = between(first, second)
    assert isinstance(found, Unreadable) and " cannot be read all the time: " in found.reason
    assert "No such file" in found.reason


def test_gpus_are_found_by_uuid_in_the_order_asked(system):
    library = Library(_9999=1_000, _2222=22_000, _1111=11_000)
    found = read(Counters(gpus=[ONE, OTHER], system=system, library=library)).joules
    assert (found["gpu-0"], found["gpu-1"]) == (11.0, 22.0) and found.keys() == SERVER | {"gpu-0", "gpu-1"}


def test_gpus_are_counted_where_the_processors_are_not(tmp_path):
    library = Library(_1111=2**40)
    found = read(Counters(gpus=[ONE], system=tmp_path, library=library))
    assert found.joules == {"gpu-0": 2**40 / 1e3} and found.ranges == {} and found.lacking == {"cpu": energy.HIDDEN}
    library.millijoules[ONE] = 2**40 + 500
    spent = between(found, read(Counters(gpus=[ONE], system=tmp_path, library=library)))
    assert isinstance(spent, Spent) and spent.joules == pytest.approx({"gpu-0": 0.5})


@pytest.mark.parametrize(
    ("library", "gpus", "reason"),
    [
        (Library(_1111=None), [ONE], "'Not Supported': GPUs before Volta have no energy counter"),
        (Library(_1111=1), [ONE, OTHER], "answers nvmlDeviceGetHandleByUUID with 'Not Found'"),
        (object(), [ONE], "this driver's library has no nvmlInit_v2; a newer driver has"),
    ],
)
def test_gpus_without_a_counter(system, library, gpus, reason):
    found = read(Counters(gpus=gpus, system=system, library=library))
    assert reason in found.lacking["gpu"] and set(found.joules) == SERVER


def test_a_driver_that_is_not_there(tmp_path):
    library = Library(_1111=1)
    library.refuses["init"] = 9
    found = Counters(gpus=[ONE], system=tmp_path, library=library).read()
    assert isinstance(found, Unreadable)
    assert found.reason == f"{energy.HIDDEN}; NVIDIA's library answers nvmlInit_v2 with 'Driver Not Loaded'"


def test_the_library_is_loaded_for_gpus_alone(system, monkeypatch):
    def refused(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(energy.ctypes, "CDLL", refused)
    energy._library.cache_clear()
    assert read(Counters(system=system)).lacking == {}
    assert "libnvidia-ml.so.1, which comes with" in read(Counters(gpus=[ONE], system=system)).lacking["gpu"]
