"""What is known of the path: how long it takes, what it loses, how much it holds, how large its packets may be."""
