"""How much: the bandwidth of tunnels, visitors and clients, and their monthly quotas."""
