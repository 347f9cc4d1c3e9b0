"""TLS as PS3.15 B.12 wants it (BCP 195: RFC 8996, RFC 9325), as a protocol core: bytes in, bytes out, no socket.

`Channel` is one connection's end; the edge drives its handshake from its selector, `associate` waits for it, and
`upper.tls_stream` carries an association over it. A failure is a `TlsFailed` with a sentence. Contexts are made of
PEM files by `server_context` and `ClientTls`; files that don't do are a `TlsFailed` too.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
from pathlib import Path

from relaypacs.policy.tls import handshake_failure

# RFC 9325 4.2; TLS 1.3 has none but good ones, and OpenSSL prefers 1.3 where both sides have it.
_TLS_1_2_CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
)
RECORD_BYTES = 16384
"""Most plaintext in one record (RFC 8446 5.1)."""
_HANDSHAKE_RECORD = 0x16
_NAME_KINDS = {"DNS": "DNS", "IP Address": "IP", "URI": "URI", "email": "email"}
_SHORT = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}


class TlsFailed(OSError):
    """TLS could not be begun or has broken; the message is a clause about the peer (`it …`), with the mend."""

    def __init__(self, sentence: str, word: str = "tls") -> None:
        """`word`: for a metric."""
        super().__init__(sentence)
        self.word = word


class Channel:
    """One end of a TLS connection over two memory buffers; thread-safe, never waits.

    What the peer sent goes in by `feed`; after every call, what `output` returns must be sent in that order.
    """

    def __init__(self, context: ssl.SSLContext, *, server_name: str | None = None) -> None:
        """The acceptor's end, or the requestor's if `server_name` is given: what the peer's certificate is for."""
        self._acceptor = server_name is None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=self._acceptor, server_hostname=server_name
        )
        # OpenSSL's object is for one thread at a time, and a stream is read and written by two.
        self._lock = threading.Lock()
        self._exhausted = True
        self._broken: TlsFailed | None = None

    @property
    def exhausted(self) -> bool:
        """Whether a read can only give something after another `feed`."""
        return self._exhausted

    @property
    def has_output(self) -> bool:
        """Whether `output` would return something."""
        return bool(self._outgoing.pending)

    def feed(self, data: bytes) -> None:
        """Bytes have come from the peer."""
        with self._lock:
            self._incoming.write(data)
            self._exhausted = False

    def output(self) -> bytes:
        """Bytes to send to the peer."""
        if not self.has_output:
            return b""
        with self._lock:
            return self._outgoing.read()

    def handshake(self) -> bool:
        """Go on with the handshake; whether it is done. Raises `TlsFailed`, with an alert to send in `output`."""
        with self._lock:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                return False
            except ssl.SSLError as error:
                raise self._failed(error) from error
            return True

    def read_into(self, view: memoryview) -> int:
        """Decrypt into `view` what is there: how many bytes, 0 once the peer has closed, -1 if it takes more input.

        Raises `TlsFailed`.
        """
        got = 0
        with self._lock:
            if self._broken is not None:
                raise self._broken
            try:
                while got < len(view):
                    count = self._tls.read(len(view) - got, view[got:])
                    if not count:
                        return got
                    got += int(count)
            except ssl.SSLWantReadError:
                self._exhausted = True
                return got or -1
            except ssl.SSLZeroReturnError:
                return got
            except ssl.SSLError as error:
                self._broken = self._failed(error)
                if not got:
                    raise self._broken from error
            return got

    def _failed(self, error: ssl.SSLError) -> TlsFailed:
        failure = handshake_failure(error, acceptor=self._acceptor)
        return TlsFailed(failure.sentence, failure.word)

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        """`data` as records, with whatever was to be sent before them. Raises `TlsFailed`."""
        with self._lock:
            try:
                self._tls.write(data)
            except ssl.SSLError as error:
                raise TlsFailed("TLS can't send any more") from error
            return self._outgoing.read()

    def goodbye(self) -> bytes:
        """The close_notify alert (RFC 8446 6.1), or nothing if there is no connection to end."""
        with self._lock:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            return self._outgoing.read()

    def peer_names(self) -> tuple[str, ...]:
        """The names of the peer's verified certificate as `policy.admission.Peer` wants them; none without one."""
        return certificate_names(dict(self._tls.getpeercert() or {}))


def certificate_names(certificate: dict[str, object]) -> tuple[str, ...]:
    """Subject (RFC 4514) and subject alternative names of a certificate as `ssl` describes it."""
    if not certificate:
        return ()
    subject = certificate.get("subject", ())
    assert isinstance(subject, tuple)
    relative = ("+".join(f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in one) for one in subject)
    names = [",".join(reversed(list(relative)))]
    alternative = certificate.get("subjectAltName", ())
    assert isinstance(alternative, tuple)
    names += [f"{_NAME_KINDS[kind]}:{value}" for kind, value, *_ in alternative if kind in _NAME_KINDS]
    return tuple(names)


def _escaped(value: str) -> str:
    escaped = "".join(f"\\{one}" if one in '\\,+"<>;' else one for one in value)  # RFC 4514 2.4
    if escaped[:1] in ("#", " "):
        escaped = "\\" + escaped
    return escaped[:-1] + "\\ " if escaped.endswith(" ") and len(value) > 1 else escaped


def speaks_tls(first: bytes | bytearray) -> bool:
    """Whether a peer's first bytes (at least one) begin a TLS handshake."""
    return first[0] == _HANDSHAKE_RECORD


def server_context(
    certificate: Path, key: Path | None, client_ca: Path | None, client_certificates: str
) -> ssl.SSLContext:
    """A listener's context. `client_certificates`: none, optional or required. Raises `TlsFailed`: `FILE …`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context)
    # No resumption: a ticket would outlive the certificates it was given for, and each process has its own key.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    _load_certificate(context, certificate, key)
    if client_certificates != "none":
        if client_ca is None:
            raise TlsFailed("client certificates can't be verified without `client_ca`")
        _load_authorities(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if client_certificates == "required" else ssl.CERT_OPTIONAL
    return context


class ClientTls:
    """How to speak TLS to one peer: thread-safe, made anew from its files when they have changed."""

    def __init__(
        self, *, ca: Path | None = None, certificate: Path | None = None, key: Path | None = None, server_name: str = ""
    ) -> None:
        """`ca`: whom to trust (none: the system's). `server_name`: what the certificate is for (none: the host)."""
        self._ca, self._certificate, self._key, self._server_name = ca, certificate, key, server_name
        self._lock = threading.Lock()
        self._made: tuple[tuple[object, ...], ssl.SSLContext] | None = None

    def channel(self, host: str) -> Channel:
        """A new connection's end to `host`. Raises `TlsFailed` if a file doesn't do."""
        try:
            return Channel(self.context(), server_name=self._server_name or host.partition("%")[0])
        except ValueError as error:
            raise TlsFailed("`tls_server_name` or `host` is no name a certificate can be for: correct it") from error

    def context(self) -> ssl.SSLContext:
        """The context itself, for HTTP. Raises `TlsFailed` if a file doesn't do."""
        mark = fingerprint(self._ca, self._certificate, self._key)
        with self._lock:
            if self._made is None or self._made[0] != mark:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                _restrict(context)
                if self._ca is None:
                    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
                else:
                    _load_authorities(context, self._ca)
                if self._certificate is not None:
                    _load_certificate(context, self._certificate, self._key)
                self._made = mark, context
            return self._made[1]


def fingerprint(*paths: Path | None) -> tuple[object, ...]:
    """What changes when one of the files does."""
    return tuple(_stat(path) for path in paths if path is not None)


def _stat(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996: nothing older
    context.set_ciphers(_TLS_1_2_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION  # RFC 9325 3.5
    # A file of trust may hold the peer's own certificate instead of its CA.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def _load_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    for path in (certificate, key):
        _check_readable(path)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsFailed(f"{certificate}: the key does not belong to this certificate") from error
        if error.reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"):
            raise TlsFailed(f"{certificate}: too weak, have it issued with RSA 2048, ECDSA P-256 or better") from error
        files = f"{certificate} or {key}" if key else str(certificate)
        raise TlsFailed(f"{files}: not a certificate and its key in PEM, unencrypted") from error
    except (ValueError, _Encrypted) as error:
        raise TlsFailed(f"{key or certificate}: the key has a pass phrase, store it without (mode 0400)") from error


class _Encrypted(Exception):
    """OpenSSL asks for a pass phrase."""


def _no_password() -> str:
    raise _Encrypted  # it would be asked for on the terminal


def _load_authorities(context: ssl.SSLContext, ca: Path) -> None:
    _check_readable(ca)
    try:
        context.load_verify_locations(cafile=ca)
    except ssl.SSLError as error:
        raise TlsFailed(f"{ca}: holds no certificate in PEM") from error


def _check_readable(path: Path | None) -> None:
    try:
        if path is not None:
            path.open("rb").close()
    except OSError as error:
        raise TlsFailed(f"{path}: {error.strerror or type(error).__name__}") from error
