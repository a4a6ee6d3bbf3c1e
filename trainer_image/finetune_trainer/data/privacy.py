"""What looks like a secret or like personal data: counted by kind, never printed. Patterns find what is likely, no more."""

import re

SECRETS = {
    "AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    "GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36}\b|\bgithub_pat_[A-Za-z0-9_]{36,}"),
    "Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{34}\b"),
    "API key (sk-…)": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"),
    "Slack token": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "Google API key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}"),
    "JSON web token": re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    "password in a URL": re.compile(r"\b[a-z][a-z0-9+]{1,9}://[^\s/:@]{1,64}:[^\s/:@]{3,64}@"),
}
PERSONAL = {
    "e-mail address": re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}\.[A-Za-z]{2,}"),
    "phone number": re.compile(r"(?<![\w.])\+\d{1,3}[ ./-]?(?:\(?\d{1,4}\)?[ ./-]?){2,5}\d{2,4}(?![\w])"),
    "IBAN": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"),
    "US social security number": re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])"),
    "payment card": re.compile(r"\b(?<![.-])(?:\d[ -]?){12,18}\d(?![\d.-])"),
    "IP address": re.compile(r"\b(?<!\.)(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.])"),
}
TELLTALE = {
    "AWS access key": ("AKIA", "ASIA"),
    "GitHub token": ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    "Hugging Face token": ("hf_",),
    "API key (sk-…)": ("sk-",),
    "Slack token": ("xox",),
    "Google API key": ("AIza",),
    "JSON web token": ("eyJ",),
    "password in a URL": ("://",),
    "e-mail address": ("@",),
    "phone number": ("+",),
    "US social security number": ("-",),
}
"""What a text must contain one of for a pattern to be worth trying; looking for these is a hundred times faster."""
DIGIT = re.compile(r"\d")
DIGITS_ONLY = {"payment card", "IP address", "IBAN"}


def kinds(text: str, patterns: dict[str, re.Pattern[str]]) -> list[str]:
    """The kinds that occur in a text."""
    has_digits = DIGIT.search(text) is not None
    return [
        kind
        for kind, pattern in patterns.items()
        if (has_digits or kind not in DIGITS_ONLY)
        and any(part in text for part in TELLTALE.get(kind, ("",)))
        and _found(kind, pattern, text)
    ]


def is_sensitive(text: str) -> bool:
    """Whether something in it looks like a secret or like personal data."""
    return bool(kinds(text, SECRETS) or kinds(text, PERSONAL))


def _found(kind: str, pattern: re.Pattern[str], text: str) -> bool:
    if kind != "payment card":
        return pattern.search(text) is not None
    return any(_is_card(match.group()) for match in pattern.finditer(text))


def _is_card(written: str) -> bool:
    """By the check digit of Luhn."""
    digits = [int(each) for each in reversed(written) if each.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return digits[-1] != 0 and (sum(digits[::2]) + sum(doubled)) % 10 == 0
