"""``rtunnel host`` and ``rtunnel connect`` as commands: with invitations, besides what the plugins of twistd have."""
