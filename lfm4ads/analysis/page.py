"""What every page shares: one environment of templates, whose parts are ``parts.html.j2``."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from lfm4ads.analysis.svg import DARK, LIGHT, inline
from lfm4ads.analysis.words import interval, number, plain, signed, why_undefined


def page_environment() -> Environment:
    """Return the templates, escaping what they show, with figures and words as filters."""
    environment = Environment(
        loader=PackageLoader("lfm4ads.analysis"), autoescape=True, undefined=StrictUndefined
    )
    environment.globals |= {"light": LIGHT, "dark": DARK}
    environment.filters |= {
        "day": lambda day: f"{str(day)[:4]}-{str(day)[4:6]}-{str(day)[6:]}",
        "inline": inline,
        "interval": lambda low, high, sign=False: interval(low, high, sign=sign),
        "number": lambda value, digits=4: number(value, digits=digits),
        "plain": plain,
        "signed": lambda value, digits=4: signed(value, digits=digits),
        "why": lambda row, field: why_undefined(row, field=field),
    }
    return environment
