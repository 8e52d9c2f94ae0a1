"""Who is at the other end, and what it may do: TLS policy, certificates, tokens, rights."""
