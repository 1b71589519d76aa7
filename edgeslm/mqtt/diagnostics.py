"""Connection diagnostics: messages that say what is wrong with a broker or connection, and what to change.

The diagnostic messages are used by the daemon, ``edgeslm check --connect`` and the client for apps. Pure.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from edgeslm.errors import BrokerError
from edgeslm.mqtt.broker_address import BrokerAddress

SESSION_TAKEN_OVER = 0x8E
UNSUPPORTED_VERSION = 0x84
RETAIN_NOT_SUPPORTED = 0x9A
LOGIN_REFUSED = (0x86, 0x87, 0x8C)
PACKET_REFUSED = (0x81, 0x82, 0x90, 0x95, 0x99, 0x9B)
"""Reason codes with which a broker disconnects because it refuses a packet; resending the packet would fail
again."""


class SessionTakenOver(BrokerError):
    """Another client with the same client id has taken over the session."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why there is no connection.

    ``packet_refused``: the broker disconnected because of a packet. ``unanswered``: the broker didn't answer
    CONNECT. ``version_refused``: the broker doesn't support the MQTT version. ``fatal``: a retry can't help.
    ``taken_over``: another client has taken over the session.
    """

    sentence: str
    packet_refused: bool = False
    unanswered: bool = False
    version_refused: bool = False
    fatal: bool = False
    taken_over: bool = False


@dataclass(frozen=True, slots=True)
class Welcome:
    """Values granted in a CONNACK (MQTT 5 section 3.2.2.3).

    ``maximum_packet_size`` is in bytes, or None if there is no limit; ``session_expiry_s`` is the granted
    value, which may be below the requested one.
    """

    session_present: bool
    receive_maximum: int
    maximum_packet_size: int | None
    maximum_qos: int
    retain_available: bool
    wildcards_available: bool
    session_expiry_s: int
    mqtt5: bool = True
    identifiers_available: bool = True
    shared_available: bool = True

    def fault_of(self, topic_filter: str) -> str | None:
        """Why a subscription that the broker accepts brings nothing; None if it brings messages. RabbitMQ
        accepts shared subscriptions, which it doesn't have."""
        is_shared = topic_filter.startswith("$share/")
        return "it has no shared subscriptions" if is_shared and not self.shared_available else None


def connection_failure(address: BrokerAddress, error: Exception) -> Problem:
    """Converts the exception of a connection that broke, or could not be opened, to a problem."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Problem(
            f"The certificate of the broker at {address} isn't trusted ({error.verify_message}); name the "
            "certificate authority that signed it as ca_file, and connect by a name in the certificate."
        )
    if isinstance(error, ssl.SSLError):
        return Problem(
            f"No TLS connection to the broker at {address} ({_ssl_reason(error)}); is this its TLS port, and "
            "does it want a client certificate (cert_file and key_file)?"
        )
    if isinstance(error, socket.gaierror):
        return Problem(
            f"The broker's host name {address.host!r} isn't known; check the spelling and the DNS."
        )
    if isinstance(error, ConnectionRefusedError):
        return Problem(f"Nothing listens at {address}; is the broker running, and is the port right?")
    if isinstance(error, TimeoutError):
        return Problem(f"The broker at {address} doesn't answer; check host, port and firewall.")
    if isinstance(error, OSError):
        hint = "; is this its TLS port?" if address.tls else "."
        return Problem(f"The broker at {address} can't be reached ({error.strerror or error}){hint}")
    return Problem(f"The connection to the broker at {address} broke ({type(error).__name__}).")


def _ssl_reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def refusal(address: BrokerAddress, reason: ReasonCode) -> Problem:
    """Why a broker refused a connection, from the reason code of its CONNACK."""
    if reason.value == UNSUPPORTED_VERSION:
        return Problem(
            f"The broker at {address} speaks no MQTT 5, which a node needs for at-least-once delivery; use "
            "one that does, such as mosquitto 1.6 or newer. (Apps and sensors may use MQTT 3.1.1.)",
            version_refused=True,
            fatal=True,
        )
    if reason.value in LOGIN_REFUSED:
        login = (
            f"the user {address.login.username!r} or its password"
            if address.login.username
            else "a login without a user"
        )
        return Problem(
            f"The broker at {address} refuses {login} ({reason.getName()}); check username and "
            "password_file, and what the broker allows."
        )
    if reason.value == RETAIN_NOT_SUPPORTED:
        return Problem(
            f"The broker at {address} keeps no retained messages, which the node's state needs; allow them "
            "(mosquitto: retain_available true)."
        )
    return Problem(f"The broker at {address} refuses the connection: {reason.getName()}.")


def silent_refusal(address: BrokerAddress) -> Problem:
    """Returns the problem to report for a broker that closed the connection instead of answering CONNECT."""
    # With TLS 1.3, a missing client certificate is refused only after the client's handshake is complete.
    wants = ", and does it want a client certificate (cert_file and key_file)" if address.tls else ""
    sentence = f"The broker at {address} hung up without an answer; does it speak MQTT 5{wants}?"
    return Problem(sentence, unanswered=True)


def hang_up(address: BrokerAddress, reason: ReasonCode) -> Problem:
    """Why a broker ended a connection, from the reason code of its DISCONNECT."""
    if reason.value == SESSION_TAKEN_OVER:
        return Problem(
            f"Another client took over this node's session at the broker {address}: two nodes have the same "
            "name. Give this one another `node`, or stop the other.",
            fatal=True,
            taken_over=True,
        )
    sentence = f"The broker at {address} ended the connection: {reason.getName()}."
    return Problem(sentence, packet_refused=reason.value in PACKET_REFUSED)


def no_mqtt_5(address: BrokerAddress) -> Problem:
    """Returns the problem to report for a broker without MQTT 5 that closes the connection instead of
    answering with the reason code Unsupported Protocol Version."""
    return refusal(address, ReasonCode(PacketTypes.CONNACK, identifier=UNSUPPORTED_VERSION))


def shortcomings(welcome: Welcome, *, session_expiry_s: int, packet_limit: int) -> list[str]:
    """Warnings about features that a node needs and a connected broker lacks."""
    found = []
    if not welcome.mqtt5:
        found.append(
            "The broker speaks only MQTT 3.1.1: a node works there, but without expiry, Response Topic and "
            "Correlation Data, and messages can be lost; use a broker with MQTT 5, such as mosquitto."
        )
    if welcome.maximum_qos < 1:
        found.append(
            "The broker offers no QoS 1, so requests and results can be lost; allow it "
            "(mosquitto: max_qos 2)."
        )
    if not welcome.retain_available:
        found.append(
            "The broker keeps no retained messages, so apps can't see the node's state; allow them "
            "(mosquitto: retain_available true)."
        )
    if not welcome.wildcards_available:
        found.append("The broker allows no wildcards in subscriptions, so requests can't arrive; allow them.")
    if session_expiry_s and welcome.session_expiry_s == 0:
        found.append(
            "The broker keeps no session for the node, so requests sent while it is offline, and unanswered "
            f"ones when a connection breaks, are lost; allow sessions of {session_expiry_s} s there."
        )
    elif welcome.session_expiry_s < session_expiry_s:
        found.append(
            f"The broker keeps the node's session for {welcome.session_expiry_s} s instead of "
            f"{session_expiry_s} s, so requests sent while the node is away longer are lost; raise its limit "
            "for sessions."
        )
    if welcome.maximum_packet_size is not None and welcome.maximum_packet_size < packet_limit:
        found.append(
            f"The broker takes packets of {welcome.maximum_packet_size} bytes and the node's "
            f"limits.packet_bytes is {packet_limit}; raise the broker's limit (mosquitto: max_packet_size) "
            "or lower the node's."
        )
    return found


def reservations(welcome: Welcome, *, queue: int) -> list[str]:
    """Notes about settings of the broker that limit the speed, and about settings that a client can't
    check."""
    found = []
    if welcome.mqtt5 and welcome.receive_maximum < queue:
        found.append(
            f"The broker takes {welcome.receive_maximum} messages of a client at a time, limits.queue is "
            f"{queue}: bursts are slower. Raise it there for speed (mosquitto: max_inflight_messages)."
        )
    found.append(
        "Not checked: whether the broker keeps sessions and messages over its own restart (mosquitto: "
        "persistence true, autosave_interval, persistent_client_expiration)."
    )
    return found
