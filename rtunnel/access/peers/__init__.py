"""Whom an end of the WebRTC tunnel trusts: fingerprints, the files that list them, and CAs."""
