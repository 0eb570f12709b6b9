"""What counts as one word of a caption for the usual scores: the rules that caption_words.py tries at each place of a line.

They give the tokens of Stanford CoreNLP 3.4.1's PTBTokenizer (Treebank 3 escapes, lower case, one sentence a line). Rules
and lists of abbreviations restate its lexer's grammar, PTBLexer.flex (GPL), which was read for it, in patterns for Python;
what it does with single characters, and that all of it agrees, was found by comparing outputs. A rule is a pattern whose
group 1 is the token and whose rest must follow. The rule that reads furthest, its rest included, wins; among equals the
first in this file.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import cache

Make = Callable[[str], str]  # the token that a matched text becomes, before lower case

# Ranges of the basic plane by what PTBTokenizer does with a single character, tried one by one; beyond that plane, and in
# no range, a character is dropped. Marks join words in some scripts only; letters of Unicode 6.3 and later are unknown.
MARKS = (
    "02C2-02C5 02D2-02DF 02E5-02EB 02ED 02EF-036F 0375 0378-0379 0384-0385 03F6 0483-0487 055A-055F 0591-05BD 05BF "
    "05C1-05C2 05C4-05C5 05C7 0615-061A 064B-065E 0670 06D6-06E4 06E7-06ED 06FD-06FE 070F 0711 0730-074C 07A6-07B0 "
    "07EB-07F3 0900-0903 093C 093E-094E 0951-0955 0962-0963 0981-0983 09BC 09BE-09C4 09C7-09C8 09CB-09CD 09D7 09E2-09E3 "
    "0A01-0A03 0A3C 0A3E-0A4F 0A81-0A83 0ABC 0ABE-0ACF 0B82 0BBE-0BC2 0BC6-0BC8 0BCA-0BCD 0C01-0C03 0C3E-0C56 0D3E-0D44 "
    "0D46-0D48 0E31 0E34-0E3A 0E47-0E4E 0EB1 0EB4-0EBC 0EC8-0ECD 1885-1886 00AD"
)
LATE = (
    "037F 0528-052F 0560 0588 05EF 0860-08A1 08AD-08C9 0978 0980 09FC 0AF9 0C34 0C5A 0C5D 0C80 0CDD 0D04 0D54-0D56 0D5F "
    "0DE6-0DEF 0E86 0E89 0E8C 0E8E-0E93 0E98 0EA0 0EA8-0EA9 0EAC 13F5 13F8-13FD 16F1-16F8 170D 171F 1878 191D-191E "
    "19B0-19C0 19C8-19C9 1B4C 1C80-1C88 1C90-1CBF 1CF2-1CF3 1CFA 2C2F 2C5F 312E-312F 31BB-31BF 4DB6-4DBF 9FCD-9FFF "
    "A698-A69D A78F A794-A79F A7AB-A7CA A7D0-A7D9 A7F2-A7F7 A8FD-A8FE A9E0-A9E4 A9E6-A9FE AA7E-AA7F AB30-ABBF"
)
SYMBOLS = (
    "0022-002C 003A-003E 005B-005E 0060 007B-007E 0080 0091-0094 0096-0097 00A1-00A9 00AB-00B4 00B6-00B9 00BB-00BF 00D7 "
    "00F7 037E 0387 0589 05BE 05C0 05C3 05C6 05F3-05F4 0600-0603 0606-060C 0614 061B 061E-061F 066A 066D 06D4 0700-070D "
    "07F6-07F8 0964-0965 0E3F 0E4F 1FBD 2013-2023 2026 2030-203B 203E-2042 2044 2070 2074-207E 2080-208E 20A0 20A4 20AC "
    "2100-2101 2103-2106 2108-2109 2114 2116-2118 211E-2123 2125 2127 2129 212E 213A-213B 2140-2144 214A-214D 214F "
    "2153-215E 2190-2BFF 3001-3002 3012 30FB FF01-FF0F FF1A-FF20 FF3B-FF40 FF5B-FF65 FFE0-FFE1 FFE5-FFE6 002D-002F 003F "
    "0040 005F"
)
BREAKS = "\r\n\x0b\x0c\x85\u2028\u2029"  # ends of a line; captions have none, the line after them begins with one
SPACES = " \t\xa0\u2000-\u200a\u3000"
BECOMES = {
    "(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-", '"': "''",
    "\x80": "$", "¤": "$", "₠": "$", "€": "$", "¢": "cents", "£": "#",
    "¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3",
    "\x96": "--", "\x97": "--", "–": "--", "—": "--", "―": "--", "\x85": "...", "…": "...",
    "\x91": "`", "‘": "`", "‛": "`", "‹": "`", "\x92": "'", "’": "'", "›": "'",
    "\x93": "``", "“": "``", "«": "``", "\x94": "''", "”": "''", "»": "''",
}  # fmt: skip
SPLIT = {"cannot": 3, "gonna": 3, "gotta": 3, "lemme": 3, "gimme": 3, "wanna": 3}  # word -> letters of its first token

MONTHS = "jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec"
DAYS = "mon|tue|tues|wed|thu|thurs|fri"
STATES = (
    "ala|ariz|calif|colo|conn|ct|dak|fla|ga|ind|kans?|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wisc?|wyo"
)
STATES_UPPER = "A(?i:z)|A(?i:rk)|D(?i:el)|I(?i:ll)|L(?i:a)|M(?i:ass)|M(?i:iss)|O(?i:re)|P(?i:a)|T(?i:ex)|W(?i:ash)"
FIRMS = "inc|cos?|corp|pp?t[ye]s?|ltd|plc|rt|bancorp|bhd|assn|univ|intl|sys"
AFTER = "tel|est|ext|sq|jr|sr|bros|ed\\.d|ph\\.d|blvd|rd|esq|etc|al|seq|bldg"
TITLES = (
    "mr|mrs|ms|drs?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|capt|ste?|ave|pres|lieut|"
    "hon|brig|co?mdr|pfc|spc|supts?|det|mt|ft|adj|adv|asst|assoc|ens|insp|mlle|mme|msgr|sfc"
)
OTHERS = "vs|alex|wm|jos|cie|a\\.k\\.a|cf|treas|ph|invt|elec|natl|dept"
BEFORE_NUMBERS = "ca|figs?|prop|nos?|art|bldg|pp|op"
SENTENCES = (  # first words of a sentence, which a period before them ends: as they are written, not "THE"
    "About According Additionally After An A As At But Earlier He Her Here However If In It Last Many More Mr\\. Ms\\. Now "
    "Once One Other Our She Since So Some Such That The Their Then There These They This We When While What Yet You"
)
FILES = (
    "bat|bmp|c|class|cgi|cpp|dll|doc|docx|exe|gif|gz|h|htm|html|jar|java|jpeg|jpg|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|"
    "txt|wav|x|xml|zip"
)


def members(ranges: str) -> set[int]:
    """Code points of `0041-005A 00AD`."""
    found: set[int] = set()
    for part in ranges.split():
        first, _, last = part.partition("-")
        found.update(range(int(first, 16), int(last or first, 16) + 1))
    return found


def character_class(points: set[int]) -> str:
    """The inside of a `[…]` that matches exactly these code points."""
    parts: list[list[int]] = []
    for point in sorted(points):
        if parts and parts[-1][1] == point - 1:
            parts[-1][1] = point
        else:
            parts.append([point, point])
    return "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in parts)


def same(text: str) -> str:
    return text


def joined(text: str) -> str:
    """Soft hyphens stand where a line could break: a word is the same without; one alone is a hyphen."""
    return text.replace("\xad", "") or "-"


def one_piece(text: str) -> str:
    """A token with spaces inside keeps them as unbreakable ones, its parentheses as their names."""
    return text.replace(" ", "\xa0").replace("(", "-LRB-").replace(")", "-RRB-")


def unbroken(text: str) -> str:
    return text.replace(" ", "\xa0")


def named(text: str) -> str:
    return text.replace("(", "-LRB-").replace(")", "-RRB-")


def ampersand(text: str) -> str:
    return re.sub("(?i)&amp;", "&", text)


def quotes(text: str) -> str:
    """Each quotation mark as the Treebank writes it."""
    text = re.sub("(?i)&apos;", "'", text)
    return "".join(BECOMES.get(mark, mark) for mark in text)


def symbol(text: str) -> str:
    return BECOMES.get(text, text)


def nothing(_: str) -> str:
    return ""


def _hyphens(text: str) -> str:
    return "--" if len(text) in (3, 4) else text


@cache
def compiled() -> tuple[dict[str, tuple[tuple[re.Pattern[str], Make], ...]], frozenset[str]]:
    """Rules by what a place begins with: `letter`, `digit` or `other`; and every character that begins a word."""
    letters = {point for point in range(0x10000) if unicodedata.category(chr(point))[0] == "L"} - members(LATE)
    digits = {point for point in range(0x10000) if unicodedata.category(chr(point)) == "Nd"} - members(LATE)
    pure, digit = character_class(letters), character_class(digits)
    word_letters = letters | members(MARKS)
    found: dict[str, list[tuple[re.Pattern[str], Make]]] = {"letter": [], "digit": [], "other": []}
    for kinds, pattern, make in _rules(pure, digit, character_class(word_letters), character_class(members(SYMBOLS))):
        for begins in kinds.split():
            found[begins].append((re.compile(pattern), make))
    return {kind: tuple(rules) for kind, rules in found.items()}, frozenset(map(chr, word_letters | digits))


def _rules(pure: str, digit: str, letter: str, symbols: str) -> list[tuple[str, str, Make]]:
    """(where it may begin, pattern, what the token becomes), in order of rank. Arguments are insides of `[…]`."""
    space, gap = f"[{SPACES}]", f"[{SPACES}{BREAKS}]"
    accented = "&[aeiouAEIOU](?i:acute|grave|uml);"
    begin, inside = f"(?:[{letter}]|{accented})", f"(?:[{letter}{digit}]|{accented})"
    word = f"{begin}{inside}*(?:[.!?]{begin}{inside}*)*"
    apostrophe, mark = "(?:['\x92’]|(?i:&apos;))", "(?:['\x92’`\x91‘‛]|(?i:&apos;))"
    short = f"{apostrophe}(?:[msdMSD]|(?i:re|ve|ll))"
    negation = f"[nN]{mark}[tT]"
    number = f"(?:[{digit}]*(?:[.:,\xad\u066b\u066c][{digit}]+)+|[{digit}]+)"
    plain = f"[{pure}{digit}]"
    particle = f"(?:[dDoOlL]{mark}{plain})?"
    compound = f"{particle}{plain}+(?:[-_\u058a\u2010\u2011]{particle}{plain}+)*"
    united = "(?i:(?:canada|sino|korean|eu|japan|non)-u\\.s|u\\.s\\.-(?:u\\.k|u\\.s\\.s\\.r))"
    hyphened = f"[A-Za-z0-9][A-Za-z0-9.,\xad]*(?:-(?:(?:[A-Za-z](?:\\.[A-Za-z])+|{united})\\.|[A-Za-z0-9\xad]+))+"
    letters_joined = "[A-Z]+(?:(?:[+&]|(?i:&amp;))[A-Z]+)+"
    slashed = "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}"
    pause = "[,;:\u3001]"
    link = '[^ \t\n\f\r"<>|(){}]+[^ \t\n\f\r"<>|.!?(){},-]'
    host = '[^ \t\n\f\r"<>|.!?(){},]+\\.'
    site = "[^ \t\n\f\r\"`'<>|.!?(){}$,-_]+\\."  # `,-_` is a range: no digits, no capitals
    path = '/[^ \t\n\f\r"<>|()]+[^ \t\n\f\r"<>|.!?(){},-]'
    name = "[A-Za-z][A-Za-z0-9_:.\\-]*"
    value = "(?:'[^']*'|\"[^\"]*\")"
    tag = f"(?:[!?][A-Za-z\\-][^>\r\n]*|{name}(?: +{name}(?: *= *{value})?)* */?|/{name}) *>"
    sentences = "|".join(f"{each[0]}(?i:{each[1:]})" for each in SENTENCES.split())
    abbreviation = f"(?:(?i:{MONTHS}|{DAYS}|{STATES}|{FIRMS}|{AFTER})|{STATES_UPPER})"
    everywhere = "letter digit other"
    return [
        ("letter", "([cC]\\+\\+)", same),
        ("letter", "([cCfF]#)", same),
        *(("letter", f"((?i:{text[:cut]}))(?i:{text[cut:]})", same) for text, cut in SPLIT.items()),
        ("other", "('[tT])(?i:was|is)", same),
        ("other", f"(<{tag})", unbroken),
        ("other", "((?i:&(?:MD|mdash|ndash);)|[\x96\x97–—―])", nothing),
        ("other", "((?i:&amp;))", ampersand),
        ("other", "(&(?:(?i:HT|TL|UR|LR|QC|QL|QR|odq|cdq)|#[0-9]+);)", same),
        (everywhere, f"({word}){short}", joined),
        ("letter", f"([A-Za-z\xad]*[A-MO-Za-mo-z]\xad*){negation}", joined),
        (everywhere, f"({word})", joined),
        ("other", f"({apostrophe}[nN]{apostrophe}?|{apostrophe}(?i:em|cause|till?)|{apostrophe}[2-9]0[sS])", same),
        ("letter", f"([lLdDjJ]{apostrophe}|(?i:dunkin|somethin|ol){apostrophe}|[oO]{mark}[oO])", same),
        ("letter", f"([A-HJ-XZn]{mark}[{pure}]{{2,}})", same),
        ("letter", f"([{pure}]+[aeiouyAEIOUY]{mark}[aeiouA-Z][{pure}]*)", same),
        ("letter", "((?i:cont'd\\.?|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l))", same),
        ("letter", f"([yY]{apostrophe})[{pure}]", same),
        ("letter", f"((?i:https?)://{link})", same),
        ("letter", f"((?i:www)\\.(?:{host})+[a-zA-Z]{{2,4}})", same),
        ("letter", f"((?i:www)\\.(?:{host})+[a-zA-Z]{{2,4}}{path})", same),
        (everywhere, f"((?:{site})+(?i:com|net|org|edu))", same),
        (everywhere, f"((?:{site})+(?i:com|net|org|edu){path})", same),
        (everywhere, "((?:(?i:&lt;)|<)?[a-zA-Z0-9][^ \t\n\f\r\"<>|()\xa0{}]*@"
         "(?:[^ \t\n\f\r\"<>|(){}.\xa0]+\\.)*[^ \t\n\f\r\"<>|(){}.\xa0]+(?:(?i:&gt;)|>)?)", same),
        ("other", f"(@[a-zA-Z_][a-zA-Z_0-9]*|#{begin}+)", same),
        ("other", f"({short})[^A-Za-z]", quotes),
        ("letter", f"({negation})[^A-Za-z]", quotes),
        (everywhere, f"([{digit}]{{1,2}}[-/][{digit}]{{1,2}}[-/][{digit}]{{2,4}})", same),
        (everywhere, f"([-+]?{number})", joined),
        ("other", "([⁺⁻₊₋]?(?:[⁰¹²³⁴-⁹]+|[₀-₉]+))", same),
        ("digit", f"((?:[{digit}]{{1,4}}[- \xa0])?[{digit}]{{1,4}}(?:\\\\?/|\u2044)[{digit}]{{1,4}})", unbroken),
        ("other", "(-(?i:RRB|LRB|RCB|LCB|RSB|LSB)-)", same),
        ("letter", f"((?i:c\\.d\\.s|pro-|anti-|s&(?:amp;)?(?:p-500|ls))|(?i:cap){apostrophe}n|(?i:c){apostrophe}(?i:est))",
         ampersand),
        ("letter digit", f"({slashed})", same),
        ("letter other", "([A-Z]*\\$|#)", same),
        ("letter", f"([A-Za-z])\\.{gap}+(?:(?:{sentences})|<{tag}){gap}", same),
        ("letter", f"((?i:{BEFORE_NUMBERS})\\.){gap}?[{digit}]", same),
        ("letter", f"({abbreviation}\\.)[\\s\\S]{{2}}", same),
        ("letter", f"({abbreviation}\\.)", same),
        ("letter", f"((?:(?i:{TITLES}|{OTHERS})|M(?i:iss)|[mM][ft][gG])\\.)", same),
        ("letter", f"((?:[A-Za-z](?:\\.[A-Za-z])*|{united})\\.)", same),
        ("letter", f"({united}){gap}", same),
        ("other", f"({apostrophe}[0-9][0-9]){gap}", same),
        (everywhere, f"({inside}+(?:\\.{inside}+)*\\.(?i:{FILES}))(?:{gap}|[.?!,])", same),
        (everywhere, f"({word}\\.){pause}", joined),
        ("digit other", "((?:\\([0-9]{2,3}\\)[ \xa0]?|(?:\\+\\+?)?(?:[0-9]{2,4}[- \xa0])?[0-9]{2,4}[- \xa0])"
         "[0-9]{3,4}[- \xa0]?[0-9]{3,5})", one_piece),
        ("digit other", "((?:(?:\\+\\+?)?[0-9]{2,4}\\.)?[0-9]{2,4}\\.[0-9]{3,4}\\.[0-9]{3,5})", same),
        ("other", "(\"|(?i:&quot;))", nothing),
        ("other", "(<|(?i:&lt;))", lambda _: "<"),
        ("other", "(>|(?i:&gt;))", lambda _: ">"),
        ("other", "([<>]?[:;=][-o*']?[()DPdpO\\\\{@|\\[\\]])[^A-Za-z0-9]", named),
        (everywhere, "([-^x=~<>']_[-^x=~<>']|\\([-^x=~<>'][_.]?[-^x=~<>']\\)|\\([\\^x=~<>']-[\\^x=~<>'`]\\))", named),
        ("other", "(-+)", _hyphens),
        ("other", "(\\.{3,5}|(?:\\.[ \xa0]){2,4}\\.)", nothing),
        ("other", "(@+|#+|_+|\\*+|(?:\\\\\\*){1,3})", same),
        ("other", "([?!]+)", same),
        (everywhere, f"({hyphened}\\.){pause}", joined),
        (everywhere, f"({hyphened})", joined),
        (everywhere, f"({compound}\\.){pause}", same),
        (everywhere, f"({compound})", same),
        ("letter", f"({letters_joined}\\.){pause}", ampersand),
        ("letter", f"({letters_joined})", ampersand),
        ("other", "(')[A-Za-z][^ \t\n\r\xa0]", nothing),
        (everywhere, f"({short}|{negation})", quotes),
        ("other", f"(''|[`‘’‚‛“”\x91\x92\x93\x94„‟‹›«»]{{1,2}}|{apostrophe})", quotes),
        ("other", "(<<|>>)", same),
        ("other", f"([{symbols}])", symbol),
        ("other", f"({space}+|(?i:&nbsp;))", nothing),
    ]  # fmt: skip
