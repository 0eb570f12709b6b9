"""Files of captions as people write them wrong: each is refused by file and line with a way out, or counted; never taken for
one class called images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data import layouts
from fanlight.data import spoken
from fanlight.data.formats import Listing, recognise
from fanlight.data.scan import scan
from fanlight.data.sentences import survey
from fanlight.errors import DataError

NAMES = [f"{number}.jpg" for number in range(6)]
IMAGES = {f"images/{name}": layouts.jpeg(0, number) for number, name in enumerate(NAMES)}
SAID = [(name, f"a dog number {number}") for number, name in enumerate(NAMES)]


def listing(path: Path) -> Listing:
    return recognise(str(path), cache=Path("unused"))


def written(root: Path, text: str | bytes, *, name: str = "captions.txt") -> Path:
    data = text if isinstance(text, bytes) else text.encode()
    return layouts.write(root, {**IMAGES, name: data})


def lines(head: str, form: str = "{0},{1}") -> str:
    return "\n".join([head, *(form.format(*each) for each in SAID)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines("filename,words"), "its first line is 'filename,words', by which it is no file of captions; make it 'image,cap"),
        (lines("image;caption", "{0};{1}"), "its first line is 'image;caption', by which it is no file of captions"),
        (lines("caption,image", "{1},{0}"), "its first line is 'caption,image', by which it is no file of captions"),
        (lines("0.jpg,a dog"), "its first line is '0.jpg,a dog', by which it is no file of captions"),
        (lines("0.jpg\ta dog", "{0}\t{1}"), r"its first line is '0.jpg\ta dog', by which it is no file of captions"),
        (lines("0.jpg#0 a dog", "{0}#0 {1}"), "or write every line as 'name.jpg#0', a tab and the caption"),
        ("image,caption\n", "its first line is 'image,caption', and no line below it has an image and a caption"),
        ("", "is empty; write one line for each caption below the line 'image,caption'"),
        ("\n \n", "is empty; write one line for each caption"),
        ("image,caption\n0.jpg,ein Hündchen".encode("latin-1"), "byte 25 is no UTF-8; save the file as UTF-8"),
        (lines("image,caption", "x{0},{1}"), "none of the 6 images that it names is here, such as x0.jpg; put them into"),
        (lines("image,caption", "{0}, "), "none of its 6 images has a caption; write them behind their names"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["captions.txt", "Flickr8k_text/Flickr8k.token.txt"])
def test_a_file_of_captions_that_is_none_is_named(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError) as error:
        listing(written(tmp_path, text, name=name))
    assert str(error.value).startswith(str(tmp_path / name)) and message in str(error.value)


def test_images_alone_are_still_one_class(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has only one class, images; a classifier needs at least two"):
        listing(layouts.write(tmp_path, {**IMAGES, "notes.txt": b"filename,words"}))


def test_class_folders_need_no_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.write(tmp_path, {**layouts.class_files(), "captions.txt": b"of the exhibition"})
    assert set(listing(tmp_path).labels) == {"blue", "green", "red"}
    assert "1 files beside the class folders are not used, such as captions.txt" in capsys.readouterr().out


def test_a_token_line_without_its_mark_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(f"{name}#0\t{text}" for name, text in SAID) + "\n5.jpg\tno mark\n0.jpg#1\t "
    found = listing(written(tmp_path, text, name="Flickr8k.token.txt"))
    assert sum(len(json.loads(each)) for each in found.captions) == 6
    told = capsys.readouterr().err
    assert (
        "Flickr8k.token.txt: 1 of its rows are not used, first '5.jpg\\\\tno mark'. They have no mark between" in told
    )
    assert "Flickr8k.token.txt: 1 of its rows are not used, first '0.jpg'. They have no caption" in told


def test_a_quotation_mark_that_nothing_closes_takes_in_no_other_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        'image,caption', '0.jpg,"Stop, she says', '1.jpg,a dog', '2.jpg,"a ""big"" dog, asleep"', '3.jpg,"a dog', 'on a sofa"',
        '4.jpg,a "big" dog', '5.jpg,"a cat',
    ]  # fmt: skip
    found = listing(written(tmp_path, "\r\n".join(rows)))
    assert dict(zip(found.paths, map(json.loads, found.captions))) == {
        "images/0.jpg": ["Stop, she says"], "images/1.jpg": ["a dog"], "images/2.jpg": ['a "big" dog, asleep'],
        "images/3.jpg": ["a dog on a sofa"], "images/4.jpg": ['a "big" dog'], "images/5.jpg": ["a cat"],
    }  # fmt: skip
    told = capsys.readouterr().err
    assert (
        "captions.txt: 2 of its rows open a quotation mark and do not close it, first '0.jpg,\"Stop, she says'" in told
    )


def test_a_caption_longer_than_a_field_may_be_is_read(tmp_path: Path) -> None:
    long = " ".join(["dog"] * 40_000)  # csv gives up at 131,072 letters
    found = listing(written(tmp_path, lines("image,caption") + f'\n0.jpg,"{long}"\n0.jpg,{long}'))
    assert [len(json.loads(each)) for each in found.captions] == [3, 1, 1, 1, 1, 1]


def test_null_is_no_caption(tmp_path: Path) -> None:
    text = "path,caption\n" + "\n".join(f'images/{name},"[""a dog"", null]"' for name in NAMES)
    found = listing(written(tmp_path, text, name="list.csv") / "list.csv")
    assert found.captions == ['["a dog"]'] * 6


def coco(root: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    document = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(NAMES)],
        "annotations": [{"id": number, "image_id": number, "caption": text} for number, (_, text) in enumerate(SAID)],
    }
    change(document)
    return layouts.write(root, {**IMAGES, "annotations/captions_train.json": json.dumps(document).encode()})


@pytest.mark.parametrize("kind", [str, float])
def test_an_id_is_the_same_as_number_and_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: Callable[[int], object]
) -> None:
    """Tables write whole numbers as 7.0 where an entry is empty."""

    def otherwise(document: dict[str, Any]) -> None:
        for each in document["annotations"]:
            each["image_id"] = kind(each["image_id"])

    plain = listing(coco(tmp_path / "plain", lambda document: None))
    found = listing(coco(tmp_path / "otherwise", otherwise))
    assert (found.paths, found.captions) == (plain.paths, plain.captions) and len(found.paths) == 6
    assert capsys.readouterr().err == ""


def all_wrong(document: dict[str, Any]) -> None:
    for each in document["annotations"]:
        each["caption"] = ["a", "dog"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            all_wrong,
            "6 of 6 annotations are not used, first entry 1, whose caption is a list. Their captions are no text",
        ),
        (lambda document: document["annotations"].clear(), "6 images have no caption and are not used, such as 0.jpg"),
        (
            lambda document: document["images"].clear(),
            "captions_train.json is not used. Its list of images is empty. Mend",
        ),
    ],
)
def test_annotations_that_leave_nothing_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], object], told: str
) -> None:
    with pytest.raises(
        DataError, match=r"captions_train\.json in annotations/ leave no image with a caption; give them"
    ):
        listing(coco(tmp_path, change))
    said = capsys.readouterr()
    assert told in said.out + said.err


def test_a_listed_image_that_is_missing_is_quarantined_by_name(tmp_path: Path) -> None:
    def gone(document: dict[str, Any]) -> None:
        document["images"].append({"id": 77, "file_name": "gone.jpg"})
        document["annotations"].append({"id": 9, "image_id": 77, "caption": "a dog"})

    manifest = scan(listing(coco(tmp_path, gone)), workers=1)
    bad = ~manifest.ok
    assert manifest.column("path")[bad].tolist() == ["images/gone.jpg"]
    assert manifest.column("reason")[bad].tolist() == ["file not found"]


def test_a_caption_of_ten_thousand_words_is_told_and_cut(tmp_path: Path) -> None:
    text = lines("image,caption") + "\n0.jpg," + " ".join(["dog"] * 10_000)
    manifest = scan(listing(written(tmp_path, text)), workers=1)
    found = survey(manifest)
    assert found is not None and found.lengths[3] == 10_000
    assert found.odd["of more than 50 words"][0].startswith("images/0.jpg: dog dog")
    said, rows = spoken.of(manifest), manifest.rows()
    assert said.encoded(rows, said.vocabulary(rows, 1), 40).shape == (6, 2, 42)


def test_captions_of_one_word_and_of_none(tmp_path: Path) -> None:
    manifest = scan(listing(written(tmp_path / "one", lines("image,caption", "{0},Dog!"))), workers=1)
    said, rows = spoken.of(manifest), manifest.rows()
    assert said.vocabulary(rows, 1).words[4:] == ("dog",)
    assert said.encoded(rows, said.vocabulary(rows, 1), 40).shape == (6, 1, 3)
    manifest = scan(listing(written(tmp_path / "none", lines("image,caption", "{0},..."))), workers=1)
    found = survey(manifest)
    assert found is not None and len(found.odd["without a word"]) == 6
    with pytest.raises(DataError, match="none of the training captions has a word, only marks and blanks; give them"):
        spoken.of(manifest).vocabulary(manifest.rows(), 1)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": ["0.jpg", "1.jpg"], "dev": ["1.jpg"]}, "trainImages.txt: 1.jpg is in the list of val, too, and an"),
        (
            {"train": ["x/a.jpg"], "test": ["b.jpg"]},
            "none of the 6 images with captions, such as images/0.jpg, is in a list of a split; these name b.jpg and the like",
        ),
    ],
)  # fmt: skip
def test_lists_of_splits_that_cannot_be(tmp_path: Path, lists: dict[str, list[str]], message: str) -> None:
    root = written(tmp_path, lines("image,caption"))
    layouts.write(root, {f"Flickr_8k.{split}Images.txt": "\n".join(names).encode() for split, names in lists.items()})
    with pytest.raises(DataError) as error:
        listing(root)
    assert message in str(error.value)


def test_lists_of_splits_as_other_systems_save_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mark before the first letter, other ends of lines, names with blanks and with their folder."""
    rows = [*SAID, ("a dog.jpg", "a dog")]
    files = {**IMAGES, "images/a dog.jpg": layouts.jpeg(1, 9)}
    text = "image,caption\n" + "\n".join(map(",".join, rows))
    layouts.write(tmp_path, {**files, "captions.txt": text.encode()})
    layouts.write(tmp_path, {
        "Flickr_8k.trainImages.txt": "\ufeff0.jpg\r\n1.jpg\r\na dog.jpg\r\n".encode(),
        "Flickr_8k.devImages.txt": b"images/2.jpg\rgone.jpg\r",
    })  # fmt: skip
    found = listing(tmp_path)
    assert dict(zip(found.paths, found.splits)) == {
        "images/0.jpg": "train", "images/1.jpg": "train", "images/2.jpg": "val", "images/a dog.jpg": "train",
    }  # fmt: skip
    told = capsys.readouterr().out
    assert "3 images are in none of the lists of splits and not used" in told
    assert "1 images of the lists of splits have no caption, and are not used, such as gone.jpg" in told


@pytest.mark.parametrize("form", ["token", "csv", "jsonl"])
def test_other_ends_of_lines_belong_to_the_caption(tmp_path: Path, form: str) -> None:
    said = [(name, f"{text}\u2028asleep\x85here") for name, text in SAID]
    if form == "jsonl":
        text = "\n".join(json.dumps({"image": name, "caption": text}, ensure_ascii=False) for name, text in said)
        found = listing(written(tmp_path, text, name="said.jsonl") / "said.jsonl")
    elif form == "token":
        found = listing(written(tmp_path, "".join(f"{name}#0\t{text}\n" for name, text in said), name="a.token"))
    else:
        found = listing(written(tmp_path, "image,caption\r" + "\r".join(map(",".join, said))))
    assert len(found.paths) == 6 and all(
        " ".join(json.loads(each)[0].split()).endswith("asleep here") for each in found.captions
    )


TABLE = [f'{{"path": "images/{name}", "caption": "a dog"}}' for name in NAMES[:5]]


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ({"en": "a dog"}, 'entry 6: its caption {"en": "a dog"} has an object where a text should be; write a text'),
        ([["a", "dog"]], "has a list where a text should be"),
        (["a dog", True], "has true or false where a text should be"),
    ],
)
def test_captions_in_a_list_that_are_no_text(tmp_path: Path, caption: object, message: str) -> None:
    rows = [*TABLE, json.dumps({"path": "images/5.jpg", "caption": caption})]
    with pytest.raises(DataError) as error:
        listing(written(tmp_path, "\n".join(rows), name="list.jsonl") / "list.jsonl")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("caption", "read"),
    [
        ("[" * 100_000, "[" * 100_000),  # deeper than JSON is read
        ("[left] a dog", "[left] a dog"),
        ([{"raw": "a dog", "tokens": ["a", "dog"]}, None, " "], "a dog"),
        (3, "3"),
    ],
)
def test_captions_in_a_list_that_are_texts(tmp_path: Path, caption: object, read: str) -> None:
    rows = [*TABLE, json.dumps({"path": "images/5.jpg", "caption": caption})]
    found = listing(written(tmp_path, "\n".join(rows), name="list.jsonl") / "list.jsonl")
    assert json.loads(found.captions[-1]) == [read]


@pytest.mark.parametrize("place", ["list.csv", ""])
def test_a_list_whose_images_are_elsewhere_says_so(tmp_path: Path, place: str) -> None:
    text = "path,caption\n" + "\n".join(f"gone/{name},{text}" for name, text in SAID)
    message = r"list\.csv: its column caption has captions, and most of the files in its column path are not here, such as gone"
    with pytest.raises(DataError, match=message):
        listing(written(tmp_path, text, name="list.csv") / place)


@pytest.mark.parametrize("place", ["captions.csv", ""])
def test_a_comma_in_a_caption_is_named_by_its_row(tmp_path: Path, place: str) -> None:
    text = "path,caption\nimages/0.jpg,a dog\nimages/1.jpg,a dog, asleep\n"
    message = r"captions\.csv, entry 2: 3 fields where the first line has 2: .*; a field that has ',' in it needs quotation marks"
    with pytest.raises(DataError, match=message):
        listing(written(tmp_path, text, name="captions.csv") / place)


def test_labels_and_captions_in_one_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"images/{name},{'even' if int(name[0]) % 2 else 'odd'},{text}" for name, text in SAID]
    path = written(tmp_path, "\n".join(["path,label,caption", *rows]), name="list.csv") / "list.csv"
    found = listing(path)
    assert set(found.labels) == {"odd", "even"} and not found.captions
    assert "the column caption is not used, because label says the classes; list.csv?captions=caption takes it" in (
        capsys.readouterr().out
    )
    found = listing(Path(f"{path}?captions=caption"))
    assert set(found.labels) == {""} and json.loads(found.captions[0]) == ["a dog number 0"]
    with pytest.raises(DataError, match=r"\?label= asks for classes and \?captions= for sentences; choose one"):
        listing(Path(f"{path}?captions=caption&label=label"))


def test_images_that_cannot_be_read_are_not_asked_to_be_classes(tmp_path: Path) -> None:
    layouts.write(
        tmp_path, {f"images/{name}": b"no image" for name in NAMES} | {"captions.txt": lines("image,caption").encode()}
    )
    with pytest.raises(
        DataError, match=r"none of the 6 files of .* can be used .*Put the images that the captions name"
    ):
        scan(listing(tmp_path), workers=1)


def test_half_of_a_letter_is_refused_before_anything_is_learned(tmp_path: Path) -> None:
    def half(document: dict[str, Any]) -> None:
        document["annotations"][2]["caption"] = "a \ud83d dog"

    manifest = scan(listing(coco(tmp_path, half)), workers=1)
    with pytest.raises(
        DataError, match=r"2\.jpg: its caption '.*ud83d dog' holds half of a letter and cannot be kept; write"
    ):
        spoken.of(manifest)


ENTRIES: list[Any] = [{"filename": name, "split": "train", "sentences": [{"raw": text}]} for name, text in SAID]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([None, *ENTRIES], "entry 1 of images is null, not an object"),
        ([*ENTRIES, "0.jpg"], "entry 7 of images is a text, not an object"),
        ([{"filename": "0.jpg", "split": "train"}, *ENTRIES], "entry 1 of images has no sentences"),
        ([{**ENTRIES[0], "filename": " "}], "entry 1 of images: its filename is empty"),
        ([{**ENTRIES[0], "filename": "../0.jpg"}], "entry 1 of images: '../0.jpg' points out of"),
        ([{**ENTRIES[0], "sentences": [{"raw": 3}]}], "entry 1 of images: sentence 1: its raw is a number"),
        ([], "images is empty; mend it, or download it again"),
    ],
)
@pytest.mark.parametrize("place", ["", "dataset_x.json"])
def test_a_split_file_that_is_damaged_is_named(tmp_path: Path, place: str, images: list[Any], message: str) -> None:
    text = json.dumps({"dataset": "x", "images": images})
    with pytest.raises(DataError) as error:
        listing(written(tmp_path, text, name="dataset_x.json") / place)
    assert "dataset_x.json: " in str(error.value) and message in str(error.value)
