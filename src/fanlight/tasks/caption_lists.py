"""The words that the caption tokenizer knows by heart: those whose period or apostrophe belongs to them.

Found by asking the Java tool about every sequence of one to four letters and every word of a dictionary of 100,000, in
small letters, with a capital, in capitals, each with a period in the midst and at the end of a line.
"""

# Words that are two, and where they are cut.
DOUBLE = "can-not gim-me gon-na got-ta lem-me wan-na"
# Keep their period, in any case of letters.
TITLES = (
    "adj adm adv alex assoc asst atty ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens ft gen gov govs hon insp"
    " invt jos lieut lt maj messrs mlle mme mr mrs ms msgr mt natl pfc ph pres prof profs pvt rep reps rev sen sens sfc sgt spc"
    " st ste supt treas vs wm"
)
# So do these, which can end a sentence too: a letter that follows at once is another word.
ENDINGS = (
    "al ala apr ariz assn aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb fla fri ga inc ind"
    " intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn ph.d plc rd rt sep sept seq sq"
    " sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo"
)
CAPITALIZED = (
    "ark az del ill la mass miss ore pa tex wash"  # endings, if the first letter is a capital: the rest are words
)
SMALL_TITLES, SMALL_ENDINGS = "mfg mtg", "ppte pptes ppty pptys pte ptes pty ptys"  # not in capitals
BEFORE_NUMBERS = "art ca fig figs no nos op pp prop"  # keep it where a number follows
# With a capital, after one letter and a period and white space: that period ended a sentence.
STARTERS = (
    "a about according additionally after an as at but earlier he her here however if in it last many more now once one other"
    " our she since so some such that the their then there these they this we what when while yet you"
)
SHORTENED = "cap'n dunkin' ol' somethin' c'est"
TYPED = "c'mon e'er ev'ry li'l nat'l s'mores"  # with the apostrophe of ASCII only
FILES = (
    "bat bmp c class cgi cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt ps py sql tar"
    " txt wav x xml zip"
)
DOMAINS = "com net org edu"  # after these, a path belongs to the address
