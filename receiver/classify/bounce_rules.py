"""What the classifier of bounces knows, as tables.

Sources (seen 2026-11): RFC 3463, RFC 5248 and IANA's registry of enhanced status codes; RFC 7504 and 7505
(null MX); RFC 7293 (5.7.17 to 5.7.19); the error lists of Google (support.google.com/a/answer/3726730),
Microsoft (learn.microsoft.com, non-delivery reports in Exchange Online) and Yahoo
(senders.yahooinc.com/smtp-error-codes); the reply texts of Postfix, Exim, Sendmail and qmail.
"""

from __future__ import annotations

from typing import Final

from receiver.event import BounceCategory

HARD, SOFT, BLOCK = BounceCategory.HARD, BounceCategory.SOFT, BounceCategory.BLOCK

# Every class that a bounce can have, and what it means for the address.
CATEGORY: Final[dict[str, BounceCategory]] = {
    "invalid_recipient": HARD,
    "bad_domain": HARD,
    "inactive_mailbox": SOFT,  # 5.2.1 is as often temporary as not: a streak decides, not one bounce
    "mailbox_full": SOFT,
    "too_large": SOFT,
    "expired": SOFT,
    "dns_failure": SOFT,
    "network": SOFT,
    "transient": SOFT,  # also soft for a reason that no other class names
    "greylisted": SOFT,
    "auto_reply": SOFT,
    "challenge": SOFT,
    "rate_limited": BLOCK,
    "spam_block": BLOCK,
    "spam_content": BLOCK,
    "reputation": BLOCK,
    "policy": BLOCK,
    "auth_failed": BLOCK,
    "relay_denied": BLOCK,
    "attachment": BLOCK,
    "sender_invalid": BLOCK,  # it concerns the sender, so it never counts against the recipient
    "suppressed_echo": BounceCategory.ADMIN,
    "undetermined": BounceCategory.UNDETERMINED,
}

# Classes of a mailbox that exists: a text of one is believed against a code that says there is none.
LIVING: Final = frozenset({"mailbox_full", "inactive_mailbox"})

# Subject and detail of enhanced codes that decide by themselves; only a text of `LIVING` speaks against a hard one.
SPECIFIC_CODES: Final[dict[str, str]] = {
    "1.1": "invalid_recipient",
    "1.2": "bad_domain",
    "1.3": "invalid_recipient",
    "1.6": "invalid_recipient",  # moved, no forwarding address
    "1.7": "sender_invalid",
    "1.8": "sender_invalid",
    "1.10": "invalid_recipient",  # null MX (RFC 7505); in Exchange: recipient not found
    "1.90": "rate_limited",
    "2.2": "mailbox_full",
    "2.3": "too_large",
    "2.121": "rate_limited",
    "2.122": "rate_limited",
    "3.4": "too_large",
    "4.3": "dns_failure",
    "4.4": "bad_domain",
    "4.5": "rate_limited",
    "4.6": "network",
    "4.14": "network",
    "4.310": "bad_domain",
    "4.312": "dns_failure",
    "5.3": "rate_limited",
    "7.17": "invalid_recipient",  # the mailbox has another owner since (RFC 7293)
    "7.18": "invalid_recipient",  # the domain has another owner since
    "7.504": "invalid_recipient",  # Exchange Online: the address is not valid
    "7.505": "invalid_recipient",
    **{f"7.{detail}": "auth_failed" for detail in (8, *range(20, 27), 509, 515)},
    "7.28": "rate_limited",
    "7.54": "relay_denied",
    "7.57": "relay_denied",
    "7.64": "relay_denied",
    **{f"7.{detail}": "reputation" for detail in (*range(606, 650), 708)},
    "7.705": "rate_limited",
}

# Codes that mean something, but say less than a clear text beside them. Other x.0 codes say nothing.
VAGUE_CODES: Final[dict[str, str]] = {
    "2.1": "inactive_mailbox",
    "4.1": "network",
    "4.7": "expired",
    "4.300": "expired",
    "5.1": "transient",
    "5.2": "transient",
    "5.4": "transient",
    "7.0": "policy",
    "7.27": "sender_invalid",  # IANA: the sender's domain has a null MX; Google: SPF failed
    "7.29": "auth_failed",
}
VAGUE_SUBJECTS: Final[dict[str, str]] = {"3": "transient", "4": "network", "6": "policy", "7": "policy"}

# Replies without an enhanced code that mean more than their first digit.
SMTP_CODES: Final[dict[int, str]] = {
    530: "relay_denied",
    535: "auth_failed",
    552: "mailbox_full",
    556: "invalid_recipient",  # the domain accepts no mail (RFC 7504)
    571: "policy",
}

# Said by the provider itself, before any conversation with the recipient's server: outranks its code.
ECHO_TEXTS: Final = (
    "suppression list",
    "has suppressed sending",
    "recipient is suppressed",
    "not delivering to previously",
    "not delivering to a user who marked",
    "not delivering to unsubscribed",
    "previously bounced",
    "previously unsubscribed",
    "previously complained",
)

# Texts, most telling first: what speaks against a dead address stands before what speaks for one.
# Separated by "|"; a text is found where a word begins in the lower-cased diagnostic; parts joined by " * " follow
# one another with anything between.
_TEXTS: Final = (
    (
        "challenge",
        """
        challenge-response | challenge/response | boxbe | sender * has to confirm | prove you are human
        """,
    ),
    (
        "auto_reply",
        """
        out of office | out of the office | auto-reply | autoreply | automatic reply | on vacation
        """,
    ),
    ("greylisted", "greylist | graylist | grey-list | gray-list | grey list | postgrey"),
    (
        "dns_failure",
        """
        unable to get mx info | not found, try again | name service error | dns error | dns fail |
        dns query failed | dns lookup | dns timeout | servfail | temporarily unable to resolve |
        temporary failure in name resolution | resolver timeout
        """,
    ),
    (
        "auth_failed",
        """
        dmarc | dkim | spf fail | spf check | spf record | spf validation | spf [ |
        sender policy framework | unauthenticated | not authenticated | authentication required |
        authentication failed | authentication checks | authentication information | ptr record |
        reverse dns | reverse hostname | sender id
        """,
    ),
    (
        "attachment",
        """
        attachment | potential security issue | contains a virus | virus detected | virus found |
        infected | malware
        """,
    ),
    (
        "relay_denied",
        """
        relay access denied | relaying denied | unable to relay | relay not permitted |
        not permitted to relay | relaying not allowed | relay denied | relaying is not | open relay |
        isn't in my list of allowed rcpthosts
        """,
    ),
    (
        "rate_limited",
        """
        receiving mail too quickly | receiving mail at a rate | rate limit | rate-limit | ratelimit |
        rate of unsolicited | unusual rate | throttl | too many connections | too many concurrent |
        too many messages | too many emails | too many recipients | too many sessions | connection limit
        | concurrent connection | unexpected volume | sending quota | sending limit | daily quota |
        hourly limit | thread limit | message limit | slow down | relay limit exceeded |
        max message per connection
        """,
    ),
    (
        "too_large",
        """
        message size exceeds | message size limit | message too large | message too big |
        message is too large | message is too big | message * too large | maximum message size |
        exceeds size limit | exceeds the maximum size | size exceeds * maximum |
        larger than the current system limit
        """,
    ),
    (
        "mailbox_full",
        """
        mailbox full | mailbox * is full | inbox is full | account is full | over quota | overquota |
        over the quota | exceeded storage | exceeds allowed quota | out of storage | quota exceeded |
        quotaexceeded | exceeded * quota | quota is exceeded | quota full | disk quota |
        mailbox size limit | mailbox * exceeded | not enough storage
        """,
    ),
    (
        "reputation",
        """
        spamhaus | spamcop | barracudacentral | sorbs | dnsbl | rbl | blacklist | black list | blocklist
        | block list | blocked using | blocked by using | listed at  | reputation | senderscore |
        senderbase | too many invalid recipients | too many unknown recipients |
        excessive unknown recipients | user complaints | banned sending ip | banned ip | ip address * blocked |
        client host * blocked | traffic not accepted from this ip | permanently deferred
        """,
    ),
    (
        "spam_content",
        """
        likely unsolicited | likely spam | likely suspicious | identified as spam | detected as spam |
        classified as spam | considered spam | marked as spam | looks like spam | appears to be spam |
        spam content | spam message | spam score | spam detected | spam filter | message content |
        content reject | content filter | content not accept | url * blocked
        """,
    ),
    (
        "sender_invalid",
        """
        sender address | sender domain | sender's domain | sender verify failed | sender verification |
        sender unknown | unknown sender | sender denied | invalid sender | domain of sender |
        could not verify sender | helo command rejected
        """,
    ),
    (
        "bad_domain",
        """
        host or domain name not found | domain not found | domain does not exist | domain doesn't exist
        | domain * does not exist | domain name does not exist | domain name not found |
        non-existent domain | nonexistent domain | nonexistentdomain | nxdomain | no such domain |
        invalid domain | unknown domain | unknown host | host unknown | host not found | no such host |
        no mx for  | no mx record | no mail server for | name or service not known
        """,
    ),
    # Exchange Online says "access denied" where nobody has the address (directory-based edge blocking). RFC 5321's
    # "mailbox unavailable" may mean policy as well; Microsoft and GMX document that they mean an unknown address.
    (
        "invalid_recipient",
        """
        user unknown | unknown user | recipient unknown | unknown recipient | mailbox unknown |
        unknown mailbox | address unknown | unknown address | no such user | no such recipient |
        no such mailbox | no such address | no such account | no such person | nosuchuser |
        does not exist | doesn't exist | not exist | mailbox not found | user not found |
        recipient not found | recipientnotfound | address not found | account not found |
        invalid recipient | recipient invalid | invalid mailbox | invalid address | invalid user |
        not a valid mailbox | not a valid recipient | not a known user | not a registered user |
        not a registered gateway user | recipient address rejected: need fully-qualified address |
        unknown local part | addressee unknown | account closed | account has been closed |
        indicated no smtp service | bad destination mailbox | no mailbox here |
        no mailbox by that name | user doesn't have a | unrouteable address | unroutable address |
        undeliverable address | no longer employed | no longer works | no longer valid |
        no longer exists | not listed in domino directory | not our customer | does not accept mail |
        recipient address rejected: access denied | mailbox unavailable * protection.outlook.com |
        mailbox unavailable * postmaster.gmx | mailbox unavailable * postmaster.web.de
        """,
    ),
    (
        "inactive_mailbox",
        """
        account * disabled | mailbox * disabled | user * disabled | account * inactive |
        mailbox * inactive | user * inactive | account inactive | inactive account | inactive user |
        account * suspended | mailbox * suspended | user * suspended | deactivated | not active |
        inactive email address | account * locked | mailbox * locked | mailbox is frozen | discontinued
        """,
    ),
    (
        "network",
        """
        connection refused | connection timed out | connection timeout | connection reset |
        connection dropped | connection lost | lost connection | conversation * timed out | i/o timeout
        | timed out while | no route to host | network is unreachable | network unreachable |
        could not connect | unable to connect | failed to connect | cannot connect | too many hops |
        hop count | mail loop | loops back to myself | tls handshake | starttls | tls is required |
        tls required
        """,
    ),
    (
        "spam_block",
        """
        spam | unsolicited | junk mail | bulk mail | sender * blocked | blocked sender | sender rejected
        """,
    ),
    (
        "expired",
        """
        message expired | delivery time expired | delivery expired | retry timeout exceeded |
        retry time not reached for any host after a long failure | too old | maximum retries |
        retries exceeded | queue too long | been in the queue too long | unable to deliver * within
        """,
    ),
    (
        "policy",
        """
        policy | policies | access denied | not authorized | not allowed | not accepted from |
        administrative prohibition | administratively | prohibited | restricted | blocked | permission |
        private group
        """,
    ),
    (
        "transient",
        """
        temporarily | temporary | try again | try later | service unavailable | service not available |
        insufficient system | out of memory | internal error | internal server error | local error |
        resources unavailable | server busy | server is busy | protocol violation
        """,
    ),
)
TEXTS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = tuple(
    (bounce_class, tuple(text.strip() for text in texts.split("|"))) for bounce_class, texts in _TEXTS
)
