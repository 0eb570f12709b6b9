"""The command that prepares images, and the options that several commands share. `cli` registers it."""

from typing import Annotated

import typer

from fanlight import console

DataArgument = Annotated[
    str, typer.Argument(help="Class folders, an archive of them, a list file, or the built-in `digits`.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else there.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, max=1024, help="Threads that read and decode. Default: by usable cores.")
]
PackDirOption = Annotated[str | None, typer.Option(help="Folder for packs. Default: the user's cache folder.")]


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
