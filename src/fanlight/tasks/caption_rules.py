r"""The rules of the caption tokenizer: what a token can be, and how it is written.

They were found without any source: from what is common knowledge of Penn Treebank words (clitics split, brackets named,
abbreviations keep their period), and from what the Java tool prints for lines that ask it one question each, compared by
benchmarks/caption_golden.py and caption_fuzz.py. docs/captions.md says what was asked and where the two still differ.

At each place the longest match wins, and what a rule reads beyond its token counts as length; of equals, the first. A rule
is a pattern over shapes (caption_chars.py): group 1 is the token, the whole match its length.
"""

import re
from collections.abc import Callable

from fanlight.tasks import caption_lists as lists

Rule = tuple[re.Pattern[str], Callable[[str], str]]

# In patterns: A letters of ASCII, N digits, S white space; an accent may be written as &eacute;
A, N, S = "A-Za-z", "0-9٣", r" \t\xa0\u2003"
ACCENT = "&(?i:[aeiou](?:acute|grave|uml));"
WORD = f"(?:[{A}äˇ\xad]|{ACCENT})(?:[{A}äˇ{N}\xad]|{ACCENT})*+"
ALNUMS = f"[{A}ä{N}]++"
CLITIC = "(?:['’]|&apos;)"
TICK = "(?:['’‘`]|&apos;)"
DIGITS = f"(?:\xad?[{N}])++"
NUMBER = rf"(?:{DIGITS}(?:[.,:٫][{N}](?:\xad?[{N}])*+)*+|(?:[.,:٫][{N}](?:\xad?[{N}])*+)++)"
FRACTION = rf"(?:[{N}]{{1,4}}[- \xa0])?[{N}]{{1,4}}(?:\\?/|⁄)[{N}]{{1,4}}"
PHONE = rf"(?:(?:\+?[{N}]{{2,4}}[- \xa0])(?:[{N}]{{2,4}}[- \xa0])?|\([{N}]{{2,3}}\)[ \xa0]?)[{N}]{{3,4}}[- \xa0]?[{N}]{{3,5}}"
DATE = f"[{N}]{{1,2}}[-/][{N}]{{1,2}}[-/][{N}]{{2,4}}"
SEGMENT = f"[{A}0-9]++(?:-[{A}]++)*"
END = rf'[^{S}\n"<>()|{{}}.,!?-]'
PATH = rf'/[^{S}\n"<>|()]+{END}'
ADDRESS = rf'[^{S}\n"<>()|{{}}]'
LINK, LINK_END = r'[^ \t\n"<>()|{}]', r'[^ \t\n"<>()|{}.,!?-]'
TAG_NAME = f"[{A}][{A}0-9_:.-]*+"


def same(text: str) -> str:
    return text


def nothing(text: str) -> str:
    return ""


def plain(text: str) -> str:
    """Without the soft hyphens."""
    return text.replace("\xad", "")


def clitic(text: str) -> str:
    return re.sub("[’\x92]|&[aA][pP][oO][sS];", "'", re.sub("[‘‛\x91]", "`", text))


QUOTES = {
    "‘": "`", "‛": "`", "\x91": "`", "‹": "`", "’": "'", "\x92": "'", "›": "'", "“": "``", "\x93": "``", "«": "``",
    "”": "''", "\x94": "''", "»": "''",
}  # fmt: skip


def quoted(text: str) -> str:
    return "".join(QUOTES.get(character, character) for character in text)


BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}


def bracket(text: str) -> str:
    return BRACKETS[text]


def rounded(text: str) -> str:
    """A face or a telephone number: only the round brackets in it are named."""
    return text.replace("(", "-lrb-").replace(")", "-rrb-")


def unbroken(text: str) -> str:
    """A fraction after its whole number, a tag: spaces in it do not break."""
    return text.replace(" ", "\xa0")


def telephone(text: str) -> str:
    return unbroken(rounded(text))


SYMBOLS = {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "¢": "cents", "£": "#"}


def symbol(text: str) -> str:
    return SYMBOLS.get(text, "$")


def entity(text: str) -> str:
    return {"&amp;": "&", "&lt;": "<", "&gt;": ">"}.get(text.lower(), "")


def ampersand(text: str) -> str:
    return re.sub("(?i:&amp;)", "&", plain(text))


def either(words: str) -> str:
    return "|".join(re.escape(word) for word in words.split())


def capital(words: str) -> str:
    """Each with a capital; the case of the rest is free."""
    return "|".join(f"{word[0].upper()}(?i:{word[1:]})" for word in words.split())


def small(words: str) -> str:
    """Each in small letters, but for the first."""
    return "|".join(f"(?i:{word[0]}){word[1:]}" for word in words.split())


TITLE = rf"(?:(?i:{either(lists.TITLES)})|{small(lists.SMALL_TITLES)})\."
ENDING = rf"(?:(?i:{either(lists.ENDINGS)})|{capital(lists.CAPITALIZED)}|{small(lists.SMALL_ENDINGS)})\."
ACRONYM = rf"[{A}](?:\.[{A}])+\."
PART = f"(?:[oOdDlL]{TICK}(?=[{A}ä{N}]{{2}}))?{ALNUMS}"
COMPOUND = f"{PART}(?:[-_‐]{PART})*+"
LOOSE = rf"[{A}0-9][{A}0-9\xad.,]*+(?:-(?:{ACRONYM}|[{A}0-9\xad]++))+"  # periods and commas before its hyphens
SENTENCES = rf"{WORD}(?:[.!?]{WORD})*+"  # a space was forgotten
PLACE = r"[^\n !\"$'-),-`{-}\u2003]"
SITE = rf"(?:{PLACE}++\.)+"
FIRM = r"[A-Z]++(?:(?:&|(?i:&amp;)|\+)[A-Z]++)++"
SHORTENED = either(lists.SHORTENED).replace("'", CLITIC)
CUT = "|".join(rf"{first}(?={second})" for first, second in (word.split("-") for word in lists.DOUBLE.split()))

RULES: list[Rule] = [(re.compile(pattern), write) for pattern, write in [
    # Two words in one, and clitics.
    (f"((?i:{CUT}))(?i:not|na|ta|me)", same),
    ("('[tT])(?i:is|was)", same),
    (f"([{A}\xad]*[A-MO-Za-mo-z\xad])[nN]{TICK}[tT]", plain),
    (f"([nN]{TICK}[tT])", clitic),
    (rf"({WORD}(?:\.{WORD})*+){CLITIC}(?i:[smd]|ll|re|ve)", plain),
    (f"({CLITIC}(?i:[smd]|ll|re|ve))[^{A}]", clitic),
    (f"({CLITIC}(?i:em|till?|cause))", same),
    (f"({CLITIC}[nN]{CLITIC}?+)", same),
    (f"(')[{A}][^{S}\n]", nothing),
    (f"({CLITIC}(?i:[smd]|ll|re|ve))", clitic),
    (f"({CLITIC}[{N}]{{2}})(?=[{S}\n])", same),
    (f"({CLITIC}[2-9]0[sS])", same),
    (f"([yYjJ]{CLITIC})[{A}ä]", same),
    (f"([dDlLjJ]{CLITIC})", same),
    (f"((?i:{SHORTENED}|{either(lists.TYPED)}))", same),
    # Words.
    (rf"((?:<|(?i:&lt;))?[{A}0-9]{ADDRESS}*@(?:[^{S}\n\"<>()|{{}}.]+\.)*[^{S}\n\"<>()|{{}}.]+>?)", same),
    (rf"({SENTENCES})", plain),
    (rf"({ENDING})(?:[^{S}\n](?s:.))?", same),
    (f"({WORD}|{ALNUMS})", plain),
    (f"([{A}äˇ]+[aeiouyAEIOUY]{TICK}[aeiouA-Z][{A}äˇ]*+)", plain),
    (f"([A-HJ-XZn]{TICK}[{A}ä]{{2,}}+)", plain),
    (f"({COMPOUND})", plain),
    (f"({LOOSE})", plain),
    (rf"({SEGMENT}(?:\\?/{SEGMENT}){{1,2}}+)", plain),
    # With a period.
    (rf"({TITLE}|{ACRONYM}|[{A}]\.)", same),
    (rf"((?i:{either(lists.BEFORE_NUMBERS)})\.)[{S}\n]?[{N}]", same),
    (rf"([{A}])\.[{S}\n]+(?:{capital(lists.STARTERS)}|M[rRsS]\.)[{S}\n]", same),
    (rf"((?:{COMPOUND}|{LOOSE}|{SENTENCES}|{FIRM})\.)[,;:]", ampersand),
    (rf"([{A}0-9]++(?:\.[{A}0-9]++)*\.(?i:{either(lists.FILES)}))(?=[{S}\n.,!?])", same),
    # Numbers.
    (rf"([-+]?{NUMBER})", plain),
    (f"({FRACTION})", unbroken),
    (f"({PHONE})", telephone),
    (f"({DATE})", plain),
    (r"([A-Z]+\$)", same),
    ("([€¤$])", symbol),
    ("([£¢½¼¾⅓⅔])", symbol),
    # Names with signs.
    (f"({FIRM})", ampersand),
    ("((?i:s&(?:amp;)?p-500))", ampersand),
    (r"([cC]\+\+|[cCfF]#)", same),
    (f"(@[{A}_][{A}0-9_]*+)", same),
    (f"(#(?:[{A}äˇ\xad]|{ACCENT})++)", same),
    # Addresses and tags.
    (rf"((?i:https?)://{LINK}+{LINK_END})", same),
    (rf"((?i:www)\.(?:[^{S}\n\"<>|.!?(){{}},]+\.)+[{A}]{{2,4}}(?:{PATH})?)", same),
    (rf"({SITE}(?i:{either(lists.DOMAINS)})(?:{PATH})?)", same),
    (rf"(</?{TAG_NAME}(?:[ \t]+{TAG_NAME}(?:[ \t]*=[ \t]*(?:\"[^\"\n]*\"|'[^'\n]*'))?)*[ \t]*/?>)", unbroken),
    (r"(<!--[^\n]*?-->|<[!?][A-Za-z-][^>\n]*>)", unbroken),
    # Marks.
    (r"(-{2,4}|[–—]|(?i:&[mn]dash;|&md;)|\.{3,}|\.(?:[ \xa0]\.){2,}|…|''|``|[-.,:;'!?\"]|&apos;|&quot;)", nothing),
    ("([`‘’“”‹›«»‚„‟]{1,2}+)", quoted),
    (r"(-{5,}|[!?]{2,}|_+|\*+|\\\*|\#+|@+|<<|>>|²+|[\^~|=+%&/\\§<>])", same),
    (r"([()\[\]{}])", bracket),
    (r"((?i:&(?:amp|lt|gt);))", entity),
    (r"(&(?i:HT|TL|UR|LR|QC|QL|QR|odq|cdq|quot|apos|#[0-9]+);)", same),
    # Faces.
    (rf"([<>]?[:;=][-o*']?[()DPdpO\\{{@|\[\]])(?![{A}0-9])", rounded),
    (r"([\^x=~<>'-]_[\^x=~<>'-]|[oOTuUnx0]_[oOTuUnx0]|[oO]['`][oO])", same),
    (r"(\([\^x=~<>'-][_.]?[\^x=~<>'-]\)|\([\^x=~<>']-[\^x=~<>'`]\))", rounded),
]]  # fmt: skip

# Words, in small letters, that are not always one token, or whose period may belong to them.
KNOWN_WORDS = frozenset(
    f"{lists.DOUBLE.replace('-', '')} {lists.TITLES} {lists.ENDINGS} {lists.CAPITALIZED} {lists.SMALL_TITLES} "
    f"{lists.SMALL_ENDINGS} {lists.BEFORE_NUMBERS}".split()
)


def match(text: str, shape: str, at: int) -> tuple[int, str]:
    """Where the token that begins at `at` ends, and what it is; empty where these characters are dropped."""
    furthest, end = at, at + 1
    written: Callable[[str], str] = nothing
    for pattern, write in RULES:
        found = pattern.match(shape, at)
        if found and found.end() > furthest:
            furthest, end, written = found.end(), found.end(1), write
    return end, written(text[at:end]).lower()
