"""The commands that look at images and prepare them, and the options that several commands share. `cli` registers them."""

import shlex
from typing import Annotated

import typer

from fanlight import console
from fanlight.cli_typed import command
from fanlight.errors import ConfigError, unwritable

DataArgument = Annotated[
    str, typer.Argument(help="Class folders, an archive of them, a list file, or the built-in `digits`.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else there.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, max=1024, help="Threads that read and decode. Default: by usable cores.")
]
PackDirOption = Annotated[str | None, typer.Option(help="Folder for packs. Default: the user's cache folder.")]


GroupByOption = Annotated[
    str | None, typer.Option(help="Keep together: a column of the list file, or a regex on paths (its first bracket).")
]


def check(
    data: DataArgument,
    workers: WorkersOption = None,
    out: Annotated[str | None, typer.Option(help="Also write the manifest to this .parquet file or folder.")] = None,
    thorough: Annotated[bool, typer.Option("--thorough", help="Find copies turned by any angle, cropped, zoomed.")] = False,
    audit: Annotated[bool, typer.Option("--audit/--no-audit", help="Look for copies other than byte for byte.")] = True,
    group_by: GroupByOption = None,
    report: Annotated[str | None, typer.Option(help="Write a page about the data to this .html file or folder.")] = None,
    fix: Annotated[str | None, typer.Option(help="Write a manifest without what contradicts or leaks: data for train.")] = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Read every file: what is there, what is broken, which files are copies, what leaks between splits."""
    console.set_json(as_json)
    if thorough and not audit:
        raise ConfigError("--thorough looks for copies and --no-audit does not; use one of them")
    from fanlight.data import checkup, fixes, targets

    level = "thorough" if thorough else "quick" if audit else "exact"
    places = targets.places(data, {"--out": out, "--fix": fix, "--report": report})
    manifest, found = checkup.examine(data, workers=workers, level=level, group_by=group_by)
    document = checkup.tell(data, manifest, found, out=places.get("--out"), level=level)
    said: list[str] = []
    if (place := places.get("--fix")) is not None:
        fixed, said = fixes.fix(manifest)
        checkup.write(fixed, place, option="--fix")
        for sentence in said:
            console.say(f"Fixed: {sentence}")
        console.say(f"Train on it: fanlight train {shlex.quote(str(place))}")
        document |= {"fixed": str(place), "fixes": said}
    if (place := places.get("--report")) is not None:
        from fanlight.study import data_report

        try:
            data_report.write(manifest, place, command=command(), fixes=said)
        except OSError as error:
            raise unwritable(error, f"--report {place}", otherwise="use another path") from None
        console.say(f"Report: {place}")
        document |= {"report": str(place)}
    console.result(document)


def pack(
    data: DataArgument,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels of what the model will see.")] = None,
    engine: Annotated[str, typer.Option(help="serial, threads, processes or dask: the same pack, by other means.")] = "threads",
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Of the engine. Default: the usable cores.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="Of dask: tcp://host:port. Default: processes of this machine.")] = None,
    pack_dir: PackDirOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Decode and resize every image once, for random access. `train` does it by itself when needed."""
    console.set_json(as_json)
    from fanlight.train import packing

    console.result(
        packing.pack(data, image_px=image_size, workers=workers, pack_dir=pack_dir, engine=engine, scheduler=scheduler)
    )


def cache_list(as_json: JsonOption = False) -> None:
    """What the cache holds, largest first."""
    console.set_json(as_json)
    from fanlight.data import cache

    entries = cache.entries()
    for entry in entries:
        console.say(f"{console.bytes_text(entry.bytes):>10}  {entry.kind:<9} {entry.path.name}  {entry.text}")
    console.say(f"{console.bytes_text(sum(entry.bytes for entry in entries)):>10}  in {cache.folder()}")
    rows = [{"path": e.path, "kind": e.kind, "bytes": e.bytes, "text": e.text} for e in entries]
    console.result({"cache": cache.folder(), "entries": rows})


def cache_clear() -> None:
    """Delete everything in the cache; the next run makes what it needs again."""
    from fanlight.data import cache

    console.say(f"freed {console.bytes_text(cache.clear())} in {cache.folder()}")
