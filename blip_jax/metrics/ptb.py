"""What PTBTokenizer of CoreNLP 3.4.1 takes for a token: one pattern a rule, in order of rank.

Written from the lexer's behaviour. Case matters, but within `(?i:...)`.
"""

import functools
import itertools
import re
from collections.abc import Callable

Write = Callable[[str], str]  # a token as it stands -> as it is told
Rule = tuple[re.Pattern[str], Write]

APOS = "(?:['\x92\u2019]|(?i:&apos;))"
APOS_LIKE = f"(?:{APOS}|[`\x91\u2018\u201b])"
SPACE = "[ \t\xa0\u2000-\u200a\u3000]"
BLANK = "[ \t\xa0\u2000-\u200a\u3000\r\n]"
DASH = "[-_\u058a\u2010\u2011]"
# Beside letters of Unicode these count as letters in a word.
MARKS = (
    "\xad\u02c2-\u02c5\u02d2-\u02df\u02e5-\u02eb\u02ed\u02ef-\u036f\u0375\u0378\u0379\u0384\u0385\u03f6"
    "\u0483-\u0487\u055a-\u055f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0615-\u061a"
    "\u064b-\u065e\u0670\u06d6-\u06e4\u06e7-\u06ed\u06fd\u06fe\u070f\u0711\u0730-\u074c\u07a6-\u07b0"
    "\u07eb-\u07f3\u0900-\u0903\u093c\u093e-\u094e\u0951-\u0955\u0962\u0963\u0981-\u0983\u09bc"
    "\u09be-\u09c4\u09c7\u09c8\u09cb-\u09cd\u09d7\u09e2\u09e3\u0a01-\u0a03\u0a3c\u0a3e-\u0a4f"
    "\u0a81-\u0a83\u0abc\u0abe-\u0acf\u0b82\u0bbe-\u0bc2\u0bc6-\u0bc8\u0bca-\u0bcd\u0c01-\u0c03"
    "\u0c3e-\u0c56\u0d3e-\u0d44\u0d46-\u0d48\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc"
    "\u0ec8-\u0ecd"
)
SYMBOLS = (
    r"+%&~^|\\"
    "\xa6-\xa9\xac\xae-\xb4\xb6-\xb9\xd7\xf7\u0387\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u0600-\u0603"
    "\u0606-\u060c\u0614\u061b\u061e\u066a\u066d\u0703-\u070d\u07f6-\u07f8\u0964\u0965\u0e4f\u1fbd"
    "\u2016\u2017\u2020-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2044\u2070\u2074-\u207e"
    "\u2080-\u208e\u2100-\u214f\u2155-\u215e\u2190-\u2bff\u3012\u30fb"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)
NUMBER = r"(?:\d*(?:[.:,\xad\u066b\u066c]\d+)+|\d+)"
TAG_NAME = "[A-Za-z][A-Za-z0-9_:.-]*"

# Abbreviations that keep their full stop.
ENDING = (  # may end a sentence
    "(?:(?i:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs|fri|"
    "ala|ariz|calif|colo|conn|ct|dak|fla|ga|ind|kans?|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|"
    "penna|tenn|va|vt|wisc?|wyo|inc|cos?|corp|ltd|plc|rt|bancorp|dept|bhd|assn|univ|intl|sys|"
    "tel|est|ext|sq|jr|sr|bros|(?:ed|ph)\\.d|blvd|rd|esq|etc|al|seq)|"
    "A(?i:z|rk)|D(?i:el)|I(?i:ll)|L(?i:a)|M(?i:ass|iss)|O(?i:re)|P(?i:a)|T(?i:ex)|W(?i:ash)|"
    "(?i:pp?t)[ye](?i:s?))"
)
TITLE = (
    "(?:(?i:mr|mrs|ms|drs?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|"
    "pvt|capt|ste?|ave|pres|lieut|hon|brig|co?mdr|pfc|spc|supts?|det|mt|ft|adj|adv|asst|assoc|"
    "ens|insp|mlle|mme|msgr|sfc|vs|alex|wm|jos|cie|cf|treas|ph|invt|elec|natl|a\\.k\\.a)|"
    "(?i:m)[ft](?i:g))"
)
NATIONS = r"(?i:(?:canada|sino|korean|eu|japan|non)-u\.s|u\.s\.-(?:u\.k|u\.s\.s\.r))"
ACRONYM = rf"(?:{NATIONS}|[A-Za-z](?:\.[A-Za-z])*)"
STARTERS = (  # of a sentence: the single letter before it ended one
    "A|About|According|Additionally|After|An|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|"
    "Many|More|Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|"
    "This|We|What|When|While|Yet|You|Mr\\.|Ms\\."
)
FILE_TYPES = (
    "bat|bmp|c|class|cgi|cpp|dll|docx?|exe|gif|gz|h|html?|jar|java|jpe?g|mov|mp3|pdf|php|pl|png|"
    "ppt|ps|py|sql|tar|txt|wav|x|xml|zip|wrl"
)
NORMAL = {
    "(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-",
    "\xa2": "cents", "\xa3": "#", "\x80": "$", "\xa4": "$", "\u20a0": "$", "\u20ac": "$",
    "\xbc": "1/4", "\xbd": "1/2", "\xbe": "3/4", "\u2153": "1/3", "\u2154": "2/3",
    "\x91": "`", "\u2018": "`", "\u201b": "`", "\u2039": "`",
    "\x92": "'", "\u2019": "'", "\u203a": "'", "\x93": "``", "\u201c": "``", "\xab": "``",
    "\x94": "''", "\u201d": "''", "\xbb": "''",
}  # fmt: skip


@functools.cache
def rules() -> list[Rule]:
    """(pattern, how its token is written); group 1 is the token, the rest of a match its context.

    Whatever no rule takes is left out.
    """
    letter = letters()
    mark = rf"(?:[{letter}{MARKS}]|&[aeiouAEIOU](?i:acute|grave|uml);)"
    word = rf"{mark}(?:{mark}|\d)*(?:[.!?]{mark}(?:{mark}|\d)*)*"
    elided = rf"(?:[dDoOlL]{APOS_LIKE}[{letter}\d])?"
    thing = rf"{elided}[{letter}\d]+(?:{DASH}{elided}[{letter}\d]+)*"
    hyphened = r"[A-Za-z0-9][A-Za-z0-9.,\xad]*(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9\xad]+))+"
    part = "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
    phone = (
        r"(?:\([0-9]{2,3}\)[ \xa0]?|(?:\+\+?)?(?:[0-9]{2,4}[- \xa0])?[0-9]{2,4}[- \xa0])"
        r"[0-9]{3,4}[- \xa0]?[0-9]{3,5}"
    )
    tag = (
        rf"(?:<[!?][A-Za-z-][^>\r\n]*>|</{TAG_NAME} *>|<{TAG_NAME}(?: +(?:{TAG_NAME}(?: *= *"
        rf"(?:'[^']*'|\"[^\"]*\"|{TAG_NAME}))?)?)* */?>)"
    )
    joined = "[A-Z]+(?:(?:[+&]|(?i:&amp;))[A-Z]+)+"
    clitic = rf"{APOS}(?:[msdMSD]|(?i:re|ve|ll))"
    negation = f"[nN]{APOS_LIKE}[tT]"
    return [
        rule(r"[cC]\+\+|[cCfF]#"),
        rule(tag, unbroken),
        rule(r"&(?i:MD|mdash|ndash);|[\x96\x97\u2013-\u2015]", lambda s: "--"),
        rule("(?i:&amp;)", ampersand),
        rule("&(?i:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);"),
        rule("(?i:can)", context="(?i:not)"),
        rule("(?i:gon|wan)", context="(?i:na)"),
        rule("(?i:got)", context="(?i:ta)"),
        rule("(?i:gim|lem)", context="(?i:me)"),
        rule("'[tT]", context="(?i:is|was)"),
        rule(word, firm, clitic),
        rule(r"[A-Za-z\xad]*[A-MO-Za-mo-z]\xad*", firm, negation),
        rule(word, firm),
        rule(
            rf"[A-HJ-XZn]{APOS_LIKE}[{letter}]{{2,}}|{APOS}[nN]{APOS}?|[lLdDjJ]{APOS}|(?i:dunkin|somethin|ol){APOS}|{APOS}(?i:em)|"
            rf"{APOS}[2-9]0s|{APOS}(?i:till?|cause)|"
            rf"[{letter}]+[aeiouyAEIOUY]{APOS_LIKE}[aeiouA-Z][{letter}]*|"
            rf"(?i:c'mon|nor'easter|e'er|s'mores|ev'ry|li'l|nat'l|cont'd\.?)|"
            rf"[oO]{APOS_LIKE}[oO]"
        ),
        rule(f"[yY]{APOS}", context=f"[{letter}]"),
        rule(r"(?i:https?://)[^ \t\n\f\r\"<>|()]+[^ \t\n\f\r\"<>|.!?(){},-]"),
        rule(
            r"(?:(?i:www\.)(?:[^ \t\n\f\r\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}|"
            r"(?:[^ \t\n\f\r\"`'|!(){}$,-_]+\.)+(?i:com|net|org|edu))"
            r"(?:/[^ \t\n\f\r\"<>|()]+[^ \t\n\f\r\"<>|.!?(){},-])?"
        ),
        rule(
            r"(?:&lt;|<)?[a-zA-Z0-9][^ \t\n\f\r\"<>|(){}\xa0]*@(?:[^ \t\n\f\r\"<>|(){}.\xa0]+\.)*"
            r"[^ \t\n\f\r\"<>|(){}.\xa0]+(?:&gt;|>)?"
        ),
        rule(f"@[a-zA-Z_][a-zA-Z_0-9]*|#{mark}+"),
        rule(clitic, normal, "[^A-Za-z]"),
        rule(negation, normal, "[^A-Za-z]"),
        rule(r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}"),
        rule(f"[-+]?{NUMBER}", firm),
        rule(r"[\u207a\u207b\u208a\u208b]?(?:[\u2070\xb9\xb2\xb3\u2074-\u2079]+|[\u2080-\u2089]+)"),
        rule(r"(?:\d{1,4}[- \xa0])?\d{1,4}(?:\\?/|\u2044)\d{1,4}", unbroken),
        rule("[\xbc-\xbe\u2153\u2154]", normal),
        rule(
            r"-(?i:[lr][rcs]b)-|(?i:C\.D\.s|pro-|anti-|S&P-500|S&Ls)|"
            rf"(?i:cap{APOS}n|c{APOS}est)"
        ),
        rule(f"{APOS}[0-9][0-9]", context=BLANK),
        rule(rf"{part}(?:\\?/{part}){{1,2}}"),
        rule(r"[A-Z]*\$|#"),
        rule("[\xa2-\xa5\x80\u20a0\u20a4\u20ac\u060b\u0e3f\uffe0\uffe1\uffe5\uffe6]", normal),
        rule(thing),
        rule(joined, ampersand),
        rule("'", lambda s: "`", r"[A-Za-z][^ \t\n\r\xa0]"),
        rule(clitic, normal),
        rule(rf"''|[`\u2018-\u201f\u2039\u203a\xab\xbb\x91-\x94]{{1,2}}|{APOS}", normal),
        rule("<<|>>"),
        rule("<|(?i:&lt;)", lambda s: "<"),
        rule(">|(?i:&gt;)", lambda s: ">"),
        rule(r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]]", round_brackets, "[^A-Za-z0-9]"),
        rule(
            r"[-^x=~<>']_[-^x=~<>']|\([-^x=~<>'][_.]?[-^x=~<>']\)|"
            r"\([\^x=~<>']-[\^x=~<>'`]\)",
            normal,
        ),
        rule(r"\"|(?i:&quot;)", lambda s: "``", "[A-Za-z0-9$]"),
        rule(r"\"|(?i:&quot;)", lambda s: "''"),
        rule(r"[()\[\]{}]", normal),
        rule("-+", lambda s: "--" if 3 <= len(s) <= 4 else s),
        rule(r"\.{3,5}|(?:\.[ \xa0]){2,4}\.|\u2026", lambda s: "..."),
        rule(r"@+|#+|_+|\*+|(?:\\\*){1,3}"),
        rule("[,;:\u3001]|[?!]+|[.\xa1\xbf\u037e\u0589\u061f\u06d4\u0700-\u0702\u07fa\u3002]|[=/]"),
        rule(rf"{ENDING}\.", context="[\\s\\S]{2}"),
        rule(rf"{hyphened}\.", firm, "[,;:\u3001]"),
        rule(hyphened, firm),
        rule(rf"(?:{word}|{thing})\.", firm, "[,;:\u3001]"),
        rule(rf"{joined}\.", ampersand, "[,;:\u3001]"),
        rule(phone, lambda token: unbroken(normal(token))),
        rule(r"(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"),
        rule(rf"(?:{TITLE}|{ACRONYM})\."),
        rule(NATIONS, context=BLANK),
        rule(r"(?i:art|ca|figs?|nos?|op|pp|prop)\.", context=rf"{SPACE}*\d"),
        rule("[A-Za-z]", context=rf"\.{BLANK}+(?:(?:{STARTERS}){BLANK}|{tag})"),
        rule(rf"(?:{mark}|\d)+(?:\.(?:{mark}|\d)+)*\.(?i:{FILE_TYPES})", context=r"[\s.?!,]"),
        rule("(?i:&nbsp;)", lambda s: ""),
        rule(f"[{SYMBOLS}]"),
    ]


def rule(token: str, write: Write = str, context: str = "") -> Rule:
    """A rule for tokens that only count where the context follows."""
    return re.compile(f"({token}){context}"), write


def letters() -> str:
    """The Basic Multilingual Plane's letters, as a character class: the lexer knows no others."""
    runs = []
    known = (code for code in range(0x10000) if chr(code).isalpha())
    for _, run in itertools.groupby(enumerate(known), lambda pair: pair[1] - pair[0]):
        codes = [code for _, code in run]
        runs.append(f"{chr(codes[0])}-{chr(codes[-1])}")
    return "".join(runs)


def firm(token: str) -> str:
    """Without soft hyphens; one that stands alone is a hyphen."""
    return token.replace("\xad", "") or "-"


def unbroken(token: str) -> str:
    """Its spaces as no-break spaces."""
    return token.replace(" ", "\xa0")


def ampersand(token: str) -> str:
    """The sign in the place of its entity."""
    return re.sub("(?i:&amp;)", "&", token)


def round_brackets(token: str) -> str:
    """The eyes and mouth of a smiley."""
    return token.replace("(", "-LRB-").replace(")", "-RRB-")


def normal(token: str) -> str:
    """Brackets, quotes, currencies and fractions as the Penn Treebank writes them."""
    return "".join(NORMAL.get(sign, sign) for sign in re.sub("(?i:&apos;)", "'", token))
