#!/usr/bin/env bash
# acme 5.9.0 with josepy 2.2.0 changes the token of an HTTP-01 challenge.
#
# A token is text in the base64url alphabet, and the client answers at /.well-known/acme-challenge/TOKEN with
# TOKEN.THUMBPRINT (RFC 8555, sections 8.1 and 8.3). Nothing says that it is the encoding of bytes. The library decodes
# it and encodes it anew. If its last character has bits beyond whole bytes that are not zero, it comes back as another
# character, and so path and key authorization are those of another token. A challenge of a kind that the library does
# not know, as TLS-ALPN-01 by now, keeps its token.
#
# Expected: the token, as it was sent. Seen: another last character for http-01 only, also in the path to answer at.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install acme==5.9.0 josepy==2.2.0
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import sys

from acme.challenges import Challenge

for package in ("acme", "josepy"):
    print(package, importlib.metadata.version(package))
token = "an-example_of-a-token-with-43-characters-77"
assert len(token) == 43
read = {kind: Challenge.from_json({"type": kind, "token": token}) for kind in ("http-01", "tls-alpn-01")}
tokens = {kind: challenge.to_partial_json()["token"] for kind, challenge in read.items()}
for kind, found in tokens.items():
    print(f"{kind}: sent ...{token[-6:]}, came back ...{found[-6:]}")
path = read["http-01"].path
print("to be answered at", path)
as_seen = tokens["http-01"] != token and tokens["tls-alpn-01"] == token and not path.endswith(token)
sys.exit(0 if as_seen else "changed: see what is new")
PYTHON
