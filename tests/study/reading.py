"""A report as a reader's browser has it."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags, their addresses, and words of a page, without spaces but one."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self._words = ""
        self.feed(text)

    @property
    def words(self) -> str:
        return " ".join(self._words.split())

    @property
    def links(self) -> list[str]:
        """Addresses outside of the page."""
        return [source for source in self.sources if not source.startswith("data:")]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self._words += data


def read(text: str) -> Page:
    """The page, which runs nothing and needs nothing."""
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    return page
