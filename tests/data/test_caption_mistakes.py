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
        (lines("image,caption", "{0}, "), "none of its 6 images has a caption"),
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


def ids_as_texts(document: dict[str, Any]) -> None:
    for each in document["annotations"]:
        each["image_id"] = str(each["image_id"])


def test_an_id_is_the_same_as_number_and_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = listing(coco(tmp_path / "plain", lambda document: None))
    found = listing(coco(tmp_path / "texts", ids_as_texts))
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
    ],
)
def test_annotations_that_leave_nothing_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], object], told: str
) -> None:
    with pytest.raises(DataError, match=r"captions_train\.json in annotations/ leave no image with a caption; put"):
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
