#!/usr/bin/env bash
# dnspython 2.9.2 rejects a whole multicast DNS answer because of its NSEC record; zeroconf 0.150.0 reads it.
#
# A responder that has an IPv4 address and no IPv6 address says so by an NSEC record beside its A record (RFC 6762,
# section 6.1). Its Next Domain Name is the owner's own name, and RFC 6762, section 18.14, asks for name compression
# there too, unlike unicast DNS (RFC 4034, section 4.1.1). dnspython forbids it, so from_wire() raises, and the A record
# is lost with the rest.
# Chromium answers in this form for the .local names that hide its addresses in WebRTC. aioice 0.13 parses such answers
# with dnspython, so it cannot look these names up.
#
# Expected: the A record is there. Seen: DecompressionForbidden; with continue_on_error=True the A record is there.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install dnspython==2.9.2 zeroconf==0.150.0
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import struct
import sys

import dns.exception
import dns.message
import zeroconf

ANSWER, CACHE_FLUSH_IN, A, NSEC = 0x8400, 0x8001, 1, 47
name = b"\x04host\x05local\x00"
to_name = struct.pack("!H", 0xC000 | 12)
address = name + struct.pack("!HHIH", A, CACHE_FLUSH_IN, 120, 4) + bytes([192, 0, 2, 1])
# Next Domain Name, then one window of the type bitmap: type A exists.
exists = to_name + b"\x00\x01\x40"
nsec = to_name + struct.pack("!HHIH", NSEC, CACHE_FLUSH_IN, 120, len(exists)) + exists
wire = struct.pack("!6H", 0, ANSWER, 0, 1, 0, 1) + address + nsec

for package in ("dnspython", "zeroconf"):
    print(package, importlib.metadata.version(package))
answers = zeroconf.DNSIncoming(wire).answers()
print("zeroconf:", [type(answer).__name__ for answer in answers])
try:
    dns.message.from_wire(wire)
    raised = "nothing"
except dns.exception.DNSException as error:
    raised = type(error).__name__
print("dnspython raises", raised)
partly = dns.message.from_wire(wire, continue_on_error=True)
print("dnspython with continue_on_error:", [str(each) for each in partly.answer], partly.errors)
as_seen = raised != "nothing" and len(answers) == 2 and len(partly.answer) == 1 and len(partly.errors) == 1
sys.exit(0 if as_seen else "changed: see what is new")
PYTHON
