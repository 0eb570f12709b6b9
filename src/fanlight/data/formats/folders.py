"""Class folders: the name of a folder is the class of the images in it, with or without folders of splits around."""

import itertools
import re
from typing import NoReturn

from fanlight import console
from fanlight.data.formats.listing import IMAGE_ENDINGS, SPLIT_OF, SPLITS, WAYS, Listing, Row, listing_of, split_in
from fanlight.data.formats.tree import Tree, is_utf8, join, look_through
from fanlight.errors import DataError, shown_all

Tops = dict[str, list[str]]  # top folder -> its files at any depth; both relative to the root
PROBED = 20  # files of a folder whose names show whether it holds images
INNER_MOST = 10  # folders in a folder that are classes of a kind; more are patients, days, scenes
_REST = re.compile(r"[\W_]*(test|val|valid)?[\W_]*\d*")  # of a file's name after the class: A_test.jpg


def are_classes(tree: Tree, part: str) -> bool:
    """Whether two folders here, or in a folder of a split, hold images, as their names say: what else is here is then a
    misfit. Folders of splits alone, and what lies beside annotations, are of another layout."""
    names = tree.children(part)[0]
    if "annotations" in names:
        return False
    holding = [name for name in names if not split_in(name) and _has_image(tree, join(part, name))]
    return len(holding) > 1 or any(are_classes(tree, join(part, name)) for name in names if name.lower() in SPLIT_OF)


def _has_image(tree: Tree, folder: str) -> bool:
    probed = itertools.islice(tree.files(folder), PROBED)
    return any(path.lower().endswith(IMAGE_ENDINGS) for path in probed)


def class_folders(tree: Tree) -> Listing:
    """A folder of class folders, also below train, val and test, and ASL Alphabet's asl_alphabet_train beside
    asl_alphabet_test, whose files are named by their class."""
    start = look_through(tree, "", stop=tuple(SPLIT_OF))
    folders, files = tree.children(start)
    here = tree.root / start
    split_of = {name: SPLIT_OF[name.lower()] for name in folders if name.lower() in SPLIT_OF} or _worded(folders)
    split_folders = sorted(split_of, key=lambda name: list(SPLITS).index(split_of[name]))
    has_splits = len(split_folders) == len(folders) or "train" in split_of.values()
    if not folders:
        _refuse_flat(tree, start, files)
    _refuse_class_named_as_split(tree, start, folders, split_folders)
    if has_splits and (others := [name for name in folders if name not in split_folders]):
        console.say(f"{here}: not used, because they are beside the folders of the splits: {', '.join(others)}")
    if folders and files:
        what = "folders of the splits" if has_splits else "class folders"
        console.say(f"{here}: {len(files)} files beside the {what} are not used, such as {files[0]}")

    base = f"{start}/" if start else ""
    parts = [(base + name, split_of[name]) for name in split_folders] if has_splits else [(start, "")]
    found: list[tuple[str, Tops]] = []
    flat: list[tuple[str, str, str]] = []
    for part, split in parts:
        bottom = _bottom(tree, part) if split in ("val", "test") else None
        if bottom is not None and (bottom == part or _is_no_class(bottom, found)):
            flat.append((split, part, bottom))
        else:
            top = look_through(tree, part)
            if has_splits and (strays := tree.children(top)[1]) and tree.children(top)[0]:
                console.say(
                    f"{tree.root / top}: {len(strays)} files beside the class folders are not used, such as {strays[0]}"
                )
            found.append((split, _tops(tree, top)))
    rows = _rows(tree, start, found)
    for split, part, bottom in flat:
        rows += _named_by_class(tree, bottom, split=split, part=part, classes={row.label for row in rows})
    if not rows:
        raise DataError(f"no files in the folders of {here}. {WAYS}")
    source = f"class folders in {' and '.join(f'{name}/' for name in split_folders)}" if has_splits else "class folders"
    if start:
        rows = [Row(row.path[len(start) + 1 :], row.label, row.split) for row in rows]
    return listing_of(rows, root=here, source=source)


def _refuse_class_named_as_split(tree: Tree, start: str, folders: list[str], split_folders: list[str]) -> None:
    """`train` beside `bus` and `plane`, all of them folders of files: nobody knows whether it is a class."""
    others = [name for name in folders if name not in split_folders]
    if len(split_folders) == 1 and others:
        name = split_folders[0]
        inner, files = tree.children(join(start, name))
        if SPLIT_OF.get(name.lower()) == "train" and files and not inner:
            raise DataError(
                f"{tree.root / start}: the folder {name} is taken for the split, and holds {len(files)} files, such as "
                f"{files[0]}, but no folder per class. If {name} is a class as {shown_all(others)} may be, give it another name, "
                f"such as {name}_class; else put class folders into it"
            )
    if others and "train" not in {SPLIT_OF.get(name.lower(), split_in(name)) for name in folders}:
        for name in split_folders:
            _doubt_class(tree, start, name, others)


def _doubt_class(tree: Tree, start: str, name: str, others: list[str]) -> None:
    """`val` beside `cat` and `dog`, where there is no `train`: a class only if it has not the classes in it."""
    here, inner = tree.root / start, tree.children(join(start, name))[0]
    if shared := [each for each in inner if each in others]:
        raise DataError(
            f"{here}: the folder {name} holds {shown_all(shared)}, and so does the folder that it is in, so it is a split "
            f"without a folder train beside it; put the other folders ({shown_all(others)}) into a folder train"
        )
    console.warn(
        f"{here}: the folder {name} is taken as a class", why=f"It lies beside {shown_all(others)}, and there is no folder train",
        do="If it is a split, put the class folders into a folder train; if its images have no label, take it away",
    )  # fmt: skip


def _worded(folders: list[str]) -> dict[str, str]:
    """seg_train, seg_test and the like: folders whose names are equal but for the word of a split."""
    split_of = {name: split_in(name) for name in folders if split_in(name)}
    word = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_OF)})(?![a-z])")
    rests = {word.sub("", name.lower(), count=1) for name in split_of}
    return split_of if len(split_of) > 1 and len(rests) == 1 and "train" in split_of.values() else {}


def _rows(tree: Tree, start: str, found: list[tuple[str, Tops]]) -> list[Row]:
    leaves = [_distinct_leaves(tops) for _, tops in found if tops]
    leaves_are_classes = bool(leaves) and all(leaves) and all(map(_are_kinds, leaves))
    if leaves_are_classes:
        console.say(
            f"{tree.root / start}: the inner folders are the classes, because they are few and share a word with their outer "
            "one; where they are not, give a list file with the columns path and label"
        )
    elif leaves and all(leaves):
        outer, inner = next(iter(leaves[0].items()))
        console.say(
            f"{tree.root / start}: the outer folders, such as {outer}, are the classes, and not the inner ones, such as "
            f"{inner[0]}; where these are, give a list file with the columns path and label; where they are patients or the "
            "like, --group-by '([^/]+)/[^/]+$' keeps each in one split"
        )
    return [
        Row(path, path.split("/")[-2] if leaves_are_classes else top.rpartition("/")[2], split)
        for split, tops in found
        for top, paths in tops.items()
        for path in paths
        if is_utf8(path)
    ]


def _bottom(tree: Tree, part: str) -> str | None:
    """The folder of files that single folders lead to from `part`; None where they lead elsewhere."""
    for _ in range(8):
        folders, files = tree.children(part)
        if not folders:
            return part if files else None
        if len(folders) > 1 or files:
            return None
        part = join(part, folders[0])
    return None


def _is_no_class(bottom: str, found: list[tuple[str, Tops]]) -> bool:
    """Whether a folder below test is none of the classes of train, where there are any."""
    train = [top for split, tops in found if split == "train" for top in tops]
    known = {path.split("/")[-2] for split, tops in found if split == "train" for top in tops for path in tops[top]}
    return bool(train) and bottom.rpartition("/")[2] not in known | {top.rpartition("/")[2] for top in train}


def _named_by_class(tree: Tree, folder: str, *, split: str, part: str, classes: set[str]) -> list[Row]:
    """Files whose names begin with their class, all of them; else none, with a warning."""
    names = tree.children(folder)[1]
    labels = {name: _class_in(name, classes) for name in names}
    if not all(labels.values()):
        console.warn(
            f"{tree.root / part} is not used",
            why="Its files have no class folders",
            do="Use `fanlight predict` for unlabelled images",
        )
        return []
    console.say(f"{tree.root / folder}: {len(names)} files of {split} are named by their class, such as {names[0]}")
    return [Row(f"{folder}/{name}", label, split) for name, label in labels.items()]


def _class_in(name: str, classes: set[str]) -> str:
    """`A` of A_test.jpg; of several that fit the longest; empty where none does."""
    stem = name.rpartition(".")[0].lower() or name.lower()
    fitting = [each for each in classes if stem.startswith(each.lower()) and _REST.fullmatch(stem[len(each) :])]
    return max(fitting, key=len, default="")


def _tops(tree: Tree, part: str) -> Tops:
    folders, files = tree.children(part)
    if files and not folders:
        _refuse_flat(tree, part, files)
    prefix = f"{part}/" if part else ""
    tops = {prefix + name: list(tree.files(prefix + name)) for name in folders}
    for top in [top for top, paths in tops.items() if not paths]:
        console.warn(
            f"class folder {top} is empty", why="A class without images cannot be learned", do="Add images or remove it"
        )
    return {top: paths for top, paths in tops.items() if paths}


def _distinct_leaves(tops: Tops) -> dict[str, list[str]]:
    """Outer folder -> the folders of files in it, where each holds nothing else and no folder's name is there twice; else
    none."""
    leaves = {top: sorted({path[len(top) + 1 :].rpartition("/")[0] for path in paths}) for top, paths in tops.items()}
    names = [name for inner in leaves.values() for name in inner]
    if not names or "" in names or any("/" in name for name in names):
        return {}
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        console.warn(
            f"folders named {twice} occur in several of the folders {', '.join(leaves)}",
            why="The outer folders are taken as the classes",
            do="If they are splits, name them train, val and test",
        )
        return {}
    return {top.rpartition("/")[2]: inner for top, inner in leaves.items()}


def _are_kinds(leaves: dict[str, list[str]]) -> bool:
    """LC25000 (lung_image_sets/lung_aca/…): whether the inner folders are few, each has a word that its outer one alone has,
    and more than a number tells them apart. Patients below cancer/ and normal/ are no classes."""
    words = {outer: _words(outer) for outer in leaves}
    for outer, inner in leaves.items():
        own = words[outer] - set().union(*(words[other] for other in leaves if other != outer))
        unnumbered = {re.sub(r"\d+", "", name) for name in inner}
        if len(inner) > INNER_MOST or len(unnumbered) < len(inner) or not all(own & _words(name) for name in inner):
            return False
    return True


def _words(name: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", name.lower()))


def _refuse_flat(tree: Tree, part: str, files: list[str]) -> NoReturn:
    folder = tree.root / part
    if not files:
        raise DataError(f"{folder} is empty. {WAYS}")
    raise DataError(f"{folder} has {len(files)} files, such as {files[0]}, but no folder per class. {WAYS}")
