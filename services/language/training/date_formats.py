"""Formats: the ways to write a day that dates-transformer reads, each a pattern of fields."""

from dataclasses import dataclass
from datetime import date
from random import Random
from typing import Literal

Language = Literal["english", "chinese", "numbers"]

EXAMPLE = date(2026, 11, 25)
FIRST_SHORT, LAST_SHORT = 1969, 2068  # years that two digits mean, as POSIX has it
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ORDINALS = (
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"),
    *("eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth"),
    *("nineteenth", "twentieth", *(f"twenty-{unit}" for unit in ("first", "second", "third", "fourth", "fifth"))),
    *("twenty-sixth", "twenty-seventh", "twenty-eighth", "twenty-ninth", "thirtieth", "thirty-first"),
)
ENDINGS = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}
DIGITS, ZEROS = "零一二三四五六七八九", "〇零○"  # a year's zero is written in three ways
CHINESE_WEEKDAYS = ("一", "二", "三", "四", "五", "六", "日天")
CHINESE_WEEKS = ("星期", "周", "礼拜", "週", "禮拜")

# Fields: dd, mm: with a leading zero; D, M: with or without one; y, yy: year; th: 25th; Y, O, T: Chinese numerals
# of year, month and day; W: the weekday in Chinese; hour: a time of day, which means nothing here.
PATTERNS: dict[Language, tuple[str, ...]] = {
    "english": (
        *("{D} {month} {y}", "{D} {mon} {y}", "{D} {month}, {y}", "{month} {D}, {y}", "{month} {D} {y}"),
        *("{mon} {D}, {y}", "{mon} {D} {y}", "{mon}. {D}, {y}", "{D} {mon}. {y}"),
        *("{th} {month} {y}", "{th} {mon} {y}", "{month} {th}, {y}", "{mon} {th}, {y}", "{th} of {month} {y}"),
        *("the {th} of {month}, {y}", "{month} the {th}, {y}", "on {D} {month} {y}", "on {month} {th}, {y}"),
        *("{words} of {month} {y}", "{month} {words}, {y}", "the {words} of {month}, {y}"),
        *("{weekday}, {D} {month} {y}", "{weekday}, {month} {D}, {y}", "{weekday} {D} {month} {y}"),
        *("{weekday}, {month} {th}, {y}", "{weekday} the {th} of {month} {y}"),
        *("{wd} {D} {mon} {y}", "{wd}, {D} {mon} {y}", "{wd}, {mon} {D}, {y}", "{wd} {mon} {D} {y}"),
        *("{wd}, {dd} {mon} {y} {hour} +0000", "{wd} {mon} {dd} {hour} {y}", "{D} {mon} {y} {hour}"),
        *("{D}-{mon}-{y}", "{D}/{mon}/{y}", "{D}.{mon}.{y}", "{y}-{mon}-{dd}", "{y} {month} {D}", "{y} {mon} {D}"),
        *("{D}-{mon}-{yy}", "{D} {mon} '{yy}", "{D} {mon} {yy}", "{mon} {D}, '{yy}", "{dd}{mon}{y}"),
    ),
    "chinese": (
        *("{y}年{M}月{D}日", "{y}年{M}月{D}号", "{y}年{M}月{D}號", "{y}年{M}月{D}", "{y} 年 {M} 月 {D} 日"),
        *(
            "{y}年{M}月{D}日{W}",
            "{y}年{M}月{D}日 {W}",
            "{y}年{M}月{D}日（{W}）",
            "{W}，{y}年{M}月{D}日",
            "{W} {y}年{M}月{D}日",
        ),
        *(
            "{y}年{M}月{D}日 {hour}",
            "公元{y}年{M}月{D}日",
            "西元{y}年{M}月{D}日",
            "{yy}年{M}月{D}日",
            "{M}月{D}日{y}年",
        ),
        *("{Y}年{O}月{T}日", "{Y}年{O}月{T}号", "{Y}年{O}月{T}日{W}", "公元{Y}年{O}月{T}日", "{y}年{O}月{T}日"),
        *("{M}月{D}日，{y}年", "{y}年{M}月{D}号{W}", "{Y}年{O}月{T}"),
    ),
    "numbers": (
        *("{y}-{M}-{D}", "{y}/{M}/{D}", "{y}.{M}.{D}", "{y}{mm}{dd}", "{y} {mm} {dd}"),
        *("{y}-{mm}-{dd}T{hour}Z", "{y}-{mm}-{dd} {hour}", "{y}/{mm}/{dd} {hour}"),
        *("{D}/{M}/{y}", "{D}.{M}.{y}", "{D}-{M}-{y}", "{D}. {M}. {y}", "{D} / {M} / {y}", "{dd} {mm} {y}"),
        *("{D}/{M}/{yy}", "{D}.{M}.{yy}", "{M}/{D}/{y}"),
    ),
}
MONTH_FIRST = "{M}/{D}/{y}"


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write a day."""

    language: Language
    pattern: str

    @property
    def example(self) -> str:
        """How it writes 25 November 2026."""
        return self.pattern.format_map(fields(EXAMPLE, Random(0), usual=True))

    def writes(self, day: date) -> bool:
        """Whether the text means this day alone: two digits are years of one century, 11/12 is no month and day."""
        if "{yy}" in self.pattern and not FIRST_SHORT <= day.year <= LAST_SHORT:
            return False
        return self.pattern != MONTH_FIRST or day.day > 12

    def write(self, day: date, random: Random) -> str:
        """The day as a text; chance decides where people differ, and whether a weekday is the right one."""
        return self.pattern.format_map(fields(day, random))


FORMATS = tuple(Format(language, pattern) for language, patterns in PATTERNS.items() for pattern in patterns)


def fields(day: date, random: Random, *, usual: bool = False) -> dict[str, str]:
    """What the patterns are filled with; `usual`: the most usual of everything, the same at every call."""
    month, weekday = MONTHS[day.month - 1], day.weekday()
    padded = not usual and random.random() < 0.5
    short = "Sept" if day.month == 9 and not usual and random.random() < 0.5 else month[:3]
    if not usual and random.random() < 0.1:
        weekday = random.randrange(7)  # people err, and the rest of the date is what counts
    return {
        "dd": f"{day.day:02d}",
        "mm": f"{day.month:02d}",
        "D": f"{day.day:02d}" if padded else str(day.day),
        "M": f"{day.month:02d}" if padded else str(day.month),
        "y": str(day.year),
        "yy": f"{day.year % 100:02d}",
        "month": month,
        "mon": short,
        "th": f"{day.day}{ENDINGS.get(day.day, 'th')}",
        "words": ORDINALS[day.day - 1],
        "weekday": WEEKDAYS[weekday],
        "wd": WEEKDAYS[weekday][:3],
        "hour": "10:30:00" if usual else hour(random),
        "Y": chinese_year(day.year, ZEROS[0] if usual else random.choice(ZEROS)),
        "O": chinese_number(day.month),
        "T": chinese_number(day.day, short=not usual and random.random() < 0.2),
        "W": f"星期{CHINESE_WEEKDAYS[weekday][0]}" if usual else chinese_weekday(weekday, random),
    }


def hour(random: Random) -> str:
    """A time of day, with seconds or without."""
    text = f"{random.randrange(24):02d}:{random.randrange(60):02d}"
    return f"{text}:{random.randrange(60):02d}" if random.random() < 0.7 else text


def chinese_year(year: int, zero: str) -> str:
    """二〇二六: digit by digit."""
    return "".join(DIGITS[int(digit)] if digit != "0" else zero for digit in str(year))


def chinese_number(number: int, *, short: bool = False) -> str:
    """二十五, or 廿五 if `short`; from 1 to 39."""
    tens, unit = divmod(number, 10)
    beginning = ("", "十", "廿" if short else "二十", "卅" if short else "三十")[tens]
    return beginning + (DIGITS[unit] if unit else "")


def chinese_weekday(weekday: int, random: Random) -> str:
    """星期三, 周三 or 礼拜三, also in traditional characters."""
    return random.choice(CHINESE_WEEKS) + random.choice(CHINESE_WEEKDAYS[weekday])
