"""The WebRTC tunnel, as a host or client of a configuration would find it.

::

    name -- route -- port -- signaling      of each signaling server
    identity
    addresses
    STUN
    TURN          one for each server
    service       one for each of a host's
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IAddress

from rtunnel.addresses import DialAddress
from rtunnel.doctor.dates import check_begun, check_end
from rtunnel.doctor.local import LocalService, examine_services
from rtunnel.doctor.reach import Reach
from rtunnel.doctor.steps import WITHIN, Examination, Found, Status, Step, Trouble
from rtunnel.errors import ConfigError
from rtunnel.pki.certificates import hosts_of
from rtunnel.relay.sockets import QuietFactory, format_host_port
from rtunnel.rtc.aiortc.addresses import local_addresses, show_interfaces
from rtunnel.rtc.aiortc.bridge import adopt_python_logging
from rtunnel.rtc.aiortc.nat_kind import Nat, NoStun, allocate, look
from rtunnel.rtc.rights.trusted import describe, known_identity, trust_of
from rtunnel.rtc.settings import EndSettings, HostSettings, SignalUrl, TurnServer
from rtunnel.rtc.signaling.client_protocol import ClientProtocol, WebSocketFactory
from rtunnel.tls.identity import expiry_warning, show_end
from rtunnel.tls.web_client import ServerCheck
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.signaling import AS_CLIENT, REGISTER_HOST, Signal, encode_signal

#: Addresses that are named.
_MOST_ADDRESSES = 8
_NO_UDP = (
    "Where UDP does not get out, only a TURN server over TCP helps: --turn-server 'turn:HOST:443?transport=tcp', or "
    "turns: for TLS."
)
_IDENTITY_ADVICE = "Without it this end does not start; the text says what is wrong, and mostly how to mend it."


class _Dial(QuietFactory):
    """The factory of one attempt, whose protocol has a factory of its own."""

    def __init__(self, build: Callable[[], ClientProtocol]) -> None:
        self._build = build

    def buildProtocol(self, addr: IAddress | None) -> ClientProtocol:
        return self._build()


class _Owner:
    """Registers under a random ID, and hears no more than that this has worked.

    :ivar registered_as: fires with whether the server is a reference server.
    """

    def __init__(self) -> None:
        self.registered_as: Deferred[bool] = Deferred()

    def registration(self, is_reference: bool) -> bytes:
        """See :class:`~rtunnel.rtc.signaling.client_protocol.Owner`."""
        payload = None if is_reference else AS_CLIENT
        return encode_signal(Signal(REGISTER_HOST, payload, sender_id=str(uuid.uuid4())))

    def registered(self, is_reference: bool) -> None:
        """See :class:`~rtunnel.rtc.signaling.client_protocol.Owner`."""
        if not self.registered_as.called:
            self.registered_as.callback(is_reference)

    def message_received(self, message: bytes, is_binary: bool) -> str:
        """See :class:`~rtunnel.rtc.signaling.client_protocol.Owner`. Nobody knows our ID, so it is a complaint."""
        return clean_text(message.decode("utf-8", "replace"))


def _in_loop(work: Coroutine[Any, Any, Any]) -> Deferred[Any]:
    return Deferred.fromFuture(asyncio.ensure_future(work))


class WebRtcExamination(Examination):
    """Examines what a host or a client of the WebRTC tunnel needs.

    :param settings: those of the host or client.
    """

    def __init__(self, reactor: Any, settings: EndSettings, tell: Callable[[Step], None]) -> None:
        super().__init__(reactor, tell)
        self._settings = settings

    async def examine(self) -> None:
        """Run all steps."""
        adopt_python_logging()
        settings = self._settings
        for number, url in enumerate(settings.signal.url.all, 1):
            await self._examine_server(url, f" {number}" if number > 1 else "")
        await self.step("identity", self._identity)
        await self.step("addresses", self._addresses)
        await self.step("STUN", self._stun)
        for server in settings.ice.turn_servers:
            await self.step("TURN", partial(self._turn, server))
        if isinstance(settings, HostSettings):
            services = []
            for each in settings.services:
                name = f"service '{each.name}'" if each.name else "the default service"
                local = each.remote
                if not isinstance(local, DialAddress):
                    local = DialAddress.parse_udp(format_host_port(local.host or "127.0.0.1", local.port))
                services.append(LocalService(name, local, is_udp=each.protocol == "udp"))
            await examine_services(self, services)

    async def _examine_server(self, url: SignalUrl, suffix: str) -> None:
        address = DialAddress.parse(format_host_port(url.host, url.port))
        reach = Reach(
            self.reactor,
            address,
            "the signaling server",
            f"Start rtc-signal on that machine, and compare its --addr with {url}. If it listens on 127.0.0.1 only, "
            "give it another address.",
        )
        name, route, port = (each + suffix for each in ("name", "route", "port"))
        await self.step(name, reach.name)
        await self.step(route, reach.route, name)
        await self.step(port, reach.port, route)
        await self.step(f"signaling{suffix}", partial(self._signaling, url, address), port)

    async def _signaling(self, url: SignalUrl, address: DialAddress) -> Found:
        settings = replace(self._settings.signal, connect_timeout=WITHIN, url=url)
        owner = _Owner()
        tls = ServerCheck(url.host, settings.ca_file) if url.secure else None
        build = partial(
            ClientProtocol,
            self.reactor,
            WebSocketFactory(self.reactor),
            owner,
            settings,
            self.reactor.seconds() + WITHIN,
            tls,
        )
        factory: Any = _Dial(build)
        endpoint = address.endpoint(self.reactor, WITHIN)
        protocol: Any = await (endpoint.connect(factory) if tls is None else tls.connect(endpoint, factory))
        # Whichever comes first.
        both: Any = DeferredList([owner.registered_as, protocol.ended], fireOnOneCallback=True)
        try:
            result, number = await both
        except BaseException:
            protocol.give_up("the doctor leaves")
            raise
        if number:
            raise Trouble(clean_text(str(result)), _advice(str(result)))
        handle = protocol.transport.getHandle() if tls is not None else None
        secured, warning = _secured(handle) if handle is not None else ("", "")
        protocol.leave()
        proof = "with the token" if settings.token else "without a token"
        who = "a reference server" if result else "an rtc-signal"
        text = f"{who} lets us in {proof}{secured}"
        if warning:
            return Found(f"{text}; {warning}", f"On the signaling server: {warning}.", Status.WARN)
        return Found(text)

    async def _identity(self) -> Found:
        settings = self._settings
        try:
            identity, trust = known_identity(settings), trust_of(settings)
        except ConfigError as error:
            raise Trouble(clean_text(str(error)), _IDENTITY_ADVICE) from error
        own = () if identity is None else (identity.certificate, *identity.chain)
        check_begun(own)
        for each in own:
            check_end(each)
        warning = next((text for each in own if (text := expiry_warning(each))), "")
        if identity is None:
            who = "it gets its identity at its first start"
        else:
            second = "" if identity.second is not None else ", no second key"
            found = describe(identity, trust)
            who = f"fingerprint {found['fingerprint']}, {found['signature']}{second}"
        mixed = f"; with --hedge {','.join(settings.hedge)}" if settings.hedge else ""
        if trust.is_closed:
            whom = "closed: it is told whom to trust"
        elif isinstance(settings, HostSettings):
            whom = "open: it serves everybody whom the signaling server lets in"
        else:
            whom = "open: it trusts whomever the signaling server shows as the host"
        if warning:
            return Found(f"{who}{mixed}; {whom}; {warning}", f"{warning}.", Status.WARN)
        return Found(f"{who}{mixed}; {whom}")

    async def _addresses(self) -> Found:
        interfaces = self._settings.ice.interfaces
        found = local_addresses(interfaces)
        if not found:
            which = f"fits --ice-interface {', '.join(interfaces)}" if interfaces else "but loopback ones"
            raise Trouble(
                f"this machine has no address that {which}; it has {show_interfaces()}"
                if interfaces
                else f"this machine has no addresses {which}; it has {show_interfaces()}",
                "Bring the network up, or name what may be offered with --ice-interface.",
            )
        more = f" and {len(found) - _MOST_ADDRESSES} more" if len(found) > _MOST_ADDRESSES else ""
        return Found(f"offers {', '.join(found[:_MOST_ADDRESSES])}{more}")

    async def _stun(self) -> Found:
        ice = self._settings.ice
        if ice.stun_server is None:
            return Found("no STUN server is configured: only addresses of this machine are offered", "", Status.SKIPPED)
        second = next(((each.host, each.port) for each in ice.turn_servers if each.transport == "udp"), None)
        server = format_host_port(*ice.stun_server)
        try:
            nat: Nat = await _in_loop(look(ice.stun_server, second))
        except (NoStun, OSError) as error:
            text = f"{server} does not answer: {error}"
            if ice.turn_servers:
                return Found(
                    text, f"Does UDP get out of this network, and is --stun-server right? {_NO_UDP}", Status.WARN
                )
            raise Trouble(text, f"Does UDP get out of this network, and is --stun-server right? {_NO_UDP}") from error
        return self._of(nat, server)

    def _of(self, nat: Nat, server: str) -> Found:
        public, local = format_host_port(*nat.public), format_host_port(*nat.local)
        if nat.is_none:
            return Found(f"no NAT: {server} sees {public}, as this machine does")
        text = f"a NAT: {local} is {public} to {server}"
        filters = f"; answers may come from {nat.answers_from}" if nat.answers_from else ""
        if nat.is_same is None:
            return Found(f"{text}; whether it is the same to others is not known: there is no second server to ask")
        if nat.is_same:
            return Found(f"{text}, and the same to others, so direct paths are possible{filters}")
        has_relay = bool(self._settings.ice.turn_servers)
        return Found(
            f"{text}, and another to others (a symmetric NAT), so direct paths need a peer without one{filters}",
            "" if has_relay else "Add a TURN server (--turn-server) for peers that have such a NAT too.",
            Status.OK if has_relay else Status.WARN,
        )

    async def _turn(self, server: TurnServer) -> Found:
        try:
            relayed = await _in_loop(allocate(self._settings.ice, server))
        except NoStun as error:
            raise Trouble(f"{server}: {clean_text(str(error))}", _turn_advice(str(error), server)) from error
        return Found(f"{server} relays at {format_host_port(*relayed)}")


def _secured(handle: Any) -> tuple[str, str]:
    """Return how a connection is secured, and a warning about its certificate."""
    certificate = handle.get_peer_certificate(as_cryptography=True)
    version = handle.get_protocol_version_name()
    if certificate is None:
        return f", {version}", ""
    hosts = clean_text(", ".join(hosts_of(certificate)[:5])) or "no host"
    return f", {version}, certificate for {hosts} until {show_end(certificate)}", expiry_warning(certificate)


def _advice(text: str) -> str:
    for part, remedy in (
        ("token", "Give the token that the server has in --valid-tokens with --token, or RTUNNEL_TOKEN."),
        ("wss://", "Write wss:// in --signal."),
        ("ws://", "Write ws:// in --signal, or let the server have a certificate."),
        ("clocks", "Set the clocks of both machines; 'timedatectl' shows whether they are synchronized."),
        (
            "expired",
            "Renew the certificate of the signaling server. If it has not expired, this machine's clock is wrong.",
        ),
        ("--ca-file", "Name the file with the CA of the server's certificate with --ca-file."),
        ("its certificate is refused", "Write the name that the certificate is for in --signal."),
        ("404", "Correct the path in --signal."),
    ):
        if part in text:
            return remedy
    return "Is that an rtc-signal, and does a proxy in front of it let WebSockets through?"


def _turn_advice(text: str, server: TurnServer) -> str:
    if "401" in text or "403" in text:
        return "Compare --turn-user and --turn-credential, or --turn-secret, with the server's, and both clocks."
    way = f"{'TCP' if server.transport == 'tcp' else 'UDP'} port {server.port}"
    return f"Is the TURN server running at {server.host}, and does {way} get there? {_NO_UDP}"
