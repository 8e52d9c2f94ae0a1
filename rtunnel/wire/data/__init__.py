"""Data connections: keys, tickets, records, and the streams that follow one another on one connection."""
