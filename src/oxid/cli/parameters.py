"""Arguments that several commands take: targets, identifiers, who we are, how well we are protected."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

import click

from oxid.config import LOG_LEVELS, Address, PortRange, Target, parse_listener, parse_period
from oxid.errors import ConfigurationError

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

SCHEMES: Final = ("auto", "basic", "ntlm", "negotiate", "none")
FILE: Final = click.Path(path_type=Path, dir_okay=False)
LEVELS: Final = {"connect": 2, "packet": 4, "integrity": 5, "privacy": 6}


class Parsed(click.ParamType[Any]):
    """A click type out of a function that raises ConfigurationError."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ConfigurationError as error:
            self.fail(str(error), param, ctx)


def parse_uuid(text: str) -> UUID:
    """A UUID, with or without braces. ConfigurationError"""
    try:
        return UUID(text.strip("{}"))
    except ValueError:
        raise ConfigurationError(f"{text!r} is no UUID") from None


def parse_interface(text: str) -> tuple[UUID, int, int]:
    """UUID/VERSION, the version as MAJOR or MAJOR.MINOR. ConfigurationError"""
    uuid, slash, version = text.partition("/")
    major, _, minor = version.partition(".")
    if not slash or not major.isdigit() or not (minor or "0").isdigit():
        raise ConfigurationError(f"{text!r}: an interface is written UUID/VERSION, as in …/1.0")
    numbers = int(major), int(minor or "0")
    if max(numbers) > 0xFFFF:
        raise ConfigurationError(f"{text!r}: a version has 16 bits")
    return parse_uuid(uuid), *numbers


def parse_identifier(text: str) -> int:
    """A 64-bit OXID or OID in hexadecimal, with or without 0x. ConfigurationError"""
    try:
        number = int(text, 16)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 64:
        raise ConfigurationError(f"{text!r} is no identifier: up to 16 hexadecimal digits were wanted")
    return number


TARGET: Final = Parsed("target", Target.parse)
ADDRESS: Final = Parsed("host:port", Address.parse)
LISTENER: Final = Parsed("host:port", parse_listener)
PORT_RANGE: Final = Parsed("lo-hi", PortRange.parse)
UUID_TYPE: Final = Parsed("uuid", parse_uuid)
PERIOD: Final = Parsed("seconds", parse_period)
INTERFACE: Final = Parsed("uuid/version", parse_interface)
IDENTIFIER: Final = Parsed("hex", parse_identifier)

state_option = click.option(
    "--state", type=click.Path(path_type=Path, file_okay=False), help="The host's state directory."
)
log_level_option = click.option("--log-level", type=click.Choice(LOG_LEVELS), help="What is logged (info).")


@dataclass(frozen=True, slots=True)
class ProxyAccess:
    """The way to a server through an RPC proxy, as the command line says it."""

    url: str | None
    user: str | None
    auth: str
    version: int
    cafile: Path | None
    certificate: Path | None
    any_certificate: bool

    @property
    def by_way_of(self) -> str:
        """What an error adds to the name of the server that it is about."""
        return f" through {self.url}" if self.url not in (None, "direct") else ""

    def route(self, credentials: Any, password_stdin: bool) -> Any:
        """The ProxyRoute, or None without a proxy; `credentials` are those of the calls, and the proxy's where
        nobody else is named. ConfigurationError, UsageError"""
        from oxid.auth.credentials import Anonymous, Password
        from oxid.runtime.proxy_route import ProxyRoute, tunnel_period

        if self.url is None:
            return None
        who = None if isinstance(credentials, Anonymous) else credentials
        if self.user is not None:
            name, percent, password = self.user.partition("%")
            domain, _, user = name.rpartition("\\")
            if not user:
                raise click.UsageError("--proxy-user is written [DOMAIN\\]user[%password]")
            who = Password(
                user,
                password if percent else read_password(password_stdin, of="Password at the proxy"),
                domain=domain,
            )
        return ProxyRoute(
            self.url,
            who,
            auth=self.auth,
            version=self.version,
            cafile=str(self.cafile or ""),
            certificate=str(self.certificate or ""),
            insecure=self.any_certificate,
            period=tunnel_period(),
        )


NO_PROXY: Final = ProxyAccess(None, None, "auto", 2, None, None, any_certificate=False)


@dataclass(frozen=True, slots=True)
class Access:
    """Who a client command is, and how its calls are protected."""

    password_stdin: bool
    anonymous: bool
    kerberos: bool
    level: int
    timeout_s: float
    proxy: ProxyAccess = NO_PROXY

    def credentials(self, target: Target, *, required: bool) -> Any:
        """The credentials for a target; None (unauthenticated) only where they are not required."""
        from oxid.auth.credentials import Anonymous, Password, Ticket

        if sum((self.anonymous, self.kerberos, bool(target.user) and not self.kerberos)) > 1:
            raise click.UsageError("an account, --kerberos and --anonymous exclude each other")
        if self.anonymous:
            return Anonymous()
        if self.kerberos:
            return Ticket(principal=target.user or None)
        if target.user:
            return Password(target.user, self._password(target), domain=target.domain)
        if required:
            raise click.UsageError("no account: write user@host, or use --kerberos or --anonymous")
        return None

    def _password(self, target: Target) -> str:
        return target.password if target.password is not None else read_password(self.password_stdin)


def read_password(from_stdin: bool, *, twice: bool = False, of: str = "Password") -> str:
    """The password from the next line of stdin, or asked for on a terminal with the words `of`."""
    if from_stdin:
        line = sys.stdin.readline()
        if not line:
            raise click.UsageError("--password-stdin: nothing on standard input")
        return line.rstrip("\r\n")
    if not sys.stdin.isatty():
        raise click.UsageError("no password: give it with --password-stdin")
    answer: str = click.prompt(of, hide_input=True, err=True, confirmation_prompt=twice)
    return answer


def access_options(command: Decorated) -> Decorated:
    """Add --password-stdin, --anonymous, --kerberos, --level, --timeout and --proxy with what belongs to it; the
    command gets `access`."""
    from functools import wraps

    @wraps(command)
    def with_access(*args: Any, **options: Any) -> Any:
        access = Access(
            password_stdin=options.pop("password_stdin"),
            anonymous=options.pop("anonymous"),
            kerberos=options.pop("kerberos"),
            level=LEVELS[options.pop("level")],
            timeout_s=options.pop("timeout"),
            proxy=ProxyAccess(
                url=options.pop("proxy"),
                user=options.pop("proxy_user"),
                auth=options.pop("proxy_auth"),
                version=int(options.pop("proxy_version")),
                cafile=options.pop("proxy_ca"),
                certificate=options.pop("proxy_cert"),
                any_certificate=options.pop("proxy_any_cert"),
            ),
        )
        return command(*args, access=access, **options)

    decorated: Any = with_access
    for option in reversed(
        [
            click.option("--password-stdin", is_flag=True, help="Read the password from standard input."),
            click.option("--anonymous", is_flag=True, help="Call as nobody."),
            click.option("--kerberos", is_flag=True, help="Use the Kerberos tickets of the current user."),
            click.option("--level", type=click.Choice(list(LEVELS)), default="privacy", show_default=True),
            click.option(
                "--timeout",
                type=click.FloatRange(min=0.05),
                default=30.0,
                show_default=True,
                metavar="SECONDS",
                help="For the whole command.",
            ),
            click.option(
                "--proxy",
                metavar="URL",
                help="Through an RPC proxy, http[s]://gateway/rpc/rpcproxy.dll; `direct` for a server's port 593.",
            ),
            click.option(
                "--proxy-user",
                metavar="USER[%PASSWORD]",
                help="Account at the web server (the one of the calls).",
            ),
            click.option("--proxy-auth", type=click.Choice(SCHEMES), default="auto", show_default=True),
            click.option("--proxy-version", type=click.Choice(["1", "2"]), default="2", show_default=True),
            click.option(
                "--proxy-ca", type=FILE, help="Certificates that the web server's is checked against."
            ),
            click.option("--proxy-cert", type=FILE, help="Our certificate with its key, PEM."),
            click.option(
                "--proxy-any-cert", is_flag=True, help="Take any certificate of the web server: for labs."
            ),
        ]
    ):
        decorated = option(decorated)
    result: Decorated = decorated
    return result
