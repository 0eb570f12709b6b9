"""Where the files are that a list names: as they are named, in a folder beside the list, or with an extension added.

Kaggle's train_images/ and test_images/ often hold files of the same names, so a folder of the rows' own split comes first, one of
another split is not taken for it, and what is left undecided is refused: labels must not land on other images.
"""

from __future__ import annotations

from collections.abc import Mapping

from fanlight import console
from fanlight.data.formats.listing import split_in
from fanlight.data.formats.tree import Tree, join
from fanlight.errors import DataError, shown

SUFFIXES = ("", ".jpg", ".jpeg", ".png")
SAMPLE = 200  # values that show where a column's files are
FOLDERS_MOST = 50  # beside a list, looked into for its files
LETTERS_MOST = 1024  # of a path

Place = tuple[str, str]  # folder, suffix


def are_files(tree: Tree, names: list[str]) -> bool:
    """Whether half of a sample of these names are files, wherever they are."""
    sample = _sample(names)
    return 2 * sum(map(len, _found(tree, sample).values())) > len(sample)


def missing(tree: Tree, names: list[str]) -> str:
    """The first of a sample of these names that is no file anywhere here; else the first of them."""
    sample = _sample(names)
    there = set().union(*_found(tree, sample).values())
    return next((name for name in sample if name not in there), names[0] if names else "")


def located(tree: Tree, names: list[str], *, splits: list[str], told: str) -> list[str]:
    """The path of each file; a name that is found nowhere stays, and is quarantined by it. `splits` are the rows' own, empty
    where nothing says one: then the list's name does. DataError where it is undecided which files are meant."""
    paths = list(names)
    rows_of: dict[str, list[int]] = {}
    for row, split in enumerate(splits):
        rows_of.setdefault(split, []).append(row)
    for split, rows in rows_of.items():
        here = [names[row] for row in rows]
        found = _of_split(tree, _found(tree, _sample(here)), split=split, told=told)
        are_most = 2 * sum(map(len, found.values())) > len(_sample(here))
        places = list(found)
        if not are_most or places[0] == ("", ""):
            places = [("", ""), *places]
        else:
            folder, suffix = places[0]
            example = join(folder, here[0] + suffix)
            console.say(f"{told}: its files are {folder or '.'}/…{suffix}, such as {example}")
        if set(places) != {("", "")}:
            for row in rows:
                tried = (join(folder, names[row] + suffix) for folder, suffix in places)
                paths[row] = next(filter(tree.has_file, tried), names[row])
    return paths


def refuse_tie(found: Mapping[str, set[str]], *, told: str) -> None:
    """DataError where the first of these folders, which has most of the files, and another both have files of one name, and
    nothing says which are meant."""
    best, *others = found
    for other in others:
        if not found[best] & found[other] or not best or not other or other.startswith(f"{best}/"):
            continue
        of_splits = {split_in(each.rpartition("/")[2]) for each in (best, other)}
        if len(found[best]) == len(found[other]) or ("" not in of_splits and len(of_splits) == 2):
            name = min(found[best] & found[other])
            raise DataError(
                f"{told}: {best}/ and {other}/ both have its files, such as {shown(name, letters=200)}, and nothing says which "
                f"are meant; write the folder into its paths ({shown(join(best, name), letters=200)}), give it the word of its "
                "split as a name (train.csv), or move the other folder elsewhere"
            )


def _of_split(tree: Tree, found: dict[Place, set[str]], *, split: str, told: str) -> dict[Place, set[str]]:
    """The places that files of a split may be in, the likeliest first: folders of its word, then those with most files."""
    if ("", "") in found and len(found) == 1:
        return found
    wanted = split or split_in(told.rpartition("/")[2])
    there = {split_in(folder) for folder in tree.children("")[0]}
    if split == "val" and wanted not in there and "train" in there:
        wanted = "train"  # of which val was taken
    may_share = not wanted or (split and wanted not in there)
    fitting = {place: names for place, names in found.items() if may_share or split_in(place[0]) in ("", wanted)}
    if found and not fitting:
        raise DataError(
            f"{told}: its files are in {next(iter(found))[0]}/ only, and it is a list of {wanted}; put the images of {wanted} "
            f"beside it, or write the folder into its paths"
        )
    ranked = sorted(fitting, key=lambda place: (bool(wanted) and split_in(place[0]) != wanted, -len(fitting[place])))
    of_folder: dict[str, set[str]] = {}
    for place in [each for each in ranked if wanted and split_in(each[0]) == wanted] or ranked:
        of_folder.setdefault(place[0], set()).update(fitting[place])
    if of_folder:
        refuse_tie(of_folder, told=told)
    return {place: fitting[place] for place in ranked}


def _sample(names: list[str]) -> list[str]:
    sample = [name.replace("\\", "/") for name in dict.fromkeys(names[:: max(1, len(names) // SAMPLE)]) if name]
    return [name for name in sample if len(name) < LETTERS_MOST]


def _found(tree: Tree, sample: list[str]) -> dict[Place, set[str]]:
    """Where files of these names are, the place with most of them first."""
    if sample and all(tree.has_file(name) for name in sample):
        return {("", ""): set(sample)}
    folders = tree.children("")[0][:FOLDERS_MOST]
    folders += [f"{folder}/{folder}" for folder in folders if folder in tree.children(folder)[0]]
    found = {
        (folder, suffix): {name for name in sample if tree.has_file(join(folder, name + suffix))}
        for folder in ("", *folders)
        for suffix in SUFFIXES
    }
    return dict(sorted(((place, names) for place, names in found.items() if names), key=lambda each: -len(each[1])))
