"""TLS contexts from the PEM files of the configuration, with errors that name the file."""

from __future__ import annotations

import ssl
from pathlib import Path

from sonodistill.dicom.errors import ServiceConfigError
from sonodistill.dicom.settings import Tls


class TlsError(ServiceConfigError):
    """A certificate, key or authority cannot be used."""


def server_context(tls: Tls) -> ssl.SSLContext:
    """For listening, TLS 1.2 and later; with an authority, only clients with a certificate of its may connect.

    Errors: TlsError (no certificate or key named, a file that is missing, unreadable or no PEM, a key that is
        encrypted or belongs to another certificate).
    """
    if tls.certificate is None or tls.key is None:
        raise TlsError("a TLS server needs a certificate and a key", remedy="name both in the tls table")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _identify(context, tls.certificate, tls.key)
    if tls.authority is not None:
        _trust(context, tls.authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: Tls | None) -> ssl.SSLContext:
    """For connecting, TLS 1.2 and later; the server has to show a certificate that names the host it is reached by.

    That is so for DICOM as for HTTP: a hospital's authority signs for every modality, and without the name any of
    them could pose as the archive. The name (or IP address) is looked for in Subject Alternative Name.

    Args:
        tls: our own certificate and key, if the server asks for one, and the authority that signed the server's; the
            system's authorities are trusted where none is named, and only then.

    Errors: TlsError, as for a server.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls is None or tls.authority is None:
        context.load_default_certs()
    else:
        _trust(context, tls.authority)
    if tls is not None and (tls.certificate is not None or tls.key is not None):
        if tls.certificate is None or tls.key is None:
            raise TlsError("a certificate needs its key, and a key its certificate", remedy="name both, or neither")
        _identify(context, tls.certificate, tls.key)
    return context


def _identify(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    _readable(certificate)
    _readable(key)
    try:
        # An empty password: an encrypted key is an error, not a question on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"the key does not belong to the certificate {certificate}", path=key) from None
        remedy = "give a certificate and its key in PEM, the key without a password"
        raise TlsError(
            f"not a usable certificate and key {key} ({error.reason})", path=certificate, remedy=remedy
        ) from None


def _trust(context: ssl.SSLContext, authority: Path) -> None:
    _readable(authority)
    try:
        context.load_verify_locations(authority)
    except ssl.SSLError as error:
        raise TlsError(f"no certificate of an authority in PEM ({error.reason})", path=authority) from None


def _readable(path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise TlsError(f"cannot be read ({error.strerror})", path=path) from None
