"""What the quality checks know about English: common words, demonyms, calendar names, tell-tale phrases.

Small closed lists, written for one purpose: to tell a name that a text brings
in from the words that every text needs. Open-class words are not listed; the
checks learn them from the lower-case words of the graph's own labels and
descriptions.
"""

from __future__ import annotations

import re

__all__ = [
    "ADJECTIVE_ENDINGS",
    "AGENT_ENDINGS",
    "CHATTER",
    "CHATTER_OPENING",
    "CHATTER_WORDS",
    "COGNATES",
    "COMMON_WORDS",
    "DEMONYMS",
    "FOREIGN_SCRIPT",
    "FOREIGN_WORDS",
    "KIN",
    "LINKING_WORDS",
    "MAKING_WORDS",
    "MARKUP",
    "MARKUP_SIGNS",
    "MONTHS",
    "NEGATIONS",
    "NEGATION_SOFTENERS",
    "NEUTRAL_NAMES",
    "NUMBER_WORDS",
    "REMARK_OPENERS",
    "ROMAN_NUMERALS",
    "STATE_CODES",
    "looks_inflected",
]


def _set_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _table_of(entries: str) -> dict[str, tuple[str, ...]]:
    """Entries "key:value/value", with underscores for spaces inside keys and values."""
    pairs = (entry.replace("_", " ").split(":") for entry in entries.split())
    return {key: tuple(values.split("/")) for key, values in pairs}


# Closed-class words and the openers and connectors that prose puts at the start of a sentence.
COMMON_WORDS = _set_of(
    """
    a about above according across actually additionally afterwards after again against ago aged albeit all along
    alongside already also although always am amid among an and another any anyone anything apart are around as aside
    at away back based because become becoming been before began behind being believed below beneath beside besides
    best between beyond big bigger biggest born both brought build built but by called came can clearly close closer
    come coming common commonly compared consequently considered could currently dead deceased despite did died
    different do does done down due during each earlier early either eight eighteen eighty eleven else elsewhere
    especially even eventually ever every everyone everything except famed famous far few fewer fifteen fifth fifty
    final finally first five following for former formerly forty found four fourteen fourth from full further
    furthermore gave generally get given gives giving go goes going gone good got great greater greatest had half has
    have having he hence her here hers herself high higher highest him himself his historically hold holding holds
    home how however hundred i if important in indeed initially inside instead interestingly into is it its itself
    just kept key kind known large larger largest last lastly late later latter least led left less lies like likewise
    little live lived lives living local located long longer longest low lower lowest made main mainly major make
    makes making man many may me meant meanwhile member members men met might million modern more moreover most mostly
    much must my name named namely native near nearby nearly neither never nevertheless new next nine nineteen ninety
    no nobody none nonetheless nor not notable notably nothing now of off often old older oldest on once one ones
    only onto or original originally other others otherwise our out outside over overall own part particularly past
    people perhaps person place places play played plays popular possibly present previous previously primarily
    prior probably quite rather really recent recently regarding related respectively said same saw second see seen
    set sets seven seventeen seventy several she shortly should similarly simply since single situated six sixteen
    sixty small smaller smallest so some someone something sometimes soon specifically stands started still
    subsequently such taken ten than thanks that the their theirs them themselves then there thereafter therefore
    these they thing things third thirteen thirty this those though thousand three through throughout thus time times
    to today together too took total towards toward traditionally twelve twenty twice two type typically ultimately
    under unlike until up upon us use used uses using usually various versus very via was way ways we well went were
    what whatever when whenever where whereas wherever whether which while who whoever whole whom whose why widely
    will with within without woman women work worked working works world would year years yes yet you young younger
    youngest your
    """
)

NUMBER_WORDS = _set_of(
    """
    one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
    nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion trillion
    """
)

# Words inside names that writers add, leave out and exchange.
LINKING_WORDS = _set_of("of the in at and for on by to a an de du la le del di da do dos das")

ADJECTIVE_ENDINGS = ("ian", "ean", "nese", "ese", "ish", "an", "er", "ic", "i", "n")
AGENT_ENDINGS = _set_of("ist er or ing al alist")

ROMAN_NUMERALS = _table_of(
    """
    II:2/Two III:3/Three IV:4/Four V:5/Five VI:6/Six VII:7/Seven VIII:8/Eight IX:9/Nine X:10/Ten XI:11/Eleven
    XII:12/Twelve
    """
)

# State of the United States -> its abbreviations.
STATE_CODES = _table_of(
    """
    Alabama:AL/Ala. Alaska:AK Arizona:AZ/Ariz. Arkansas:AR/Ark. California:CA/Calif. Colorado:CO/Colo.
    Connecticut:CT/Conn. Delaware:DE/Del. Florida:FL/Fla. Georgia:GA/Ga. Hawaii:HI Idaho:ID Illinois:IL/Ill.
    Indiana:IN/Ind. Iowa:IA Kansas:KS/Kan. Kentucky:KY/Ky. Louisiana:LA/La. Maine:ME Maryland:MD/Md.
    Massachusetts:MA/Mass. Michigan:MI/Mich. Minnesota:MN/Minn. Mississippi:MS/Miss. Missouri:MO/Mo. Montana:MT/Mont.
    Nebraska:NE/Neb. Nevada:NV/Nev. New_Hampshire:NH/N.H. New_Jersey:NJ/N.J. New_Mexico:NM/N.M. New_York:NY/N.Y.
    North_Carolina:NC/N.C. North_Dakota:ND/N.D. Ohio:OH Oklahoma:OK/Okla. Oregon:OR/Ore. Pennsylvania:PA/Pa.
    Rhode_Island:RI/R.I. South_Carolina:SC/S.C. South_Dakota:SD/S.D. Tennessee:TN/Tenn. Texas:TX/Tex. Utah:UT
    Vermont:VT/Vt. Virginia:VA/Va. Washington:WA/Wash. West_Virginia:WV/W.Va. Wisconsin:WI/Wis. Wyoming:WY/Wyo.
    """
)

# Verb form or noun -> the word by which all of its family go, where no regular ending shows it.
COGNATES = _table_of(
    """
    born:birth birthplace:birth birthdate:birth die:death died:death dies:death dead:death deceased:death
    deathplace:death passed:death wrote:writ write:writ written:writ writes:writ writer:writ writing:writ
    sang:sing sung:sing singer:sing built:build builder:build buried:burial grave:burial began:begin begun:begin
    """
)

# Words that say of no particular maker what he made.
MAKING_WORDS = _set_of("creator created made maker owned owner member part followed preceded named powered")

KIN = _set_of("father mother spouse child sibling husband wife son daughter brother sister")

NEGATIONS = _set_of(
    """
    not never neither nor isn't wasn't aren't weren't doesn't didn't don't hasn't haven't hadn't won't wouldn't can't
    cannot couldn't
    """
)
NEGATION_SOFTENERS = _set_of("only just merely simply solely to until")

# Function words of other languages that are no English words.
FOREIGN_WORDS = _set_of(
    """
    der das und ist wurde ein eine einer eines dem den von mit auf für nicht sich auch als ihr sein seine wird werden
    le les des du et est une dans qui que avec sur sont été né née aux ses il elle
    el los las y es una del por con fue nació donde está su sus
    lo gli di della delle dei nel nella è stato nato che sono
    da das dos em uma foi nasceu não ao pela pelo é
    het een van zijn werd geboren niet voor aan bij
    och är som av på född den det til og av på er født var
    i w z jest się na do urodził była był
    """
)
# Words written in other alphabets than the Latin one.
FOREIGN_SCRIPT = re.compile(r"[\u0370-\u1cff\u2c00-\ud7ff]")

# Words by which a sentence speaks of what an earlier one named.
REFERRING_WORDS = _set_of(
    """
    he she it they him her them his hers its their theirs himself herself itself themselves this that these those here
    there both former latter same who which whose where
    """
)

# Participles that no regular ending gives away.
_IRREGULAR = _set_of(
    """
    begun bought chosen cut drawn driven fought grown laid put run sent shown sold spent spoken struck sung sunk
    taught thought torn won worn written
    """
)

# What opens opinions, feelings and questions, and encyclopaedic prose hardly ever.
REMARK_OPENERS = _set_of(
    """
    admittedly agree ah alas anybody apparently aren't ask believe call can't come couldn't curious curiously dear
    didn't doesn't don't dream enough everybody fair feel forget forgive frankly friends funny give glad gladly guess
    happily hardly hear hey honestly hope hopefully how's i'd i'll i'm i've imagine isn't it'd it'll it's joy keep let
    let's listen look love luckily maybe memories mind mixed moods needless nobody's oddly oh okay opinion opinions
    please poor praise promise question questions remember sad sadly say scarcely seriously shall shame should
    shouldn't silence silly somebody someday somehow sorry strange strangely suppose sure surely surprisingly taste
    tastes tell thank thankfully that's there's they'd they'll they're they've think thoughts tomorrow tonight trust
    truth try unfortunately wasn't we'd we'll we're we've weird well what's who'd who's why's wish wonder won't word
    words worse would wouldn't wow yesterday you'd you'll you're you've
    """
)

# A full stop after these ends no sentence.
ABBREVIATIONS = _set_of(
    "mr mrs ms dr prof st sr jr no vs etc inc ltd co corp mt ft gen col lt capt rev hon dept vol fig"
)

MONTHS = _set_of(
    """
    january february march april may june july august september october november december
    jan feb mar apr jun jul aug sept sep oct nov dec
    """
)

# Capitalised wherever they stand, without bringing in an entity of their own.
NEUTRAL_NAMES = _set_of(
    """
    aka king queen prince princess emperor president governor mayor minister chancellor general captain state national
    city county river lake mount
    monday tuesday wednesday thursday friday saturday sunday i mr mrs ms dr sir dame lord lady prof professor saint st
    jr sr ad bc bce ce am pm utc gmt no inc ltd corp co plc hq
    """
)

# Country or region (in the spelling of its label) -> adjectives and words for its people.
DEMONYMS = _table_of(
    """
    Afghanistan:Afghan Africa:African Albania:Albanian Algeria:Algerian Argentina:Argentine/Argentinian/Argentinean
    Armenia:Armenian Asia:Asian Australia:Australian Austria:Austrian Azerbaijan:Azerbaijani/Azeri
    Bangladesh:Bangladeshi/Bengali Bavaria:Bavarian Belarus:Belarusian Belgium:Belgian Bohemia:Bohemian
    Bolivia:Bolivian Bosnia_and_Herzegovina:Bosnian Brazil:Brazilian Bulgaria:Bulgarian Cambodia:Cambodian
    Cameroon:Cameroonian Canada:Canadian Catalonia:Catalan/Catalonian Chile:Chilean China:Chinese
    People's_Republic_of_China:Chinese Colombia:Colombian Costa_Rica:Costa_Rican Croatia:Croatian/Croat Cuba:Cuban
    Cyprus:Cypriot Czech_Republic:Czech Czechia:Czech Czechoslovakia:Czechoslovak/Czechoslovakian
    Denmark:Danish/Dane Kingdom_of_Denmark:Danish/Dane Dominican_Republic:Dominican Ecuador:Ecuadorian
    Egypt:Egyptian El_Salvador:Salvadoran England:English/Englishman Estonia:Estonian Ethiopia:Ethiopian
    Europe:European European_Union:European Finland:Finnish/Finn Flanders:Flemish
    France:French/Frenchman/Frenchwoman Georgia:Georgian Germany:German German_Empire:German German_Reich:German
    East_Germany:East_German/German West_Germany:West_German/German Ghana:Ghanaian Greece:Greek Ancient_Greece:Greek
    Guatemala:Guatemalan Haiti:Haitian Honduras:Honduran Hungary:Hungarian Kingdom_of_Hungary:Hungarian
    Iceland:Icelandic/Icelander India:Indian British_India:Indian/British Indonesia:Indonesian Iran:Iranian/Persian
    Iraq:Iraqi Ireland:Irish/Irishman Republic_of_Ireland:Irish Israel:Israeli Italy:Italian
    Kingdom_of_Italy:Italian Jamaica:Jamaican Japan:Japanese Empire_of_Japan:Japanese Jordan:Jordanian
    Kazakhstan:Kazakh/Kazakhstani Kenya:Kenyan Kosovo:Kosovar/Kosovan Kuwait:Kuwaiti Kyrgyzstan:Kyrgyz
    Laos:Lao/Laotian Latvia:Latvian Lebanon:Lebanese Libya:Libyan Lithuania:Lithuanian
    Luxembourg:Luxembourgish/Luxembourger Madagascar:Malagasy Malaysia:Malaysian Malta:Maltese Mexico:Mexican
    Moldova:Moldovan Monaco:Monegasque/Monacan Mongolia:Mongolian/Mongol Montenegro:Montenegrin Morocco:Moroccan
    Myanmar:Burmese Nepal:Nepalese/Nepali Netherlands:Dutch/Dutchman Kingdom_of_the_Netherlands:Dutch
    New_Zealand:New_Zealander Nicaragua:Nicaraguan Nigeria:Nigerian North_America:North_American/American
    North_Korea:North_Korean/Korean North_Macedonia:Macedonian Norway:Norwegian Oceania:Oceanian Pakistan:Pakistani
    Palestine:Palestinian Panama:Panamanian Paraguay:Paraguayan Peru:Peruvian Philippines:Filipino/Philippine
    Poland:Polish/Pole Portugal:Portuguese Prussia:Prussian Kingdom_of_Prussia:Prussian Puerto_Rico:Puerto_Rican
    Qatar:Qatari Roman_Empire:Roman Ancient_Rome:Roman Romania:Romanian Russia:Russian Russian_Empire:Russian
    Saudi_Arabia:Saudi/Saudi_Arabian Scotland:Scottish/Scot/Scotsman Senegal:Senegalese Serbia:Serbian/Serb
    Sicily:Sicilian Singapore:Singaporean Slovakia:Slovak/Slovakian Slovenia:Slovene/Slovenian Somalia:Somali
    South_Africa:South_African South_America:South_American South_Korea:South_Korean/Korean
    Soviet_Union:Soviet/Russian Spain:Spanish/Spaniard Sri_Lanka:Sri_Lankan Sudan:Sudanese Sweden:Swedish/Swede
    Switzerland:Swiss Syria:Syrian Taiwan:Taiwanese Tanzania:Tanzanian Thailand:Thai Tunisia:Tunisian
    Turkey:Turkish/Turk Ottoman_Empire:Ottoman/Turkish Uganda:Ugandan Ukraine:Ukrainian United_Arab_Emirates:Emirati
    United_Kingdom:British/Briton/Brit Great_Britain:British/Briton
    United_Kingdom_of_Great_Britain_and_Ireland:British Kingdom_of_Great_Britain:British United_States:American/U.S.
    United_States_of_America:American/U.S. Uruguay:Uruguayan Uzbekistan:Uzbek Venezuela:Venezuelan
    Vietnam:Vietnamese Wales:Welsh/Welshman Yemen:Yemeni Yugoslavia:Yugoslav/Yugoslavian Zimbabwe:Zimbabwean
    Austria-Hungary:Austro-Hungarian/Austrian/Hungarian Austrian_Empire:Austrian Byzantine_Empire:Byzantine
    Holy_Roman_Empire:German
    """
)

# What an assistant says about its task instead of doing it.
CHATTER_OPENING = re.compile(
    r"""
    \W*(?:
      (?:sure|certainly|of\ course|absolutely|okay|ok|great|alright)\s*[,!.:;–—-]
    | here(?:['’]s|\ is|\ are)\b[^.\n]{0,120}(?::|\b(?:text|sentence|paragraph|passage|rewrite|version)\b)
    | (?:text|output|answer|response|sentence|paragraph|note|result|assistant|user)\s*:
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)
CHATTER = re.compile(
    r"""
    \b(?:
      as\ an?\ (?:ai|artificial\ intelligence|(?:large\ )?language\ model|assistant)\b
    | i(?:['’]m|\ am)\ (?:sorry|unable|not\ able|an\ ai)\b
    | i\ (?:cannot|can['’]t|can\ not|won['’]t|apologi[sz]e|do\ not\ have|don['’]t\ have|hope\ this|would\ be\ happy)\b
    | let\ me\ know\b | feel\ free\ to\b | hope\ (?:this|that)\ helps\b | please\ (?:provide|note|clarify|let)\b
    | (?:given|provided|following|above|below|these|those|the|input|listed)\s(?:knowledge\s)?
      (?:triplets?|triples?|input|prompt|facts\ (?:above|below|provided|given))\b
    | (?:information|facts|details|data)\s(?:you\s|i\s(?:was|am|have\ been)\s)?(?:provided|given)\b
    | th(?:is|e)\ (?:text|sentence|paragraph|passage)\ (?:above|below|states|describes|includes|conveys|mentions)\b
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)
# Each of these phrases has one of these words, folded, most texts have none.
CHATTER_WORDS = _set_of(
    """
    ai intelligence language assistant sorry unable able cannot cant can wont apologize apologise have hope happy
    let feel please triplet triple input prompt fact information detail data above below state
    describe include convey mention
    """
)

# Anything that is not running prose. No part may run on for long: the time would be quadratic in the length of a text.
MARKUP = re.compile(
    r"""
    \|                                              # a triplet echoed as it was given
    | ^[^\S\n]*(?:[-*•‣◦]|\#{1,6}|>)\s+\S           # bullets, headings, quotes
    | ^[^\S\n]*1[.)]\s[^\n]*\n\s*2[.)]\s            # numbered lists, but not "1. FC Köln"
    | \*\*|__|```|`[^`\n]+`                         # emphasis and code
    | \[[^\[\]\n]{1,200}\]\([^)\n]{1,500}\)         # links
    | </?[A-Za-z][^<>\n]*>|<!--                     # HTML, XML and tokens such as <pad> or <extra_id_0>
    | &(?:amp|lt|gt|quot|nbsp|\#\d+);
    | \[(?:s|r|o|e|INST|/INST|PAD|SEP|CLS|MASK|UNK)\]|<<SYS>>|▁|�
    | https?://|www\.
    | ^[^\S\n]*[{\[]\s*["{\[]                       # JSON
    | [^\W_]_[^\W_]                                 # an identifier: Albert_Einstein
    """,
    re.VERBOSE | re.MULTILINE,
)

# All markup has one of these, or "www.".
MARKUP_SIGNS = frozenset("|-*•‣◦#>_`[<&{▁�/\n")


def looks_inflected(word: str) -> bool:
    """Whether a lower-case word looks like a participle or adverb, which open sentences more often than they name."""
    return word in _IRREGULAR or (len(word) > 4 and word.endswith(("ed", "ing", "ly")))
