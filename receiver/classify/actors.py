"""Who opened or clicked: a person, a machine, or an image proxy that stands for a person.

This is what can be said from one event alone. A crawler list made for web sites must not be used here:
it calls Gmail's image proxy a robot, and every Gmail open would be lost.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, TypeAlias

from receiver.event import Actor, EventType

Judgement: TypeAlias = tuple[Actor, tuple[str, ...]]

DETECTOR_VERSION: Final = 1
_OPENED: Final = EventType.OPENED
_NO_USER_AGENT: Final = (Actor.UNKNOWN, ("no user agent",))
MAX_USER_AGENT: Final = 512

# Apple's Mail Privacy Protection loads every image with exactly this, read or not (Mailgun on bot detection).
_APPLE_MPP: Final = "mozilla/5.0"
# Gmail's prefetch right after delivery. Nobody has used this Edge since 2016: a click with it is a scanner's.
_FROZEN_EDGE: Final = ("chrome/42.0.2311.135", "edge/12.246")

# Parts of lower-cased user agents. The first that matches decides; image proxies stand first, because they
# carry an ordinary browser's words too.
_PROXIES: Final = (
    "googleimageproxy",
    "ggpht.com",
    "yahoomailproxy",
    "imageproxy",
    "image-proxy",
    "image proxy",
)
_SCANNERS: Final = (
    "proofpoint",
    "urldefense",
    "barracuda",
    "mimecast",
    "messagelabs",
    "symantec",
    "trendmicro",
    "trend micro",
    "forcepoint",
    "websense",
    "fortimail",
    "fortiguard",
    "fireeye",
    "trellix",
    "sophos",
    "ironport",
    "talosintelligence",
    "zscaler",
    "bitdefender",
    "checkpoint",
    "vadesecure",
    "hornetsecurity",
    "safelinks",
    "paloaltonetworks",
    "virustotal",
    "urlscan",
)
_PROGRAMS: Final = (
    "python-requests",
    "python-urllib",
    "python-httpx",
    "aiohttp",
    "curl/",
    "wget/",
    "go-http-client",
    "libwww-perl",
    "lwp::",
    "apache-httpclient",
    "java/",
    "jakarta",
    "axios/",
    "node-fetch",
    "undici",
    "got (",
    "guzzlehttp",
    "faraday",
    "rest-client",
    "scrapy",
    "powershell",
    "headlesschrome",
    "headless",
    "phantomjs",
    "puppeteer",
    "playwright",
    "selenium",
    "webdriver",
    "postmanruntime",
    "httpclient",
)
_CRAWLERS: Final = (
    "bot/",
    "bot;",
    "bot)",
    "crawler",
    "spider",
    "slurp",
    "bingpreview",
    "skypeuripreview",
    "slackbot",
    "linkexpanding",
    "facebookexternalhit",
    "facebookcatalog",
    "whatsapp/",
    "linkpreview",
    "link preview",
    "mediapartners-google",
    "google-read-aloud",
    "google-safety",
    "uptime",
    "pingdom",
    "monitoring",
    "+http://",
    "+https://",
)
_RULES: Final[tuple[tuple[Actor, str, tuple[str, ...]], ...]] = (
    (Actor.PROXY, "image proxy", _PROXIES),
    (Actor.MACHINE, "security scanner", _SCANNERS),
    (Actor.MACHINE, "program", _PROGRAMS),
    (Actor.MACHINE, "crawler", _CRAWLERS),
)

# What people use: a browser names its platform in the first brackets; mail programs name themselves.
_BROWSER = re.compile(
    r"(?:mozilla/[45]\.0|opera/\d{1,2}\.\d{1,3}) \("
    r"(?:windows|macintosh|x11|iphone|ipad|ipod|linux|android|compatible; msie|mobile|cros)"
)
_MAIL_PROGRAMS: Final = (
    "microsoft outlook",
    "outlook-ios",
    "outlook-android",
    "thunderbird",
    "applemail",
    "apple mail",
    "mail/",
    "airmail",
    "mailspring",
    "postbox",
    "lotus-notes",
    "k-9",
    "samsung email",
    "com.apple.mail",
)


def judge(
    event_type: EventType | str, *, provider_flag: Actor | None = None, user_agent: str | None = None
) -> Judgement:
    """Who it was, and why, for an open or a click.

    `provider_flag` is what the provider says itself and always wins; pass None where it says nothing
    (SendGrid's `sg_machine_open: false` only means "not Apple", not "a person").
    """
    if provider_flag is not None:
        return provider_flag, ("provider flag",)
    if not user_agent:
        return _NO_USER_AGENT
    return _by_user_agent(user_agent[:MAX_USER_AGENT], event_type == _OPENED)


@lru_cache(maxsize=4096)
def _by_user_agent(user_agent: str, is_open: bool) -> Judgement:  # noqa: FBT001 - lru_cache is cheapest so
    text = user_agent.strip().lower()
    if not text:
        return _NO_USER_AGENT
    if text == _APPLE_MPP:
        return (Actor.MACHINE, ("apple mpp",)) if is_open else (Actor.UNKNOWN, ("bare user agent",))
    if all(part in text for part in _FROZEN_EDGE):
        return Actor.MACHINE, ("gmail prefetch" if is_open else "frozen browser",)
    return _by_words(text)


def _by_words(text: str) -> Judgement:
    for actor, reason, parts in _RULES:
        if any(part in text for part in parts):
            return actor, (reason,)
    if _BROWSER.match(text):
        return Actor.HUMAN, ("browser",)
    if any(part in text for part in _MAIL_PROGRAMS):
        return Actor.HUMAN, ("mail program",)
    return Actor.UNKNOWN, ("unfamiliar user agent",)
