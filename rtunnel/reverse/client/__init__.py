"""``rtunnel-client``: a link to the server, and the local services that its visitors reach."""
