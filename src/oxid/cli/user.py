"""`oxid user`: the accounts of a host, in its state directory. A running host sees changes at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from oxid.cli.output import emit, json_option
from oxid.cli.parameters import read_password, state_option
from oxid.config import state_directory

if TYPE_CHECKING:
    from oxid.auth.account_file import FileAccountStore

password_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input."
)


@click.group()
def user() -> None:
    """Add, list and remove accounts; change passwords."""


@user.command()
@click.argument("name")
@click.option("--admin", is_flag=True, help="May administer the host.")
@password_option
@state_option
def add(name: str, admin: bool, password_stdin: bool, state: Path | None) -> None:
    """Add the account NAME, or DOMAIN\\NAME."""
    _store(state).add(name, _new_password(password_stdin), admin=admin)


@user.command("list")
@state_option
@json_option
def list_(state: Path | None, as_json: bool) -> None:
    """List the accounts."""
    accounts = _store(state).list()
    emit(
        [{"name": account.name, "admin": account.admin} for account in accounts],
        (f"{account.name}{'  (administrator)' if account.admin else ''}" for account in accounts),
        as_json=as_json,
    )


@user.command()
@click.argument("name")
@state_option
def remove(name: str, state: Path | None) -> None:
    """Remove an account."""
    _store(state).remove(name)


@user.command()
@click.argument("name")
@password_option
@state_option
def passwd(name: str, password_stdin: bool, state: Path | None) -> None:
    """Give an account a new password."""
    _store(state).passwd(name, _new_password(password_stdin))


def _store(state: Path | None) -> FileAccountStore:
    from oxid.auth.account_file import FileAccountStore

    return FileAccountStore((state or state_directory(os.environ)) / "accounts.json")


def _new_password(from_stdin: bool) -> str:
    password = read_password(from_stdin, twice=True)
    if not password:
        raise click.UsageError("the password is empty")
    return password
