"""`limen cert`: look at certificates, in a file or as the server recorded them."""

from __future__ import annotations

from pathlib import Path

import click
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from limen.cli.client import config_option
from limen.cli.get import show as show_records
from limen.cli.output import output_option, print_data
from limen.errors import InvalidInput


@click.group()
def cert() -> None:
    """Certificates."""


@cert.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("-m", "--mesh", help="Only certificates of this mesh (server records).")
@config_option
@output_option
def show(file: Path | None, mesh: str | None, config: Path | None, output: str) -> None:
    """Show the certificates in the PEM FILE, or those that the server issued.

    \b
    Example:
      limen cert show chain.pem
      limen cert show --mesh default
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    if file is None:
        show_records("certificates", mesh=mesh, config=config, output=output)
        return
    shown = [describe(c) for c in _load(file)]
    if output != "table":
        print_data(shown, output)
        return
    for index, description in enumerate(shown):
        print(f"certificate {index}")
        for key, value in description.items():
            text = ", ".join(value) if isinstance(value, list) else value
            print(f"  {key.replace('_', ' '):12} {text}")


def _load(file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{file} holds no PEM certificate") from error


def describe(certificate: x509.Certificate) -> dict[str, str | list[str]]:
    """What a person wants to know of a certificate."""
    uris: list[str] = []
    names: list[str] = []
    try:
        sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = sans.get_values_for_type(x509.UniformResourceIdentifier)
        names = sans.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        pass
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
        "uri_sans": uris,
        "dns_sans": names,
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "sha256": certificate.fingerprint(SHA256()).hex(),
    }
