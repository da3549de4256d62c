"""kind = "mail": through the machine's sendmail, or straight to an SMTP server.

Options: ``to`` (addresses), ``from``, ``subject`` (a prefix), ``sendmail`` (path), ``smtp`` (host or host:port),
``smtp_tls`` (starttls, tls, none), ``smtp_user``, ``smtp_password``, ``timeout``. Without ``smtp``,
sendmail is used, as cron does.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import subprocess
from collections.abc import Mapping
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from echosched.notify import DeliveryError
from echosched.notify.message import Letter, one_line
from echosched.notify.threads import in_thread

if TYPE_CHECKING:
    from echosched.protocols import Secrets

_SENDMAIL = ("/usr/sbin/sendmail", "/usr/lib/sendmail", "/usr/bin/sendmail")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


async def send(letter: Letter, options: Mapping[str, Any], resolve: Secrets) -> None:
    """Hand *letter* over to sendmail or the SMTP server; returns when it has been accepted."""
    limit = _seconds(options)
    recipients = [resolve(address) for address in options["to"]]
    mail = compose(
        letter, recipients, {name: _resolved(options.get(name), resolve) for name in ("from", "subject")}
    )
    if options.get("smtp"):
        settings = {
            name: _resolved(value, resolve) for name, value in options.items() if name.startswith("smtp")
        }
        await in_thread(lambda: _by_smtp(mail, recipients, settings, limit), limit)
    else:
        await in_thread(lambda: _by_sendmail(mail, recipients, options.get("sendmail"), limit), limit + 5)


def compose(letter: Letter, recipients: list[str], options: Mapping[str, str | None]) -> EmailMessage:
    """Return the mail: plain text, marked as automatic, with a Message-ID that a second try repeats."""
    host = str(letter.facts["host"])
    first = letter.first
    mail = EmailMessage(policy=SMTP)
    mail["Subject"] = one_line(f"{options.get('subject') or ''} {letter.subject}".strip())
    mail["From"] = one_line(options.get("from") or f"EchoSched <{_user()}@{host}>")
    mail["To"] = one_line(", ".join(recipients), 2000)
    mail["Date"] = format_datetime(first.at)
    digest = hashlib.sha256(repr(letter.messages).encode()).hexdigest()[:32]
    mail["Message-ID"] = f"<{digest}@{one_line(host)}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-EchoSched-Job"] = one_line(first.job or "-")
    mail["X-EchoSched-Event"] = first.occasion
    mail.set_content(letter.text + "\n")
    return mail


def _by_sendmail(mail: EmailMessage, recipients: list[str], path: str | None, limit: float) -> None:
    program = path or next((found for found in _SENDMAIL if os.access(found, os.X_OK)), None)
    if program is None:
        raise DeliveryError("this machine has no sendmail (install a mail server or set smtp)")
    data = mail.as_bytes(policy=SMTP.clone(linesep="\n"))
    try:
        # Recipients stand behind "--" and on the command line, never in -t: headers hold foreign text.
        done = subprocess.run(
            [program, "-i", "--", *recipients],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeliveryError(f"{program}: no end within {limit:g} s") from None
    except OSError as err:
        raise DeliveryError(f"{program}: {err.strerror}") from err
    if done.returncode != 0:
        told = one_line(done.stdout.decode(errors="replace"))
        raise DeliveryError(f"{program}: exit code {done.returncode}" + (f": {told}" if told else ""))


def _by_smtp(
    mail: EmailMessage, recipients: list[str], settings: Mapping[str, str | None], limit: float
) -> None:
    import smtplib
    import ssl

    host, port, tls = _server(settings)
    user, password = settings.get("smtp_user"), settings.get("smtp_password")
    if password and tls == "none" and host not in _LOOPBACK:
        raise DeliveryError(f"{host}: the password would be sent in the clear (set smtp_tls)")
    try:
        context = ssl.create_default_context() if tls != "none" else None
        server: smtplib.SMTP
        if tls == "tls":
            server = smtplib.SMTP_SSL(host, port, timeout=limit, context=context)
        else:
            server = smtplib.SMTP(host, port, timeout=limit)
        with server:
            if tls == "starttls":
                server.starttls(context=context)
            if user:
                server.login(user, password or "")
            sender = mail["From"].addresses[0].addr_spec if mail["From"].addresses else ""
            refused = server.send_message(mail, from_addr=sender, to_addrs=recipients)
    except smtplib.SMTPResponseException as err:
        raise DeliveryError(f"{host}: {err.smtp_code} {one_line(_text(err.smtp_error))}") from err
    except smtplib.SMTPRecipientsRefused as err:
        told = "; ".join(f"{who}: {code} {_text(text)}" for who, (code, text) in err.recipients.items())
        raise DeliveryError(f"{host}: {one_line(told)}") from err
    except (OSError, smtplib.SMTPException) as err:
        raise DeliveryError(f"{host}: {one_line(str(err)) or type(err).__name__}") from err
    if refused:
        # The others have it: sending again would tell them twice.
        told = "; ".join(f"{who}: {code} {_text(text)}" for who, (code, text) in refused.items())
        raise DeliveryError(f"{host}: {one_line(told)}", final=True)


def _server(settings: Mapping[str, str | None]) -> tuple[str, int, str]:
    """Return host, port and protection; the port decides what is not said."""
    address = settings.get("smtp") or ""
    host, colon, digits = address.rpartition(":")
    if not colon or not digits.isdigit() or (":" in host and not host.startswith("[")):
        host, digits = address, ""
    tls = settings.get("smtp_tls") or {"465": "tls", "587": "starttls"}.get(digits, "none")
    port = int(digits) if digits else {"tls": 465, "starttls": 587}.get(tls, 25)
    return host.strip("[]"), port, tls


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _text(told: bytes | str) -> str:
    return told.decode(errors="replace") if isinstance(told, bytes) else told


def _resolved(value: Any, resolve: Secrets) -> str | None:
    return None if value is None else resolve(str(value))


def _seconds(options: Mapping[str, Any]) -> float:
    timeout = options.get("timeout")
    return float(timeout.total_seconds()) if timeout is not None else 30.0
