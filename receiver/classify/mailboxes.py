"""Whose mailbox a domain's addresses are: a static table of the domains that consumers use. No DNS."""

from __future__ import annotations

from typing import Final

# Company, brand, and the top-level domains under which the company itself gives out addresses of that brand.
_BRANDS: Final = (
    (
        "microsoft",
        "hotmail",
        """com ac.uk at be bg ca ch cl co.id co.il co.in co.jp co.kr co.nz co.th co.uk co.za com.ar com.au
        com.br com.hk com.tr com.tw com.vn cz de dk ee es fi fr gr hu ie it jp lt lu lv my nl no ph pt ro
        rs ru se sg sk""",
    ),
    (
        "microsoft",
        "live",
        """com at be ca ch cl cn co.in co.kr co.uk co.za com.ar com.au com.mx com.my com.ph com.pt com.sg de
        dk fi fr hk ie in it jp nl no ru se""",
    ),
    (
        "microsoft",
        "outlook",
        """com at be bg bz cl co.id co.il co.nz co.th com.ar com.au com.br com.gr com.hr com.pe com.tr com.vn
        cz de dk ec es fr hn hu ie in it jp kr lv my pa ph pt py sa sg sk uy""",
    ),
    ("microsoft", "msn", "com nl"),
    ("microsoft", "windowslive", "com es"),
    (
        "yahoo",
        "yahoo",
        """com at be bg ca cl co.hu co.id co.il co.in co.kr co.nz co.th co.uk co.za com.ar com.au com.br
        com.cn com.co com.hk com.hr com.mx com.my com.pe com.ph com.sg com.tr com.tw com.ua com.ve com.vn
        cn cz de dk ee es fi fr gr hr hu ie in it lt lv nl no pl pt ro rs se si sk""",
    ),
    ("yahoo", "ymail", "com"),
    ("yahoo", "rocketmail", "com co.uk"),
    (
        "yahoo",
        "aol",
        """com at be ch cl co.nz co.uk com.ar com.au com.br com.co com.mx com.tr com.ve cz de dk es fi fr hk
        in it jp kr nl pl ru se tw""",
    ),
    ("gmx", "gmx", "com at biz ca ch cn co.uk co.in de es eu fr ie info it li lu net org ph pt se sg tm us"),
    ("yandex", "yandex", "com ru ua by kz az com.tr ee fr lt lv md pl tj tm uz com.am com.ge co.il"),
    ("zoho", "zoho", "com eu in com.au"),
    ("zoho", "zohomail", "com eu in com.au"),
    ("proton", "protonmail", "com ch"),
    ("tuta", "tutanota", "com de"),
)

_DOMAINS: Final[dict[str, str]] = {
    "google": "gmail.com googlemail.com google.com",
    "microsoft": "passport.com webtv.net",
    # Among them companies whose customers' mail Yahoo runs.
    "yahoo": """
        myyahoo.com aim.com verizon.net netscape.net netscape.com wow.com games.com love.com wmconnect.com
        cs.com compuserve.com att.net ameritech.net bellsouth.net currently.com flash.net nvbell.net
        pacbell.net prodigy.net sbcglobal.net snet.net swbell.net wans.net worldnet.att.net frontier.com frontiernet.net
        rogers.com sky.com""",
    "yahoo_japan": "yahoo.co.jp",  # another company than Yahoo, with its own mail system
    "apple": "icloud.com me.com mac.com privaterelay.appleid.com",
    "gmx": "caramail.com",
    "web.de": "web.de email.de",
    "mail.com": "mail.com email.com usa.com post.com europe.com consultant.com engineer.com myself.com",
    "t-online": "t-online.de magenta.de",
    "freenet": "freenet.de",
    "1und1": "online.de 1und1.de",
    "vodafone": "arcor.de vodafone.de kabelmail.de",
    "posteo": "posteo.de posteo.net",
    "mailbox.org": "mailbox.org",
    "comcast": "comcast.net xfinity.com",
    "charter": "charter.net spectrum.net twc.com roadrunner.com rr.com brighthouse.com",
    "cox": "cox.net",
    "centurylink": "centurylink.net embarqmail.com q.com",
    "earthlink": "earthlink.net mindspring.com",
    "optimum": "optonline.net optimum.net suddenlink.net",
    "juno": "juno.com netzero.net netzero.com",
    "shaw": "shaw.ca",
    "telus": "telus.net",
    "bell": "bell.net sympatico.ca",
    "videotron": "videotron.ca",
    "mail.ru": "mail.ru inbox.ru list.ru bk.ru internet.ru xmail.ru",
    "yandex": "ya.ru narod.ru",
    "rambler": "rambler.ru lenta.ru autorambler.ru myrambler.ru ro.ru",
    "ukr.net": "ukr.net",
    "proton": "proton.me pm.me",
    "tuta": "tuta.com tuta.io tutamail.com keemail.me",
    "fastmail": "fastmail.com fastmail.fm",
    "hey": "hey.com",
    "orange": "orange.fr wanadoo.fr voila.fr",
    "free": "free.fr aliceadsl.fr",
    "laposte": "laposte.net",
    "sfr": "sfr.fr neuf.fr cegetel.net club-internet.fr numericable.fr 9online.fr",
    "bouygues": "bbox.fr",
    "telenet": "telenet.be",
    "proximus": "skynet.be proximus.be",
    "ziggo": "ziggo.nl home.nl upcmail.nl chello.nl casema.nl quicknet.nl hetnet.nl",
    "kpn": "kpnmail.nl kpnplanet.nl planet.nl xs4all.nl",
    "libero": "libero.it iol.it inwind.it blu.it giallo.it",
    "italiaonline": "virgilio.it",
    "tim": "tim.it alice.it tin.it",
    "aruba": "aruba.it pec.it",
    "tiscali": "tiscali.it",
    "telefonica": "telefonica.net terra.es",
    "sapo": "sapo.pt",
    "bluewin": "bluewin.ch",
    "btinternet": "btinternet.com btopenworld.com",
    "virgin": "virginmedia.com ntlworld.com blueyonder.co.uk virgin.net",
    "talktalk": "talktalk.net tiscali.co.uk",
    "o2.pl": "o2.pl tlen.pl go2.pl",
    "wp.pl": "wp.pl",
    "onet": "onet.pl onet.eu op.pl poczta.onet.pl vp.pl autograf.pl",
    "interia": "interia.pl interia.eu poczta.fm",
    "seznam": "seznam.cz email.cz post.cz",
    "centrum": "centrum.cz centrum.sk volny.cz",
    "abv": "abv.bg",
    "freemail.hu": "freemail.hu citromail.hu",
    "telia": "telia.com",
    "qq": "qq.com foxmail.com",
    "netease": "163.com 126.com yeah.net 188.com vip.163.com vip.126.com",
    "sina": "sina.com sina.cn vip.sina.com",
    "sohu": "sohu.com",
    "aliyun": "aliyun.com",
    "china_mobile": "139.com",
    "naver": "naver.com",
    "kakao": "hanmail.net daum.net kakao.com",
    "nate": "nate.com",
    "docomo": "docomo.ne.jp",
    "kddi": "ezweb.ne.jp au.com",
    "softbank": "softbank.ne.jp i.softbank.jp",
    "rediff": "rediffmail.com",
    "uol": "uol.com.br bol.com.br",
    "terra": "terra.com.br",
    "globo": "globo.com globomail.com",
    "ig": "ig.com.br",
    "bigpond": "bigpond.com bigpond.net.au telstra.com",
    "optus": "optusnet.com.au",
    "xtra": "xtra.co.nz",
}


def _table() -> dict[str, str]:
    table = {f"{brand}.{end}": provider for provider, brand, ends in _BRANDS for end in ends.split()}
    table |= {domain: provider for provider, domains in _DOMAINS.items() for domain in domains.split()}
    return table


_PROVIDER: Final = _table()
MAILBOX_PROVIDERS: Final = tuple(sorted(set(_PROVIDER.values())))


def mailbox_provider(domain: str) -> str | None:
    """The company that runs the mailboxes of this domain; None for domains that are in no table. Any case."""
    return _PROVIDER.get(domain) or _PROVIDER.get(domain.lower().removesuffix("."))
